"""Histograms that cost little to observe: several are, in every request and every run.

prometheus_client's own take a lock and look at one bucket after the other for each value. These are read by the same
registry, and are observed by one thread, the event loop's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Observed:
    """The values of one series.

    Args:
        bounds: the buckets' upper bounds, rising; a last bucket takes what is larger than all.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> tuple[list[tuple[str, int]], float]:
        """How many values are up to each bound, and the sum of all."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True)), self._sum


class Histogram(Collector):
    """A metric whose series are told apart by labels.

    Args:
        name: of the metric.
        documentation: what it counts.
        labels: their names.
        buckets: their upper bounds, rising.
        registry: that reads it.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = tuple(buckets)
        self._series: dict[tuple[str, ...], Observed] = {}
        registry.register(self)

    def labels(self, *values: str) -> Observed:
        """The series of these labels, which is there from now on."""
        return self._series.setdefault(values, Observed(self._bounds))

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drop the series that have all of these labels."""
        self._series = {
            values: series
            for values, series in self._series.items()
            if not labels.items() <= dict(zip(self._labels, values, strict=True)).items()
        }

    def collect(self) -> Iterable[Metric]:
        """Give the metric as it is now."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in list(self._series.items()):  # others may be added meanwhile
            buckets, total = series.read()
            family.add_metric(values, buckets, total)
        yield family
