"""Traces for OpenTelemetry: a span for each request, and below it one for its waiting and one for its computing.

Off, as it usually is, nothing of OpenTelemetry is imported here, and a request costs a look at `current`. Spans have
no payloads and no keys.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

TRACEPARENT = "traceparent"
"""The header, or metadata, that names the caller's span."""

_LONGEST_TRACEPARENT = 256
_LAST_EXPORT_S = 3.0
"""How long the end of a process waits for a collector to take what is left."""


class Traced:
    """The span of one request.

    Args:
        span: begun.
        tracer: which makes those below it.
    """

    def __init__(self, span: Span, tracer: Tracer) -> None:
        self._span = span
        self._tracer = tracer

    @property
    def trace_id(self) -> str:
        """Of the trace that the span is part of, in 32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def addresses(self, model: str, version: int) -> None:
        """Say which model is asked."""
        self._span.set_attributes({"inferd.model.name": model, "inferd.model.version": version})

    def answered(self, *, queued_at: float, joined_at: float, ended_at: float, run_s: float, rows: int) -> None:
        """Make the spans of waiting and computing, once they are over.

        Args:
            queued_at: when the request was queued, on the clock of `time.monotonic`,
            joined_at: when it was taken out of the queue,
            ended_at: and when what computes had ended.
            run_s: how long that was in runs.
            rows: how many rows shared them.
        """
        if not self._span.is_recording():
            return
        from opentelemetry.trace import set_span_in_context

        below = set_span_in_context(self._span)
        epoch = time.time_ns() - time.monotonic_ns()
        queued, joined, ended = (epoch + round(1e9 * at) for at in (queued_at, joined_at, ended_at))
        self._tracer.start_span("queue", below, start_time=queued).end(joined)
        attributes = {"inferd.run_ms": round(1000 * run_s, 3), "inferd.batch_size": rows}
        self._tracer.start_span("compute", below, attributes=attributes, start_time=joined).end(ended)

    def end(self, name: str, attributes: Mapping[str, str | int], *, error: str | None = None) -> None:
        """End the span.

        Args:
            name: of few that there are.
            attributes: what is known of request and answer.
            error: what kind of failure of the server it was, if it was one.
        """
        if self._span.is_recording():
            self._span.update_name(name)
            self._span.set_attributes(attributes)
            if error:
                from opentelemetry.trace import StatusCode

                self._span.set_attribute("error.type", error)
                self._span.set_status(StatusCode.ERROR)
        self._span.end()


current: ContextVar[Traced | None] = ContextVar("current", default=None)
"""The span of the request that this code runs for; None also where there are no traces."""


class Tracing:
    """Makes the spans of a process.

    Args:
        provider: to whose processors they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("inferd")
        self._kind = SpanKind.SERVER
        self._context_in = TraceContextTextMapPropagator().extract

    @classmethod
    def of(cls, settings: Settings, version: str) -> Tracing | None:
        """What the settings ask for, if they do; the rest is in OpenTelemetry's own variables (`OTEL_*`).

        Raises:
            ValueError: the packages are not installed, or one of those variables makes no sense.
        """
        if not wants_traces(settings):
            return None
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def begin(self, traceparent: str | None, identity: str) -> Traced:
        """Begin the span of a request, which is `current` from now on.

        Args:
            traceparent: the caller's span, as it says; what is none is ignored.
            identity: the request's id.
        """
        # OpenTelemetry would log what is wrong with other headers, and long ones: the clients' mistakes.
        given = {TRACEPARENT: traceparent} if traceparent and len(traceparent) <= _LONGEST_TRACEPARENT else {}
        span = self._tracer.start_span(
            "request", self._context_in(given), kind=self._kind, attributes={"inferd.request_id": identity}
        )
        traced = Traced(span, self._tracer)
        current.set(traced)
        return traced

    async def close(self) -> None:
        """Hand out what is left, and end; a collector that does not answer is not waited for very long."""
        ending = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _LAST_EXPORT_S)
        if ending.is_alive():
            logger.warning("the last traces are lost: the collector does not take them")


def wants_traces(settings: Settings) -> bool:
    """Whether there are to be traces.

    Raises:
        ValueError: there are, and the packages for it are not installed.
    """
    if settings.tracing == "off" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401 - whether they are there
    except ModuleNotFoundError as error:
        raise ValueError(
            f"INFERD_TRACING={settings.tracing} needs inferd[tracing], which is not installed: {error}"
        ) from error
    return True


def _resource(version: str) -> Resource:
    """What every span says of the process it comes from; the environment's word on it comes first."""
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource

    own: dict[str, str | int] = {SERVICE_NAME: "inferd", SERVICE_VERSION: version, "process.pid": os.getpid()}
    return Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
