"""Whether inferd keeps what it promises of its speed on plain networks: ratios to ONNX Runtime alone, and some bounds.

`make bench-speed`, or with the environment that serves `.venv/serve/bin/python loadtests/bench_speed.py`. The networks
are residual ones with random weights (`resnets.py`), written into a temporary folder; the load is that of `inferd
bench`, on a server of its own with two workers and otherwise the settings of the environment. Server and load share the
machine. In parts, which `--parts` chooses of:

- `share`: ResNet-20 for 28 x 28 pixels asked a row at a time by 32 and 64 clients, as binary tensors in float32 and in
  int8, as JSON, and as PNG; by what two processes of one thread give that run it in a bare loop on 8 rows at once.
- `alone`: one client; how long it waits for an answer, by how long ONNX Runtime takes for a row: of ResNet-20 on one
  thread, and of ResNet-18 for 224 x 224 pixels on two, while somebody else asks whether the server is alive.
- `growth`: throughput with 32, 64, 128, 256 and 512 clients.
- `overload`: requests that come whether or not others were answered, 80 % as many as the server can answer and 150 %.
- `memory`: what a server holds after 10,000 requests and after 100,000, of all sizes and kinds, wrong ones too.
- `cuda`: where ONNX Runtime has CUDA, ResNet-50 on a GPU by one worker.

The first three are measured in turns, `--repeat` times, and medians count; the others once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import resnets
from benching import hardware
from classifier import write_classifier
from processes import children_of, resident_mb
from promises import PARTS, flatness, summary, table
from speed import Bench, Counting, Record, tell

from service.bench import inputs
from service.bench.address import Address
from service.bench.arrivals import arrivals
from service.bench.asking import Asking
from service.bench.closed_loop import ClosedLoop
from service.bench.description import BINARY, INFER, PREDICT
from service.bench.limit import Limit
from service.bench.measure import allow_sockets
from service.bench.messages import Request
from service.bench.open_loop import OpenLoop
from service.bench.own_server import own_server
from service.bench.plan import MOST_CLIENTS
from service.bench.samples import Figures
from service.repository.scan import BundleFolder
from service.settings import Settings

SMALL, SMALL_INT8, LARGE, PICTURES, GPU = "resnet-20", "resnet-20-int8", "resnet-18", "resnet-20-pictures", "resnet-50"
WORKERS: Final = 2
LIMIT_ROWS: Final = 8
ASKED: Final = {
    "binary fp32": (SMALL, BINARY),
    "binary int8": (SMALL_INT8, BINARY),
    "json fp32": (SMALL, INFER),
    "png fp32": (PICTURES, PREDICT),
}
CLIENTS: Final = (32, 64)
GROWTH: Final = (32, 64, 128, 256, 512)
UNDER, OVER = 0.8, 1.5
"""Of the capacity: what an open loop asks for."""

_WINDOW_S, _WINDOWS = 0.2, 7
"""A bare run is timed in so many windows, and the median counts, as that of the answers does."""
_LIVE_RATE, _LIVE_CONNECTIONS = 50.0, 4
_SETTLES_S = 1.0
_MEMORY_S = 900.0
"""The longest that the part memory may ask."""


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=parts, default=PARTS, help=f"default: {','.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load; default: 4")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before these; default: 1")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of what is measured in turns; default: 5")
    parser.add_argument("--overload-seconds", type=float, default=60.0, help="of each open loop; default: 60")
    parser.add_argument("--requests", type=int, default=100_000, help="of the part memory; default: 100000")
    parser.add_argument("--output", type=Path, help="a folder: speed.json and speed.md are written into it")
    given = parser.parse_args()
    allow_sockets(MOST_CLIENTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server is ended too
    with tempfile.TemporaryDirectory() as folder:
        # Times that another run has left would decide in this one how many rows are gathered, and these would later.
        os.environ["INFERD_PROFILE_CACHE"] = str(Path(folder) / "profiles")
        os.environ["INFERD_DEVICE"] = "cpu"  # of the part cuda, another
        record = Record()
        measure(Path(folder) / "models", given, record)
    result = {
        "machine": hardware(),
        "plan": {name: value for name, value in vars(given).items() if name != "output"},
        "lines": summary(record.measured),
        "measured": record.measured,
        "loads": record.loads,
        "notes": record.notes,
    }
    written = report(result)
    print(written)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.output / "speed.md").write_text(written + "\n", encoding="utf-8")
    if record.failed:
        sys.exit(f"not measured to the end: {', '.join(record.failed)}")


def measure(models: Path, given: argparse.Namespace, record: Record) -> None:
    """All parts that were asked for. One that fails is noted, and the others are measured all the same."""
    settings = Settings(models=models, workers=WORKERS)
    for name in (SMALL, SMALL_INT8, LARGE):
        resnets.write(models, name)
    write_classifier(models, PICTURES)
    together = [part for part in PARTS if part in given.parts and part not in ("memory", "cuda")]
    if together:
        tell("a server is started")
        with record.noting(*together), own_server(settings) as address:
            bench = Bench(address, record, seconds=given.seconds, warm_up_s=given.warm_up)
            with record.noting(*(part for part in together if part in IN_TURNS)):
                in_turns(bench, settings, [part for part in together if part in IN_TURNS], given.repeat)
            if "overload" in together:
                with record.noting("overload"):
                    overload(bench, given.overload_seconds)
    if "memory" in given.parts:
        with record.noting("memory"):
            memory(record, settings, given.requests)
    if "cuda" in given.parts:
        with record.noting("cuda"):
            cuda(record, settings, given)


def in_turns(bench: Bench, settings: Settings, named: Sequence[str], rounds: int) -> None:
    """Measure parts in turns, so that a machine that drifts drifts for all."""
    with ExitStack() as running:
        turns = [running.enter_context(IN_TURNS[part](bench, settings)) for part in named]
        for number in range(rounds if turns else 0):
            tell(f"round {number + 1} of {rounds}")
            for turn in turns:
                turn.go()
        for turn in turns:
            turn.end()


class Turn(ExitStack):
    """A part that is measured in turns with others; what it needs is ended with it.

    Args:
        bench: what is measured, and where it is put.
        settings: of the server.
    """

    def __init__(self, bench: Bench, settings: Settings) -> None:
        super().__init__()
        self.bench = bench
        self.settings = settings

    def go(self) -> None:
        """Measure once."""

    def end(self) -> None:
        """Say what follows from all rounds."""


class Share(Turn):
    """What clients get of what ONNX Runtime alone gives."""

    def __init__(self, bench: Bench, settings: Settings) -> None:
        super().__init__(bench, settings)
        self._limits = {model: self.enter_context(limit_of(settings, model, WORKERS)) for model in (SMALL, SMALL_INT8)}

    def go(self) -> None:
        """See `Turn.go`."""
        limits = {}
        for model, limit in self._limits.items():
            limits[model] = limit.measure(WORKERS, LIMIT_ROWS, self.bench.seconds / 2).units_per_s
            self.bench.record.add(f"limit, {model}", limits[model])
            tell(f"ONNX Runtime alone, {model}: {limits[model]:,.1f} rows/s")
        for name, (model, protocol) in ASKED.items():
            alone = limits[SMALL_INT8 if model == SMALL_INT8 else SMALL]
            for clients in CLIENTS:
                load = f"{name}, {clients} clients"
                figures = self.bench.closed(load, model, protocol, clients)
                self.bench.record.add(load, figures.units_per_s / alone)


class Alone(Turn):
    """How long one client waits, by how long a bare run takes."""

    def __init__(self, bench: Bench, settings: Settings) -> None:
        super().__init__(bench, settings)
        self._small = self.enter_context(limit_of(settings, SMALL, 1))
        self._large = self.enter_context(limit_of(settings, LARGE, 1, threads=WORKERS))

    def go(self) -> None:
        """See `Turn.go`."""
        bench = self.bench
        run_ms = bare_ms(self._small)
        bench.record.add("small, bare run ms", run_ms)
        bench.record.add("small alone", p50_ms(bench.closed("small, 1 client", SMALL, BINARY, 1)) / run_ms)
        run_ms = bare_ms(self._large)
        bench.record.add("large, bare run ms", run_ms)
        with ThreadPoolExecutor(1) as others:
            asked = others.submit(self._is_live)
            figures = bench.closed("large, 1 client", LARGE, BINARY, 1)
            live = bench.keep("live", asked.result())
        bench.record.add("large alone", p50_ms(figures) / run_ms)
        assert live.latency_ms, f"nobody said whether the server is live: {live}"
        bench.record.add("health", live.latency_ms.p99)

    def _is_live(self) -> Figures:
        """Ask whether the server is live, evenly, of all its workers."""
        bench = self.bench
        content = f"GET {bench.address.prefix}/v2/health/live HTTP/1.1\r\nhost: {bench.address.authority}\r\n\r\n"
        loop = OpenLoop(
            bench.address,
            [Request(content.encode())],
            due=arrivals(_LIVE_RATE, bench.warm_up_s + bench.seconds, "even"),
            connections=_LIVE_CONNECTIONS,
            most_connections=MOST_CLIENTS,
            warm_up_s=bench.warm_up_s,
            seconds=bench.seconds,
        )
        return Figures.of(loop.run())


class Growth(Turn):
    """Whether more clients get as much."""

    def __init__(self, bench: Bench, settings: Settings) -> None:
        super().__init__(bench, settings)
        self._rounds: list[dict[int, float]] = []

    def go(self) -> None:
        """See `Turn.go`."""
        self._rounds.append(
            {clients: self.bench.closed(f"growth, {clients}", SMALL, BINARY, clients).per_s for clients in GROWTH}
        )

    def end(self) -> None:
        """See `Turn.end`."""
        self.bench.record.add("growth", flatness(self._rounds))


IN_TURNS: Final[Mapping[str, Callable[[Bench, Settings], Turn]]] = {"share": Share, "alone": Alone, "growth": Growth}


def overload(bench: Bench, seconds: float) -> None:
    """Ask for less than the server can answer, and for more."""
    capacity = bench.closed("capacity, 64 clients", SMALL, BINARY, 64).per_s
    bench.record.add("capacity", capacity)
    under, _ = open_loop(bench, "80 % of capacity", UNDER * capacity, seconds)
    over, told = open_loop(bench, "150 % of capacity", OVER * capacity, seconds)
    assert under.latency_ms, f"nothing was answered: {under}"
    assert over.latency_ms, f"nothing was answered: {over}"
    failed = sum(over.errors.values())
    bench.record.add("patience", over.latency_ms.p99 / under.latency_ms.p99)
    bench.record.add("refusals", told / (over.refused + failed) if over.refused + failed else 1.0)
    bench.record.add("errors", float(failed + sum(under.errors.values())))
    bench.record.add("work", over.per_s / capacity)
    if not over.refused:
        bench.record.note(
            "at 150 % of capacity nothing was refused: the run was too short to fill the queue, or too slow"
        )


def open_loop(bench: Bench, name: str, rate: float, seconds: float) -> tuple[Figures, int]:
    """Requests that come at random, so many a second on average; and how many were told when to come again."""
    loop = Counting(
        bench.address,
        bench.asked(SMALL, BINARY).requests,
        due=arrivals(rate, bench.warm_up_s + seconds, "poisson"),
        connections=64,
        most_connections=MOST_CLIENTS,
        warm_up_s=bench.warm_up_s,
        seconds=seconds,
    )
    figures = bench.keep(name, Figures.of(loop.run()))
    bench.record.add(f"connections at {name}", float(loop.most_connections_at_once))
    return figures, loop.told


def memory(record: Record, settings: Settings, requests: int) -> None:
    """Ask a fresh server for all sorts of things, and look what it holds after a tenth of them and after all."""
    before = children_of(os.getpid())
    with own_server(settings, SMALL, SMALL_INT8, PICTURES) as address:
        (server,) = children_of(os.getpid()) - before
        mixed = list(mixture(address))
        statuses: Counter[int] = Counter()
        lost: Counter[str] = Counter()
        held = []
        until = time.monotonic() + _MEMORY_S
        for wanted in (requests // 10, requests):
            while statuses.total() < wanted and time.monotonic() < until:
                loop = ClosedLoop(address, mixed, clients=32, warm_up_s=0, seconds=1.0)
                samples = loop.run()
                statuses += samples.statuses
                lost += samples.lost
            time.sleep(_SETTLES_S)
            held.append(resident_mb(server))
            tell(f"memory: {held[-1]:,.1f} MB after {statuses.total():,} requests, {dict(statuses)}")
    if lost:
        record.note(f"memory: requests without an answer: {dict(lost)}")
    if statuses.total() < requests:
        record.note(f"memory: only {statuses.total():,} requests were answered in {_MEMORY_S:g} s")
    if unexpected := set(statuses) - {200, 400, 404, 415}:
        record.note(f"memory: answers {sorted(unexpected)} were not expected: {dict(statuses)}")
    record.measured["resident MB"] = held
    record.add("memory", held[1] / held[0])


def mixture(address: Address) -> Iterator[Request]:
    """Requests of 1 to 32 rows, as binary tensors, JSON and pictures, and such that are wrong."""
    random = np.random.default_rng(1)
    shape = resnets.pictures(resnets.NETWORKS[SMALL], 1).shape[1:]
    small, int8, json_ = (
        Asking(address, *one) for one in ((SMALL, None, BINARY), (SMALL_INT8, None, BINARY), (SMALL, None, INFER))
    )
    pictures, nowhere = Asking(address, PICTURES, None, PREDICT), Asking(address, "nothing", None, BINARY)

    def rows(count: int) -> dict[str, tuple[str, np.ndarray]]:
        return {resnets.INPUT: ("FP32", inputs.tensor("FP32", (count, *shape), random))}

    for count in (1, 2, 1, 5, 1, 3, 1, 8, 1, 16, 1, 32):
        yield small.tensors(rows(count), {})
        yield int8.tensors(rows(count), {})
        yield json_.tensors(rows(max(1, count // 4)), {})
        yield pictures.raw(inputs.noise(shape[2], shape[1], shape[0], random), "image/png")
    yield small.tensors({resnets.INPUT: ("FP32", np.zeros((1, 3, 5, 5), np.float32))}, {})
    yield small.tensors({"unknown": ("FP32", np.zeros((1, *shape), np.float32))}, {})
    yield json_.raw(b'{"inputs": [', "application/json")
    yield pictures.raw(b"\x89PNG that is none", "image/png")
    yield nowhere.tensors(rows(1), {})


def cuda(record: Record, settings: Settings, given: argparse.Namespace) -> None:
    """Ask a large network on a GPU, where there is one."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        record.note(
            "cuda was not measured: ONNX Runtime has no CUDA here. On a machine with a GPU, in an environment made of "
            "requirements/serve-gpu.txt: python loadtests/bench_speed.py --parts cuda"
        )
        return
    os.environ["INFERD_DEVICE"] = "cuda"
    resnets.write(settings.models, GPU)
    alone = settings.model_copy(update={"workers": 1, "device": "cuda"})
    with limit_of(alone, GPU, 1) as limit, own_server(alone, GPU) as address:
        bench = Bench(address, record, seconds=given.seconds, warm_up_s=given.warm_up)
        for _ in range(given.repeat):
            most = max(limit.measure(1, rows, given.seconds / 2).units_per_s for rows in (LIMIT_ROWS, *CLIENTS))
            record.add(f"limit, {GPU}", most)
            for clients in CLIENTS:
                load = f"cuda, {clients} clients"
                record.add(load, bench.closed(load, GPU, BINARY, clients).units_per_s / most)


def limit_of(settings: Settings, model: str, processes: int, threads: int = 1) -> Limit:
    """Processes that run a model alone."""
    return Limit(BundleFolder(model, 1, settings.models / model / "1"), settings, processes, threads)


def bare_ms(limit: Limit) -> float:
    """How long a run takes for a row, in milliseconds."""
    return statistics.median(limit.measure(1, 1, _WINDOW_S).run_ms for _ in range(_WINDOWS))


def p50_ms(figures: Figures) -> float:
    """How long half of the answers took at most, in milliseconds."""
    assert figures.latency_ms, f"nothing was answered: {figures}"
    return figures.latency_ms.p50


def parts(text: str) -> tuple[str, ...]:
    """The parts that are named, with commas between them."""
    named = text.split(",")
    if unknown := [one for one in named if one not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return tuple(one for one in PARTS if one in named)


def report(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    plan, measured = result["plan"], result["measured"]
    lines = [
        "# Plain networks: what is promised, and what was measured",
        "",
        "Written by `make bench-speed`. On "
        + "; ".join(f"{name} {value}" for name, value in result["machine"].items())
        + ".",
        "",
        f"Parts {', '.join(plan['parts'])}; {plan['seconds']:g} s a load, {plan['repeat']} rounds; server and load "
        "share the cores.",
        "",
        *table(result["lines"]),
        "",
    ]
    for name, unit in OTHERS.items():
        if name in measured:
            lines.append(f"- {name}: {', '.join(f'{one:,.2f}' for one in measured[name])}{unit}")
    lines += [f"- {note}" for note in result["notes"]]
    return "\n".join(lines).rstrip()


OTHERS: Final[Mapping[str, str]] = {
    f"limit, {SMALL}": " rows/s",
    f"limit, {SMALL_INT8}": " rows/s",
    f"limit, {GPU}": " rows/s",
    "small, bare run ms": "",
    "large, bare run ms": "",
    "capacity": " answers/s",
    "connections at 80 % of capacity": "",
    "connections at 150 % of capacity": "",
    "resident MB": "",
}
"""What was measured beside what is promised."""


if __name__ == "__main__":
    main()
