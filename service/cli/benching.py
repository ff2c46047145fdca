"""The command that measures a server: `bench`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from service.bench.description import PROTOCOLS
from service.cli.parsing import Commands
from service.cli.reaching import find
from service.errors import NotFound
from service.settings import Settings

T = TypeVar("T", int, float)

_CLIENTS = (1, 8, 32, 64)


def add_commands(commands: Commands) -> None:
    """Add the command to those of `inferd`."""
    bench = commands.add_parser(
        "bench", help="measure a server under load, beside what ONNX Runtime alone gives of the same model"
    )
    bench.add_argument("--model", required=True)
    bench.add_argument("--model-version", type=int, help="default: the highest")
    bench.add_argument("--url", help="of a server that runs, http://127.0.0.1:8000; default: one is started, for this")
    bench.add_argument("--workers", help="of the server that is started (INFERD_WORKERS, default: auto)")
    asked = bench.add_argument_group("what is asked")
    asked.add_argument("--protocol", choices=PROTOCOLS, help="default: predict; of texts that grow generate-stream")
    asked.add_argument("--rows", type=int, default=1, help="of a request of tensors; default: 1")
    asked.add_argument("--parameters", type=_object, default={}, metavar="JSON", help="of every request")
    asked.add_argument("--input", type=Path, metavar="FILE", help="a picture, or a text a line; default: made up")
    asked.add_argument("--json", type=Path, metavar="FILE", help="the whole body of every request")
    load = bench.add_argument_group("load")
    load.add_argument("--clients", type=_numbers(int), help="each asks when it was answered; default: 1,8,32,64")
    load.add_argument("--rate", type=_numbers(float), help="requests a second, whatever became of others")
    load.add_argument("--arrivals", choices=["poisson", "even"], default="poisson", help="of these; default: poisson")
    load.add_argument("--connections", type=int, default=64, help="that these begin with; default: 64")
    load.add_argument("--seconds", type=float, default=5.0, help="of each load; default: 5")
    load.add_argument("--warm-up", type=float, default=1.0, help="seconds before these; default: 1")
    load.add_argument("--repeat", type=int, default=1, help="so often all of it, in turns; the median counts")
    limit = bench.add_argument_group("limit")
    limit.add_argument("--batch-sizes", type=_numbers(int), default=[1, 8, 32, 64], help="default: 1,8,32,64")
    limit.add_argument("--processes", type=_numbers(int), default=[1], help="of one thread each, e.g. 1,2; default: 1")
    limit.add_argument("--no-limit", action="store_true", help="do not measure it")
    bench.add_argument("--output", type=Path, metavar="FOLDER", help="JSON and a plot are written into it")
    bench.set_defaults(run=_bench)


def _bench(settings: Settings, given: argparse.Namespace) -> int:
    from service.bench.address import Address
    from service.bench.limit import Limit
    from service.bench.measure import measure
    from service.bench.own_server import own_server
    from service.bench.plan import Plan
    from service.bench.plot import plot
    from service.bench.report import report
    from service.bench.scenario import Wanted

    if given.url and given.workers:
        raise ValueError("--workers are of a server that is started for this; --url names one that runs")
    clients = _CLIENTS if given.clients is None and given.rate is None else given.clients or ()
    plan = Plan(
        clients=clients,
        rates=given.rate or (),
        arrivals=given.arrivals,
        connections=given.connections,
        seconds=given.seconds,
        warm_up_s=given.warm_up,
        rounds=given.repeat,
        batch_sizes=given.batch_sizes,
        processes=given.processes,
    )
    if not 1 <= given.rows <= 4096:
        raise ValueError(f"--rows may be from 1 to 4096, not {given.rows}")
    wanted = Wanted(
        given.model, given.model_version, given.protocol, given.rows, given.parameters, given.input, given.json
    )
    address = Address.of(given.url) if given.url else None
    with _ending_in_order(), ExitStack() as running:
        limit, no_limit = None, "it was not asked for"
        if not given.no_limit:
            try:
                limit = running.enter_context(Limit(find(settings, given), settings, max(plan.processes)))
            except (NotFound, FileNotFoundError, ValueError) as error:
                no_limit = str(error)
        if not address:
            find(settings, given)
            _tell("a server is started")
            address = running.enter_context(own_server(settings, given.model))
        workers = None if given.url else settings.workers
        result = measure(address, wanted, plan, workers=workers, limit=limit, no_limit=no_limit, tell=_tell)
    print(report(result))
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        name = f"{given.model}-{result.scenario['protocol']}"
        content = json.dumps(result.to_json(), indent=2, ensure_ascii=False)
        (given.output / f"{name}.json").write_text(content + "\n", encoding="utf-8")
        (given.output / f"{name}.svg").write_text(plot(result), encoding="utf-8")
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Have SIGTERM end this process as an exit does, so that what it started is ended too."""

    def end(*_: object) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _numbers(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """How numbers are read that stand side by side, with commas."""

    def read(text: str) -> list[T]:
        try:
            return [kind(one) for one in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be numbers such as 1,8,32, not {text!r}") from error

    return read


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError('must be an object such as {"temperature": 0}')
    return content
