"""What all workers have counted together, those included that have ended."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.metrics import QUARANTINED
from service.repository.placement import Key
from service.repository.statistics import VersionStatistics
from service.repository.statistics import merged as merged_statistics
from service.snapshots import Family, Series, Snapshot, merged, running_totals, snapshot, total


class Figures:
    """Adds up what workers report. A worker that ends leaves its last report behind, so that no total ever falls."""

    def __init__(self) -> None:
        self._reports: dict[int, tuple[Snapshot, list[VersionStatistics]]] = {}
        self._ended: Snapshot = ()
        self._ended_statistics: list[VersionStatistics] = []
        self._registry = CollectorRegistry()
        self._workers = Gauge("inferd_workers", "Processes that answer.", registry=self._registry)
        self._restarts = Counter(
            "inferd_worker_restarts", "Workers that ended unasked and were replaced.", registry=self._registry
        )
        self._requests = Counter(
            "inferd_worker_requests",
            "HTTP and gRPC requests answered by each worker.",
            ("worker",),
            registry=self._registry,
        )
        self._quarantined = Gauge("inferd_quarantined_models", QUARANTINED, registry=self._registry)
        self._counted: dict[int, float] = {}

    def report(self, worker: int, metrics: Snapshot, statistics: list[VersionStatistics]) -> None:
        """Take a worker's figures in place of those that it gave before."""
        self._reports[worker] = (metrics, statistics)
        requests = total(metrics, "inferd_requests")
        self._requests.labels(str(worker)).inc(max(0.0, requests - self._counted.get(worker, 0.0)))
        self._counted[worker] = requests

    def joined(self, count: int) -> None:
        """Say how many workers there are now."""
        self._workers.set(count)

    def restarted(self) -> None:
        """Count a worker that ended unasked."""
        self._restarts.inc()

    def quarantined(self, count: int) -> None:
        """Say how many versions are quarantined."""
        self._quarantined.set(count)

    def ended(self, worker: int) -> None:
        """Keep the totals of a worker that is no more."""
        metrics, statistics = self._reports.pop(worker, ((), []))
        self._ended = merged([self._ended, running_totals(metrics)])
        self._ended_statistics = merged_statistics([*self._ended_statistics, *statistics])
        self._counted.pop(worker, None)

    def metrics(self, serving: Iterable[Key]) -> Snapshot:
        """All metrics together; of ended workers only what belongs to no model or to one that serves."""
        self._prune(set(serving))
        reports = [metrics for metrics, _ in self._reports.values()]
        return (*merged([*reports, self._ended]), *snapshot(self._registry))

    def statistics(self, serving: Iterable[Key]) -> list[VersionStatistics]:
        """All statistics together, of the models that serve."""
        self._prune(set(serving))
        parts = [one for _, statistics in self._reports.values() for one in statistics]
        return merged_statistics([*parts, *self._ended_statistics])

    def _prune(self, serving: set[Key]) -> None:
        """Forget what ended workers counted for models that serve no longer, as those that live have."""
        self._ended_statistics = [one for one in self._ended_statistics if (one.name, one.version) in serving]
        self._ended = tuple(
            Family(
                family.name,
                family.documentation,
                family.type,
                tuple(series for series in family.series if _belongs(series, serving)),
            )
            for family in self._ended
        )


def _belongs(series: Series, serving: set[Key]) -> bool:
    labels = dict(series.labels)
    model = labels.get("model")
    return not model or (model, int(labels["version"])) in serving
