"""What came of a measurement: figures of every load in every round, beside the limit of the same round."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from service.bench.limit import Measured
from service.bench.samples import Figures
from service.machine import cpu_quota


@dataclass(frozen=True)
class Round:
    """One load in one round.

    Attributes:
        figures: what became of it.
        of_limit: what it gave, by the most that the limit gave in the same round. None where there is no limit.
        of_limit_at_rows: by what the limit gave with as many rows at once as the clients asked for, or the next fewer.
        of_bare_run: how long an answer took (p50; of a stream, its first token), by a bare run for one.
    """

    figures: Figures
    of_limit: float | None = None
    of_limit_at_rows: float | None = None
    of_bare_run: float | None = None


@dataclass(frozen=True)
class Run:
    """One load in all rounds: of a closed loop with so many clients, or of an open one at such a rate."""

    clients: int | None
    rate: float | None
    rounds: Sequence[Round]

    @cached_property
    def typical(self) -> Round:
        """The round with the median throughput, the lower of two."""
        ordered = sorted(self.rounds, key=lambda one: one.figures.units_per_s)
        return ordered[(len(ordered) - 1) // 2]

    def to_json(self) -> dict[str, Any]:
        """The typical round; and all of them, if there are several."""
        content = {"clients": self.clients, "rate": self.rate, **dataclasses.asdict(self.typical)}
        if len(self.rounds) > 1:
            content["rounds"] = [dataclasses.asdict(one) for one in self.rounds]
        return content


@dataclass(frozen=True)
class Result:
    """All of a measurement.

    Attributes:
        model: its name, version, task and variant.
        server: where it is, and its workers if they are known.
        scenario: protocol, unit, and what is asked.
        machine: on which it was measured.
        plan: how.
        limit: what ONNX Runtime alone gave, by processes and batch size, in each round.
        no_limit: why it was not measured, if it was not.
        runs: every load.
    """

    model: dict[str, Any]
    server: dict[str, Any]
    scenario: dict[str, Any]
    machine: dict[str, Any]
    plan: dict[str, Any]
    limit: Sequence[Sequence[Measured]]
    no_limit: str
    runs: Sequence[Run]

    @cached_property
    def typical_limit(self) -> Sequence[Measured]:
        """For each number of processes and each batch size the round with the median throughput."""
        return [
            sorted(one, key=lambda each: each.units_per_s)[(len(one) - 1) // 2] for one in zip(*self.limit, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        content = {name: getattr(self, name) for name in ("model", "server", "scenario", "machine", "plan")}
        if self.no_limit:
            content["no_limit"] = self.no_limit
        else:
            content["limit"] = [dataclasses.asdict(one) for one in self.typical_limit]
        return {**content, "runs": [one.to_json() for one in self.runs]}


def compare(figures: Figures, limit: Sequence[Measured], at_once: float | None, *, counts_units: bool) -> Round:
    """Put figures beside the limit of the same round.

    Args:
        figures: of one load.
        limit: as measured; nothing where it was not.
        at_once: rows that clients ask for at once, if it is a closed loop.
        counts_units: whether both count the same.
    """
    if not limit:
        return Round(figures)
    took = figures.first_token_ms or figures.latency_ms
    alone = [one for one in limit if (one.processes, one.batch_size) == (1, 1)]
    of_bare_run = took.p50 / alone[0].run_ms if took and alone else None
    if not counts_units:
        return Round(figures, of_bare_run=of_bare_run)
    most = max(one.units_per_s for one in limit)
    reached = [one for one in limit if at_once is not None and one.batch_size <= at_once]
    at_rows = None
    if reached:
        largest = max(one.batch_size for one in reached)
        at_rows = figures.units_per_s / max(one.units_per_s for one in reached if one.batch_size == largest)
    return Round(figures, figures.units_per_s / most, at_rows, of_bare_run)


def this_machine() -> dict[str, Any]:
    """What it was measured on."""
    described = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", described.read_text("utf-8") if described.exists() else "")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": cpu_quota(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": _version_of("onnxruntime") or _version_of("onnxruntime-gpu"),
        "inferd": _version_of("inferd"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
