"""A server that `bench_speed.py` asks, and the record of what it gave."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from service.bench.address import Address
from service.bench.closed_loop import ClosedLoop
from service.bench.connection import Connection
from service.bench.description import Described
from service.bench.open_loop import OpenLoop
from service.bench.samples import REFUSED, Figures
from service.bench.scenario import Scenario, Wanted, make_scenario

_RETRY = b"\r\nretry-after:"
_KEPT = ("answered", "per_s", "refused", "errors", "latency_ms", "late_ms", "batch_size", "generator_cpu")


@dataclass
class Record:
    """What was measured.

    Attributes:
        measured: values by name, one a round.
        loads: what became of each load, by its name, in each round.
        notes: what whoever reads the figures must know.
        failed: parts that were not measured to the end.
    """

    measured: dict[str, list[float]] = field(default_factory=dict)
    loads: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """Put a measurement beside the others of its name."""
        self.measured.setdefault(name, []).append(value)

    def note(self, text: str) -> None:
        """Say something, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def noting(self, *parts: str) -> Iterator[None]:
        """Note it if one of these parts fails; what others have measured is not lost by it."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            self.failed.extend(parts)
            self.note(f"{', '.join(parts)}: not measured to the end: {str(error) or type(error).__name__}")
            tell(self.notes[-1])


class Bench:
    """A server with models, what is asked of it, and where it is put what it gave.

    Args:
        address: of the server.
        record: of what is measured.
        seconds: for which a load is measured,
        warm_up_s: after it has been on for so long.
    """

    def __init__(self, address: Address, record: Record, *, seconds: float, warm_up_s: float) -> None:
        self.address = address
        self.record = record
        self.seconds = seconds
        self.warm_up_s = warm_up_s
        self._scenarios: dict[tuple[str, str], Scenario] = {}

    def asked(self, model: str, protocol: str) -> Scenario:
        """What is asked of a model by a protocol: a row or a picture at a time."""
        if (model, protocol) not in self._scenarios:
            described = Described.of(self.address, model)
            scenario = make_scenario(self.address, Wanted(model, protocol=protocol), described)
            self._scenarios[model, protocol] = scenario
        return self._scenarios[model, protocol]

    def closed(self, name: str, model: str, protocol: str, clients: int) -> Figures:
        """So many clients, each of which asks again when it was answered."""
        loop = ClosedLoop(
            self.address,
            self.asked(model, protocol).requests,
            clients=clients,
            warm_up_s=self.warm_up_s,
            seconds=self.seconds,
        )
        return self.keep(name, Figures.of(loop.run()))

    def keep(self, name: str, figures: Figures) -> Figures:
        """Put figures beside the others of their load."""
        content = dataclasses.asdict(figures)
        self.record.loads.setdefault(name, []).append({key: content[key] for key in _KEPT if content[key] is not None})
        p50 = f", p50 {figures.latency_ms.p50:.2f} ms" if figures.latency_ms else ""
        tell(f"{name}: {figures.per_s:,.1f} answers/s{p50}")
        if figures.errors:
            self.record.note(f"{name}: {figures.errors} {figures.error}".rstrip())
        return figures


class Counting(OpenLoop):
    """An open loop that looks whether those who are refused are told when to come again."""

    told = 0

    @property
    def most_connections_at_once(self) -> int:
        """How many it needed."""
        return self._most_at_once

    def answered(self, connection: Connection, now: float) -> None:
        """See `Load.answered`."""
        if connection.answer.status == REFUSED and self._measures(connection.due):
            self.told += _RETRY in connection.answer.head
        super().answered(connection, now)


def tell(text: str) -> None:
    """Say how it goes."""
    print(text, file=sys.stderr, flush=True)
