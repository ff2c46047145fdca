"""Metrics of several processes as one: snapshots that can travel, added up series by series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Labels: TypeAlias = tuple[tuple[str, str], ...]

_RUNNING_TOTALS = frozenset({"counter", "histogram", "summary"})

_RULES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "inferd_model_ready": min,
    "inferd_ready": min,
    "inferd_build_info": max,
}
"""How the values of several processes make one; what is not here is added up."""


class Series(msgspec.Struct, frozen=True):
    """One sample: its name (of a histogram's bucket, say), its labels, its value."""

    name: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True):
    """One metric with all its series."""

    name: str
    documentation: str
    type: str
    series: tuple[Series, ...]


Snapshot: TypeAlias = tuple[Family, ...]


def snapshot(collector: Collector) -> Snapshot:
    """Read every metric of this process, but for the times at which series were made."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(
                Series(sample.name, tuple(sample.labels.items()), sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ),
        )
        for metric in collector.collect()
    )


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up what several processes counted; families and series come in the order in which they were first seen."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], list[float]]] = {}
    for one in snapshots:
        for family in one:
            families.setdefault(family.name, family)
            series = values.setdefault(family.name, {})
            for sample in family.series:
                series.setdefault((sample.name, sample.labels), []).append(sample.value)
    return tuple(
        Family(
            family.name,
            family.documentation,
            family.type,
            tuple(
                Series(sample, labels, _RULES.get(name, sum)(found)) for (sample, labels), found in values[name].items()
            ),
        )
        for name, family in families.items()
    )


def running_totals(one: Snapshot) -> Snapshot:
    """What of a process must still be counted when it has ended: all but the gauges, which tell of the present."""
    return tuple(family for family in one if family.type in _RUNNING_TOTALS)


def total(one: Snapshot, name: str) -> float:
    """The sum of all series of the metric called `name`; 0 if there is none."""
    return sum(sample.value for family in one if family.name == name for sample in family.series)


def render(one: Snapshot) -> bytes:
    """Write a snapshot in Prometheus's text format."""
    return generate_latest(Exposed(lambda: one))


class Exposed(Collector):
    """What a snapshot holds as prometheus_client's exposition wants it.

    Args:
        read: gives the snapshot, at each scrape.
    """

    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Give every metric."""
        for family in self._read():
            metric = Metric(family.name, family.documentation, family.type)
            for sample in family.series:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric
