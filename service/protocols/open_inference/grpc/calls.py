"""What happens around every call, once: it gets an id and a deadline, its errors get a status, and it is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode

from service.errors import BadInput, DeadlineExceeded, InferdError
from service.metrics import Metrics
from service.observability import identity_of, request_id
from service.protocols.open_inference.grpc.errors import (
    UNEXPECTED,
    MessageTooLarge,
    details_of,
    status_of,
    trailers_of,
)
from service.security.access import Access, Grant, presented
from service.security.keys import Scope
from service.tracing import TRACEPARENT, Traced, Tracing

logger = logging.getLogger(__name__)
access = logging.getLogger("inferd.access")

PROTOCOL = "grpc"
"""What metrics call it."""

_SERVICE = "inference.GRPCInferenceService"
_FAULTS = {StatusCode.INTERNAL, StatusCode.UNAVAILABLE, StatusCode.UNIMPLEMENTED, StatusCode.DEADLINE_EXCEEDED}
"""What is the server's fault, by OpenTelemetry's conventions."""

_GONE_S = 0.05
"""So long after the end of what it sent it is known whether a client has gone away."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Call:
    """What a handler may know of its call, and say beside its answer.

    Attributes:
        metadata: what the client sent beside its request; of a name that came twice, the last.
        deadline: when the client gives up, on the clock of `time.monotonic`.
        max_answer_bytes: how large a message may go back.
        size: of the request in bytes; of a stream it is 0.
        admit: lets one request of a stream in; a call of one request has been let in already.
        key: the name of the key that it came with, if it needed one.
        trailers: what goes back beside the answer.
    """

    metadata: Mapping[str, str | bytes]
    deadline: float | None
    max_answer_bytes: int
    size: int = 0
    admit: Callable[[], Grant] = field(default=partial(Grant, None))
    key: str | None = None
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def text(self, name: str) -> str | None:
        """The metadata called `name`, if it is there and a text."""
        value = self.metadata.get(name)
        return value if isinstance(value, str) else None

    def serialize(self, answer: Message) -> bytes:
        """Encode a message.

        Raises:
            MessageTooLarge: it is larger than may be sent.
        """
        message: bytes = answer.SerializeToString()
        if len(message) > self.max_answer_bytes:
            raise MessageTooLarge(
                f"the answer is a message of {len(message)} bytes; it may have {self.max_answer_bytes} at most "
                "(INFERD_MAX_BODY_BYTES)"
            )
        return message


@dataclass(frozen=True, slots=True)
class Duplex:
    """Both directions of a stream, as bytes.

    Attributes:
        read: waits for the next message; None when the client sends no more.
        write: sends a message; only one at a time.
    """

    read: Callable[[], Awaitable[bytes | None]]
    write: Callable[[bytes], Awaitable[None]]


UnaryHandler: TypeAlias = Callable[[Any, Call], Awaitable[Message]]
StreamHandler: TypeAlias = Callable[[Duplex, Call], Awaitable[None]]


class Calls:
    """Makes of handlers, which know no gRPC, what gRPC calls.

    Args:
        metrics: where calls are counted.
        access: who may do what.
        max_message_bytes: how large a message may be.
        message_timeout_s: how long that of a call of one request may take to come.
        access_log: whether every call is logged, or only those that fail by our fault.
        tracing: what makes a span of every call, if anything does.

    Attributes:
        came: how many calls have come.
    """

    def __init__(
        self,
        metrics: Metrics,
        access: Access,
        *,
        max_message_bytes: int,
        message_timeout_s: float,
        access_log: bool,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._access = access
        self._max_message_bytes = max_message_bytes
        self._message_timeout_s = message_timeout_s
        self._access_log = access_log
        self._tracing = tracing
        self.came = 0
        self._answering = asyncio.Event()
        self._answering.set()

    def hold(self) -> None:
        """Keep the answers of unary calls back from now on; what comes in is worked on all the same."""
        self._answering.clear()

    def release(self) -> None:
        """Give them, and hold no more."""
        self._answering.set()

    def unary(
        self, method: str, scope: Scope | None, request_type: type[Message], handler: UnaryHandler
    ) -> grpc.RpcMethodHandler:
        """Make a method of one request and one answer, for keys with `scope`; without one it needs none."""

        async def answer(_: object, context: grpc.aio.ServicerContext) -> bytes:
            async def work(call: Call) -> bytes:
                try:
                    body = await self._message(context)
                    call.size = len(body)
                    with call.admit() as grant:
                        call.key = grant.name
                        return call.serialize(await handler(parse(request_type, body), call))
                finally:
                    await self._answering.wait()

            return await self._observed(method, scope, context, work)

        # What is read here, and not by gRPC, can be waited for as long as it may take, and is answered as every other
        # mistake is where it is no such message. A stream of one request is the same call to a client.
        return grpc.stream_unary_rpc_method_handler(answer)

    def stream(self, method: str, scope: Scope, handler: StreamHandler) -> grpc.RpcMethodHandler:
        """Make a method of many requests and many answers; the handler has each request admitted."""

        async def answer(_: object, context: grpc.aio.ServicerContext) -> None:
            async def work(call: Call) -> None:
                call.key = self._access.check(scope, _key_in(call))
                await handler(Duplex(partial(_read, context), context.write), call)

            await self._observed(method, scope, context, work)

        return grpc.stream_stream_rpc_method_handler(answer)

    async def _message(self, context: grpc.aio.ServicerContext) -> bytes:
        """Read the one message of a call.

        Raises:
            DeadlineExceeded: it took too long to come.
            BadInput: there is none.
        """
        try:
            async with asyncio.timeout(self._message_timeout_s):
                message = await _read(context)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the message of a call may take {self._message_timeout_s:g} s to come (INFERD_BODY_TIMEOUT_S)"
            ) from error
        if message is None:
            await asyncio.sleep(_GONE_S)  # who has gone away leaves no message either, and this is cancelled soon
            raise BadInput("a call of this method needs a message")
        return message

    async def _observed(
        self,
        method: str,
        scope: Scope | None,
        context: grpc.aio.ServicerContext,
        work: Callable[[Call], Awaitable[T]],
    ) -> T:
        self.came += 1
        started = time.perf_counter()
        remaining_s = context.time_remaining()
        call = Call(
            metadata=dict(context.invocation_metadata() or ()),
            deadline=None if remaining_s is None else time.monotonic() + remaining_s,
            max_answer_bytes=self._max_message_bytes,
            admit=lambda: self._access.admit(scope, _key_in(call)) if scope else Grant(None),
        )
        identity = identity_of(call.text("x-request-id"))
        request_id.set(identity)  # each call has a context of its own, so nothing needs to be put back
        traced = None if self._tracing is None else self._tracing.begin(call.text(TRACEPARENT), identity)
        call.trailers.append(("x-request-id", identity))
        code = StatusCode.INTERNAL
        try:
            answer = await work(call)
            code = StatusCode.OK
            context.set_trailing_metadata(tuple(call.trailers))
            return answer
        except InferdError as error:
            code = status_of(error)
            if code is StatusCode.INTERNAL:
                logger.error("a request failed: %s", error, exc_info=error.__cause__)
            await context.abort(code, details_of(error), (*call.trailers, *trailers_of(error)))
            raise AssertionError("abort raises") from error
        except asyncio.CancelledError:
            code = StatusCode.DEADLINE_EXCEEDED if context.time_remaining() == 0 else StatusCode.CANCELLED
            raise
        except Exception:
            logger.exception("a request failed unexpectedly")
            await context.abort(StatusCode.INTERNAL, UNEXPECTED, tuple(call.trailers))
            raise AssertionError("abort raises") from None
        finally:
            self._metrics.count_request(PROTOCOL, code.name)
            if self._access_log or code is StatusCode.INTERNAL:
                _log(method, code, time.perf_counter() - started, call.key)
            if traced is not None:
                _end(traced, method, code)


def parse(request_type: type[M], body: bytes) -> M:
    """Decode a message.

    Raises:
        BadInput: it is none of this type.
    """
    try:
        request: M = request_type.FromString(body)
    except DecodeError as error:
        raise BadInput(f"the message must be an inference.{request_type.DESCRIPTOR.name}: {error}") from error
    return request


async def _read(context: grpc.aio.ServicerContext) -> bytes | None:
    message = await context.read()
    return None if message is grpc.aio.EOF else message


def _key_in(call: Call) -> bytes | None:
    """The key that came with a call."""
    return presented(_bytes(call.text("authorization")), _bytes(call.text("x-api-key")))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(errors="surrogatepass")


def _end(traced: Traced, method: str, code: StatusCode) -> None:
    """End the span of a call; the names are OpenTelemetry's conventions."""
    name = f"{_SERVICE}/{method}"
    attributes = {"rpc.system.name": "grpc", "rpc.method": name, "rpc.response.status_code": code.name}
    traced.end(name, attributes, error=code.name if code in _FAULTS else None)


def _log(method: str, code: StatusCode, seconds: float, key: str | None) -> None:
    fields: dict[str, object] = {"method": method, "status": code.name, "duration_ms": round(1000 * seconds, 3)}
    if key:
        fields["key"] = key
    level = logging.ERROR if code is StatusCode.INTERNAL else logging.INFO
    access.log(level, "gRPC %s %s", method, code.name, extra={"fields": fields})
