"""Which loads are put on a server, for how long and how often, within bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.bench.arrivals import Arrivals

MOST_CLIENTS: Final = 4096
MOST_SECONDS: Final = 600.0
MOST_RATE: Final = 100_000.0
MOST_ROUNDS: Final = 100
MOST_LOADS: Final = 32
MOST_PROCESSES: Final = 64
MOST_ROWS: Final = 4096
MOST_REQUESTS: Final = 5_000_000
"""Of an open loop: when each is due is known before it begins."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        clients: of closed loops, one after the other.
        rates: of open loops likewise, in requests a second.
        arrivals: how those requests come.
        connections: that an open loop begins with.
        seconds: for which each load is measured,
        warm_up_s: after it has been on for so long.
        rounds: so often all of it, in turns, so that a machine that drifts drifts for all.
        batch_sizes: at which the limit is measured,
        processes: in so many processes at once.

    Raises:
        ValueError: a number is out of bounds, or there is nothing to measure.
    """

    clients: Sequence[int] = ()
    rates: Sequence[float] = ()
    arrivals: Arrivals = "poisson"
    connections: int = 64
    seconds: float = 5.0
    warm_up_s: float = 1.0
    rounds: int = 1
    batch_sizes: Sequence[int] = (1, 8, 32, 64)
    processes: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        if not 1 <= len(self.clients) + len(self.rates) <= MOST_LOADS:
            raise ValueError(f"--clients and --rate: from 1 to {MOST_LOADS} loads can be measured")
        _check("--clients", self.clients, 1, MOST_CLIENTS)
        _check("--rate", self.rates, 0.01, MOST_RATE)
        _check("--connections", [self.connections], 1, MOST_CLIENTS)
        _check("--seconds", [self.seconds], 0.1, MOST_SECONDS)
        _check("--warm-up", [self.warm_up_s], 0, MOST_SECONDS)
        _check("--repeat", [self.rounds], 1, MOST_ROUNDS)
        _check("--batch-sizes", self.batch_sizes, 1, MOST_ROWS)
        _check("--processes", self.processes, 1, MOST_PROCESSES)
        most = max(self.rates, default=0) * (self.seconds + self.warm_up_s)
        if most > MOST_REQUESTS:
            raise ValueError(f"--rate: {most:,.0f} requests would be due, and {MOST_REQUESTS:,} may be")

    @property
    def sockets(self) -> int:
        """How many connections there may be at once."""
        return max([*self.clients, MOST_CLIENTS if self.rates else 0])


def _check(name: str, given: Sequence[float], least: float, most: float) -> None:
    for one in given:
        if not (math.isfinite(one) and least <= one <= most):
            raise ValueError(f"{name} may be from {least:g} to {most:g}, not {one:g}")
