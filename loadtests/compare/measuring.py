"""Measures all of them in turns, round after round, so that a machine that drifts drifts for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from loadtests.compare.peers import INFERD, Peer, Setting
from loadtests.compare.running import NotServed, ask, serving
from loadtests.compare.shared.compared_model import SHAPE, Model
from loadtests.compare.wires import Floats
from service.bench.address import Address
from service.bench.closed_loop import ClosedLoop
from service.bench.measure import allow_sockets, put_on
from service.bench.own_server import own_server
from service.bench.plan import Plan
from service.bench.samples import Figures
from service.bench.scenario import Scenario
from service.settings import Settings

Tell = Callable[[str], None]

_PICTURES: Final = 16
_CHECKED: Final = 4
_TOLERANCE: Final = 1e-4
_WARM_UP_S, _WARM_UP_CLIENTS = 1.0, 16
_TRIED_AGAIN: Final = 1
"""Times; after that a server that does not start, or breaks off, is left out."""
_COMES_NEAR: Final = 0.75
"""Of the rate of the open loop: a server that gives less to its clients is not asked for that much."""


@dataclass
class Server:
    """A server in one setting, and what was measured of it.

    Attributes:
        title: as it calls itself.
        setting: how it is set up.
        version: of it.
        start: starts it, so that it is asked for a picture at its address.
        closed: figures by number of clients, a round each.
        opened: of the open loop, a round each in which it could be asked for that much.
        problems: why it was not measured, a round each in which it was not.
    """

    title: str
    setting: Setting
    version: str
    start: Callable[[], AbstractContextManager[Address]]
    closed: dict[int, list[Figures]] = field(default_factory=dict)
    opened: list[Figures] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The server and its setting."""
        return f"{self.title}, {self.setting.name}" if self.setting.name else self.title


def pictures() -> list[Floats]:
    """What is asked: noise, always the same."""
    return list(np.random.default_rng(1).random((_PICTURES, *SHAPE), np.float32))


def inferd(models: Path, model: str, version: str, workers: int) -> Server:
    """This server, of this checkout, with the settings of the environment."""
    settings = Settings(models=models, workers=workers)
    return Server("inferd", INFERD, version, lambda: own_server(settings, model))


def others(peers: Sequence[Peer], model: Path, workers: int) -> Iterator[Server]:
    """The servers that inferd is compared with, each in each of its settings."""
    for peer in peers:
        for setting in peer.settings:
            yield Server(peer.title, setting, peer.version, _starting(peer, setting, model, workers))


def _starting(peer: Peer, setting: Setting, model: Path, workers: int) -> Callable[[], AbstractContextManager[Address]]:
    return lambda: serving(peer, setting, model, workers, pictures()[0])


def measure(servers: Sequence[Server], model: Path, plan: Plan, tell: Tell) -> None:
    """Measure servers, each round beginning with another of them; what comes of it is kept in them.

    Args:
        servers: all of them.
        model: the ONNX file that they serve.
        plan: with one rate at most.
        tell: is told how it goes.
    """
    allow_sockets(plan.sockets)
    expected = [Model(str(model)).run(one[np.newaxis])[0] for one in pictures()]
    for number in range(plan.rounds):
        first = number * len(servers) // plan.rounds
        for server in (*servers[first:], *servers[:first]):
            if len(server.problems) > _TRIED_AGAIN:
                continue
            try:
                with server.start() as address:
                    _measure(server, address, expected, plan, tell)
            except (NotServed, OSError, ValueError) as error:
                server.problems.append(str(error))
                tell(f"{server.name}: {error}")


def _measure(server: Server, address: Address, expected: Sequence[Floats], plan: Plan, tell: Tell) -> None:
    """One server in one round."""
    check(server.setting, address, expected)
    requests = [server.setting.wire.request(address, one) for one in pictures()]
    scenario = Scenario(server.title, requests, "pictures", server.setting.wire.about)
    ClosedLoop(address, requests, clients=_WARM_UP_CLIENTS, warm_up_s=_WARM_UP_S, seconds=0.1).run()
    most = 0.0
    for clients in plan.clients:
        figures = put_on(address, scenario, plan, clients, None)
        server.closed.setdefault(clients, []).append(figures)
        most = max(most, figures.per_s)
        tell(_line(server, f"{clients} at once", figures))
    for rate in plan.rates:
        if most < _COMES_NEAR * rate:
            tell(f"{server.name}: is not asked for {rate:,.0f}/s, as it gives {most:,.0f}/s")
            continue
        figures = put_on(address, scenario, plan, None, rate)
        server.opened.append(figures)
        tell(_line(server, f"{rate:,.0f}/s due", figures))


def check(setting: Setting, address: Address, expected: Sequence[Floats]) -> None:
    """See that a server answers what ONNX Runtime alone does.

    Raises:
        ValueError: it does not.
        OSError: it does not answer.
    """
    for picture, logits in list(zip(pictures(), expected, strict=True))[:_CHECKED]:
        status, body = ask(address, setting.wire.request(address, picture))
        if status != 200:
            raise ValueError(f"it answers {status}: {body[:200].decode(errors='replace')}")
        answered = setting.wire.logits(body)
        if answered.shape != logits.shape or not np.allclose(answered, logits, rtol=0, atol=_TOLERANCE):
            raise ValueError(f"it answers {answered[:3]}..., and ONNX Runtime alone {logits[:3]}...")


def _line(server: Server, load: str, figures: Figures) -> str:
    taken = figures.latency_ms
    times = f", p50 {taken.p50:.2f} ms, p99 {taken.p99:.2f} ms" if taken else ""
    failed = figures.refused + sum(figures.errors.values())
    bad = f", failed {failed}: {figures.errors} {figures.error}" if failed else ""
    return f"{server.name}: {load}: {figures.per_s:,.0f} answers/s{times}{bad}"
