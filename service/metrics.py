"""The server's Prometheus metrics: names, units and buckets in one place.

Series are bound to a model's labels once, when it is loaded, because looking labels up costs more than observing. Only
loaded models have series: a name in a request makes none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.histograms import Histogram, Observed
from service.snapshots import render, snapshot

_MODEL = ("model", "version")
_SECONDS = tuple(0.0002 * 1.6**step for step in range(24))
_ROWS = tuple(2.0**power for power in range(13))
FAILURES = ("invalid", "not_found", "not_ready", "overloaded", "deadline", "cancelled", "runtime")
QUARANTINED = "Versions of models that ended processes, and are not loaded again by themselves."
CAUSES = ("full", "idle", "deadline")


@dataclass(frozen=True)
class ModelMetrics:
    """The series of one version of one model, bound."""

    request_seconds: Observed
    queue_seconds: Observed
    preprocess_seconds: Observed
    compute_seconds: Observed
    postprocess_seconds: Observed
    batch_size: Observed
    inflight: Gauge
    ready: Gauge
    failures: dict[str, Counter]
    dispatches: dict[str, Counter]
    variant_fallbacks: Counter


@dataclass(frozen=True)
class TextMetrics:
    """What else is measured of a model whose answers grow token by token, bound."""

    first_token_seconds: Observed
    inter_token_seconds: Observed
    tokens: Counter


@dataclass(frozen=True)
class KeyMetrics:
    """The series of one key, bound."""

    admitted: Counter
    limited: Counter


class Metrics:
    """All metrics of a process, in a registry of their own.

    Args:
        version: of inferd, for `inferd_build_info`.
    """

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("inferd_requests", "Requests answered.", ("protocol", "code"), registry=self.registry)
        self._bound_requests: dict[tuple[str, int | str], Counter] = {}
        self._keys = Counter(
            "inferd_key_requests",
            "Requests with a key that opens what they ask for: admitted, or limited as the key has used what it may.",
            ("key", "outcome"),
            registry=self.registry,
        )
        self._failures = Counter(
            "inferd_request_failures",
            "Requests that failed, by reason; model and version are empty where no loaded model was addressed.",
            (*_MODEL, "reason"),
            registry=self.registry,
        )
        self._dispatches = Counter(
            "inferd_batch_dispatch",
            "Batches run, by what ended their growth.",
            (*_MODEL, "cause"),
            registry=self.registry,
        )
        self._fallbacks = Counter(
            "inferd_variant_fallback",
            "Loads whose default variant failed its golden replay, so that another one serves.",
            _MODEL,
            registry=self.registry,
        )
        self._request = self._seconds("request_duration", "From a request's arrival to its answer.")
        self._queue = self._seconds("queue", "Waiting for a run.")
        self._preprocess = self._seconds("preprocess", "From the request's bytes to tensors.")
        self._compute = self._seconds("compute", "In the run of the batch.")
        self._postprocess = self._seconds("postprocess", "From tensors to the answer.")
        self._batch_size = Histogram("inferd_batch_size", "Rows a run.", _MODEL, buckets=_ROWS, registry=self.registry)
        self._first_token = self._seconds(
            "time_to_first_token", "From a request's arrival in the queue to its first token."
        )
        self._inter_token = self._seconds(
            "inter_token", "Between two tokens of a text, observed once a run and not once a text."
        )
        self._tokens = Counter("inferd_generated_tokens", "Tokens generated.", _MODEL, registry=self.registry)
        self._live_slots = Gauge("inferd_live_slots", "Texts that grow now.", _MODEL, registry=self.registry)
        self._queue_depth = Gauge("inferd_queue_depth", "Rows that wait.", _MODEL, registry=self.registry)
        self._inflight = Gauge("inferd_inflight", "Requests being answered.", _MODEL, registry=self.registry)
        self._ready = Gauge("inferd_model_ready", "1 where the model answers.", _MODEL, registry=self.registry)
        self._of_models = (
            self._failures,
            self._dispatches,
            self._fallbacks,
            self._request,
            self._queue,
            self._preprocess,
            self._compute,
            self._postprocess,
            self._batch_size,
            self._first_token,
            self._inter_token,
            self._tokens,
            self._live_slots,
            self._queue_depth,
            self._inflight,
            self._ready,
        )
        Gauge("inferd_build_info", "Always 1.", ("inferd",), registry=self.registry).labels(version).set(1)

    def bind(self, model: str, version: int) -> ModelMetrics:
        """Return the series of a model that is being loaded."""
        labels = (model, str(version))
        return ModelMetrics(
            request_seconds=self._request.labels(*labels),
            queue_seconds=self._queue.labels(*labels),
            preprocess_seconds=self._preprocess.labels(*labels),
            compute_seconds=self._compute.labels(*labels),
            postprocess_seconds=self._postprocess.labels(*labels),
            batch_size=self._batch_size.labels(*labels),
            inflight=self._inflight.labels(*labels),
            ready=self._ready.labels(*labels),
            failures={reason: self._failures.labels(*labels, reason) for reason in FAILURES},
            dispatches={cause: self._dispatches.labels(*labels, cause) for cause in CAUSES},
            variant_fallbacks=self._fallbacks.labels(*labels),
        )

    def bind_text(self, model: str, version: int, live_slots: Callable[[], float]) -> TextMetrics:
        """Return what else is measured of a model that generates text; `live_slots` is read on every scrape."""
        labels = (model, str(version))
        self._live_slots.labels(*labels).set_function(live_slots)
        return TextMetrics(
            first_token_seconds=self._first_token.labels(*labels),
            inter_token_seconds=self._inter_token.labels(*labels),
            tokens=self._tokens.labels(*labels),
        )

    def bind_key(self, name: str) -> KeyMetrics:
        """Return the series of a key."""
        return KeyMetrics(self._keys.labels(name, "admitted"), self._keys.labels(name, "limited"))

    def forget_key(self, name: str) -> None:
        """Drop the series of a key that is no more."""
        self._keys.remove_by_labels({"key": name})

    def watch_quarantine(self, count: Callable[[], float]) -> None:
        """Show how many versions are quarantined, by whoever decides what serves."""
        gauge = Gauge("inferd_quarantined_models", QUARANTINED, registry=self.registry)
        gauge.set_function(count)

    def watch_readiness(self, is_ready: Callable[[], bool]) -> None:
        """Show what `/health/ready` would answer, so that an alert can be made of it."""
        gauge = Gauge("inferd_ready", "1 where every model answers and nothing ends.", registry=self.registry)
        gauge.set_function(is_ready)

    def forget(self, model: str, version: int) -> None:
        """Drop the series of a model that serves no longer."""
        for metric in self._of_models:
            metric.remove_by_labels({"model": model, "version": str(version)})

    def watch_queue(self, model: str, version: int, depth: Callable[[], float]) -> None:
        """Read the queue's depth from `depth` whenever metrics are scraped."""
        self._queue_depth.labels(model, str(version)).set_function(depth)

    def count_request(self, protocol: str, status: int | str) -> None:
        """Count an answered request; `status` is HTTP's number or gRPC's name."""
        key = (protocol, status)
        if key not in self._bound_requests:
            self._bound_requests[key] = self._requests.labels(protocol, str(status))
        self._bound_requests[key].inc()

    def unaddressed(self, reason: str) -> None:
        """Count a request that failed before it reached a loaded model."""
        self._failures.labels("", "", reason).inc()

    def render(self) -> bytes:
        """Every metric of this process in Prometheus's text format."""
        return render(snapshot(self.registry))

    def _seconds(self, name: str, documentation: str) -> Histogram:
        return Histogram(f"inferd_{name}_seconds", documentation, _MODEL, buckets=_SECONDS, registry=self.registry)
