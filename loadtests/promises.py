"""What inferd promises of its speed on plain networks, and how it is told whether that is kept.

Every promise is a ratio of two things that were measured in one run on one machine, or a bound that a machine's speed
hardly matters for. `bench_speed.py` measures them, each several times in turns; the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Form: TypeAlias = Literal["share", "times", "ms", "count"]

PARTS: Final = ("share", "alone", "growth", "overload", "memory", "cuda")

_WRITTEN: Final[Mapping[Form, str]] = {"share": "{:.0%}", "times": "{:.2f}", "ms": "{:.1f} ms", "count": "{:,.0f}"}


@dataclass(frozen=True)
class Promise:
    """What is promised of one figure.

    Attributes:
        part: of the benchmark, that measures it.
        what: it is, in words.
        form: a share, of which more is better; how many times something, milliseconds, or how many: less is.
        must: the least that is promised; None = nothing is.
        goal: what is aimed at; None = no more than that.
    """

    part: str
    what: str
    form: Form
    must: float | None = None
    goal: float | None = None

    def keeps(self, value: float, bound: float | None) -> bool:
        """Whether a measured value is within a bound; none is always kept."""
        if bound is None:
            return True
        return value >= bound if self.form == "share" else value <= bound

    def verdict(self, value: float) -> str:
        """In a word or two: which of both is reached."""
        if self.must is None:
            return ""
        if not self.keeps(value, self.must):
            return "no"
        return "must" if self.goal is None or not self.keeps(value, self.goal) else "goal"

    def written(self, value: float | None) -> str:
        """A value as the table has it."""
        return "" if value is None else _WRITTEN[self.form].format(value)


def _shares() -> dict[str, Promise]:
    """Shares of the limit, by what is asked and how many clients ask."""
    asked: Sequence[tuple[str, str, float, float]] = (
        ("binary fp32", "infer, binary tensors, float32", 0.72, 0.80),
        ("binary int8", "infer, binary tensors, int8", 0.60, 0.66),
        ("json fp32", "infer, JSON, float32", 0.62, 0.72),
        ("png fp32", "predict, PNG, float32", 0.58, 0.70),
    )
    return {
        f"{name}, {clients} clients": Promise("share", f"{what}, {clients} clients: of the limit", "share", must, goal)
        for name, what, must, goal in asked
        for clients in (32, 64)
    }


PROMISES: Final[Mapping[str, Promise]] = {
    **_shares(),
    "small alone": Promise("alone", "one client, ResNet-20: p50 of an answer, by a bare run", "times", 1.6, 1.35),
    "large alone": Promise(
        "alone", "one client, ResNet-18 of 224 pixels: p50, by a bare run on as many threads", "times", 1.1
    ),
    "health": Promise("alone", "meanwhile /v2/health/live, 50 times a second: p99", "ms", 5.0),
    "growth": Promise("growth", "32 to 512 clients: least throughput by the most", "share", 0.90),
    "patience": Promise("overload", "150 % of capacity: p99 of what is accepted, by that at 80 %", "times", 2.0),
    "refusals": Promise(
        "overload", "150 % of capacity: of what is not answered, told so by 429 with Retry-After", "share", 1.0
    ),
    "errors": Promise("overload", "80 % and 150 % of capacity: other errors", "count", 0.0),
    "work": Promise("overload", "150 % of capacity: answered, of capacity", "share"),
    "memory": Promise("memory", "resident memory after all requests, by that after a tenth of them", "times", 1.05),
    "cuda, 32 clients": Promise("cuda", "ResNet-50 on a GPU, binary, 32 clients: of the limit", "share"),
    "cuda, 64 clients": Promise("cuda", "ResNet-50 on a GPU, binary, 64 clients: of the limit", "share"),
}
"""By the name under which they are measured."""


def flatness(rounds: Sequence[Mapping[int, float]]) -> float:
    """How flat throughput is over numbers of clients: the least by the most.

    Args:
        rounds: throughput by number of clients, in each round. Of a number the median counts, of its throughput by the
            mean of the round, so that a machine that drifts from round to round drifts for all.
    """
    shares = [
        statistics.median(one[clients] / statistics.mean(one.values()) for one in rounds) for clients in rounds[0]
    ]
    return min(shares) / max(shares)


def summary(measured: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Every promise that was measured, with its median and all values, in the order of the table."""
    lines = []
    for name, promise in PROMISES.items():
        if values := measured.get(name):
            median = statistics.median(values)
            lines.append(
                {
                    "name": name,
                    "what": promise.what,
                    "form": promise.form,
                    "must": promise.must,
                    "goal": promise.goal,
                    "measured": median,
                    "reached": promise.verdict(median),
                    "rounds": list(values),
                }
            )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The summary as a table of Markdown, a line each."""
    rows = ["| | must | goal | measured | least to most of all rounds | reached |", "|---|---:|---:|---:|---:|---|"]
    for line in lines:
        promise = PROMISES[line["name"]]
        must, goal, measured = (promise.written(line[name]) for name in ("must", "goal", "measured"))
        least, most = (promise.written(value) for value in (min(line["rounds"]), max(line["rounds"])))
        spread = f"{least} to {most}" if len(line["rounds"]) > 1 else ""
        rows.append(f"| {line['what']} | {must} | {goal} | {measured} | {spread} | {line['reached']} |")
    return rows
