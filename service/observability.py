"""What an operator sees of requests: an id each, JSON logs that carry it, a count by protocol and status."""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.bodies import Bodies
from service.metrics import Metrics
from service.tracing import TRACEPARENT, Traced, Tracing, current

logger = logging.getLogger("inferd.access")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that this code runs for."""

KEY_NAME = "inferd.key"
"""Where an ASGI scope has the name of the key that a request came with, once that is known."""

_numbers = random.Random()  # noqa: S311 - names, not secrets; seeded by the system
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_TRACEPARENT = TRACEPARENT.encode()
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_PROTOCOLS = {
    "predict": "predict",
    "v1": "openai",
    "v2": "open_inference",
    **dict.fromkeys(("translate", "languages", "detect"), "libretranslate"),
    **dict.fromkeys(("health", "metrics"), "health"),
}


def identity_of(given: str | None) -> str:
    """The id that the client gave, if it gave one that a log can carry; else a new one."""
    return given if given is not None and _GIVEN_ID.fullmatch(given) else f"{_numbers.getrandbits(64):016x}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the ids of request and trace, and what `extra` adds.

    What it adds are the `fields` of `extra={"fields": ...}`.

    Args:
        worker: which of several processes writes; None where there is one.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        if (identity := request_id.get()) is not None:
            line["request_id"] = identity
        if (traced := current.get()) is not None:
            line["trace_id"] = traced.trace_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str, *, worker: int | None = None) -> None:
    """Send every log record of `level` or above to standard error as JSON; `worker` is which of several this is."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # uvicorn's access log would say again what ours says.
    logging.getLogger("uvicorn.access").disabled = True


class Observability:
    """The outermost middleware: it names each request, counts it, logs it, and says goodbye when the server drains.

    Args:
        app: what answers.
        metrics: where requests are counted,
        bodies: and what they hold.
        is_draining: whether connections should be given up after their answer.
        access_log: whether every request is logged, or only those that fail by our fault.
        tracing: what makes a span of every request, if anything does.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        bodies: Bodies,
        is_draining: Callable[[], bool],
        access_log: bool,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._bodies = bodies
        self._is_draining = is_draining
        self._access_log = access_log
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = identity_of(_header(scope, b"x-request-id"))
        request_id.set(identity)  # each request has a context of its own, so nothing needs to be put back
        traced = None if self._tracing is None else self._tracing.begin(_header(scope, _TRACEPARENT), identity)
        started = time.perf_counter()
        status = 500

        def send_observed(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", identity.encode())]
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            return send(message)

        self._bodies.watch(scope)
        try:
            await self._app(scope, receive, send_observed)
        finally:
            self._bodies.release(scope)
            self._metrics.count_request(protocol_of(scope["path"]), status)
            if self._access_log or status == 500:
                seconds = time.perf_counter() - started
                log_request(scope["method"], scope["path"], status, seconds, scope.get(KEY_NAME))
            if traced is not None:
                _end(traced, scope, status)


def log_request(method: str, path: str, status: int, seconds: float, key: str | None) -> None:
    """Write a line of the access log.

    Args:
        method: of HTTP.
        path: without what is behind it, which may be a client's own affair.
        status: of the answer.
        seconds: that it took.
        key: the name of the one that came with it, if one did.
    """
    fields: dict[str, object] = {
        "method": method,
        "path": path,
        "status": status,
        "duration_ms": round(1000 * seconds, 3),
    }
    if key:
        fields["key"] = key
    level = logging.ERROR if status == 500 else logging.INFO
    logger.log(level, "%s %s %d", method, path, status, extra={"fields": fields})


def protocol_of(path: str) -> str:
    """The dialect that a path belongs to."""
    return _PROTOCOLS.get(path.lstrip("/").partition("/")[0], "other")


def _header(scope: Scope, name: bytes) -> str | None:
    """The first header called `name`."""
    return next((value.decode("latin-1") for other, value in scope["headers"] if other == name), None)


def _end(traced: Traced, scope: Scope, status: int) -> None:
    """End the span of a request; the names are OpenTelemetry's conventions."""
    method = scope["method"] if scope["method"] in _METHODS else None
    route = getattr(scope.get("route"), "path", None)
    attributes: dict[str, str | int] = {
        "http.request.method": method or "_OTHER",
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "http.response.status_code": status,
    }
    if route:
        attributes["http.route"] = route
    name = f"{method or 'HTTP'} {route}" if route else method or "HTTP"
    traced.end(name, attributes, error=str(status) if status >= 500 else None)
