"""Figures as if they had been measured."""

from __future__ import annotations

from service.bench.samples import Figures, Spread


def figures(per_s: float, p50: float = 1.0, p99: float = 2.0, answered: int = 1000, refused: int = 0) -> Figures:
    spread = Spread(p50, p50, p99, p99, p99)
    return Figures(1.0, answered, per_s, per_s, refused, {}, "", spread, None, None, None, None, None, None, 0.1)
