from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from service.errors import DeadlineExceeded, NotFound, Overloaded, RuntimeFailure
from service.metrics import Metrics
from service.observability import JsonFormatter, request_id
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.calls import Call, Calls, Duplex
from service.security.access import Access
from tests.service.protocols.open_inference.grpc.conftest import Shared
from tests.service.protocols.open_inference.grpc.serving import until
from tests.service.requests import parsed

Handler = Callable[[pb.ModelReadyRequest, Call], Awaitable[Message]]
Ask = Callable[..., grpc.aio.UnaryUnaryCall]


def everybody(metrics: Metrics) -> Access:
    return Access(open=("predict",), metrics=metrics)


@asynccontextmanager
async def answering(
    handler: Handler, metrics: Metrics | None = None, *, access: Access | None = None, access_log: bool = False
) -> AsyncIterator[Ask]:
    """Serve one method, and give what calls it with bytes."""
    metrics = metrics or Metrics("0")
    calls = Calls(
        metrics, access or everybody(metrics), max_message_bytes=100, message_timeout_s=60, access_log=access_log
    )
    method = calls.unary("ModelReady", "predict", pb.ModelReadyRequest, handler)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"ModelReady": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        multi = channel.unary_unary("/test/ModelReady")
        yield lambda body=b"", **options: multi(body, **options)
    await server.stop(5)


async def failure_of(call: grpc.aio.UnaryUnaryCall) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def ready(_request: pb.ModelReadyRequest, _call: Call) -> Message:
    return pb.ModelReadyResponse(ready=True)


def test_an_id_that_a_log_can_carry_is_the_requests_id() -> None:
    seen = []

    async def handler(request: pb.ModelReadyRequest, call: Call) -> Message:
        seen.append(request_id.get())
        return await ready(request, call)

    async def main() -> None:
        async with answering(handler) as ask:
            for given in ("seven", "not one", "x" * 200):
                call = ask(metadata=(("x-request-id", given),))
                await call
                assert dict(await call.trailing_metadata())["x-request-id"] == seen[-1]
            await ask()

    asyncio.run(main())
    assert seen[0] == "seven"
    assert all(len(str(new)) == 16 for new in seen[1:])
    assert len(set(seen)) == 4
    assert request_id.get() is None


def test_a_call_has_the_deadline_that_its_client_has() -> None:
    seen = []

    async def handler(request: pb.ModelReadyRequest, call: Call) -> Message:
        seen.append(call.deadline)
        return await ready(request, call)

    async def main() -> float:
        async with answering(handler) as ask:
            await ask()
            now = asyncio.get_running_loop().time()
            await ask(timeout=100)
            return now

    now = asyncio.run(main())
    assert seen[0] is None
    assert seen[1] == pytest.approx(now + 100, abs=5)


def test_a_message_that_is_none_is_refused() -> None:
    async def main() -> grpc.aio.AioRpcError:
        async with answering(ready) as ask:
            return await failure_of(ask(b"\xff\xff\xff"))

    error = asyncio.run(main())
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("the message must be an inference.ModelReadyRequest: ")


@pytest.mark.parametrize(
    ("error", "code", "details", "trailers"),
    [
        (NotFound("no m\u00f6del"), StatusCode.NOT_FOUND, "no m\u00f6del", {}),
        (
            Overloaded("full", retry_after_s=0.25),
            StatusCode.RESOURCE_EXHAUSTED,
            "full",
            {"retry-after": "1", "grpc-retry-pushback-ms": "250"},
        ),
        (DeadlineExceeded("late"), StatusCode.DEADLINE_EXCEEDED, "late", {}),
    ],
    ids=["not_found", "overloaded", "deadline"],
)
def test_an_error_has_its_status_and_says_what_was_wrong(
    error: Exception, code: StatusCode, details: str, trailers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_request: pb.ModelReadyRequest, _call: Call) -> Message:
        raise error

    async def main() -> grpc.aio.AioRpcError:
        async with answering(handler) as ask:
            return await failure_of(ask(metadata=(("x-request-id", "seven"),)))

    answer = asyncio.run(main())
    assert (answer.code(), answer.details()) == (code, details)
    assert dict(answer.trailing_metadata()) == {"x-request-id": "seven", **trailers}
    assert caplog.records == []  # a client's mistake is not ours to log


def test_an_answer_that_may_not_be_sent_is_an_error_that_names_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: pb.ModelReadyRequest, _call: Call) -> Message:
        return pb.ServerMetadataResponse(name="x" * int(request.name))

    async def main(length: int) -> StatusCode:
        async with answering(handler) as ask:
            call = ask(pb.ModelReadyRequest(name=str(length)).SerializeToString())
            if length > 98:
                error = await failure_of(call)
                assert error.details() == (
                    f"the answer is a message of {length + 2} bytes; it may have 100 at most (INFERD_MAX_BODY_BYTES)"
                )
            code: StatusCode = await call.code()
            return code

    assert asyncio.run(main(98)) is StatusCode.OK
    assert asyncio.run(main(99)) is StatusCode.RESOURCE_EXHAUSTED
    assert caplog.records == []


def test_a_model_that_fails_is_logged_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_request: pb.ModelReadyRequest, _call: Call) -> Message:
        raise RuntimeFailure("the model broke") from ValueError("why")

    async def main() -> grpc.aio.AioRpcError:
        async with answering(handler) as ask:
            return await failure_of(ask())

    error = asyncio.run(main())
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, "the model broke")
    first, second = caplog.records
    assert first.getMessage() == "a request failed: the model broke"
    assert first.exc_info
    assert "why" in str(first.exc_info[1])
    assert second.getMessage() == "gRPC ModelReady INTERNAL"


def test_a_defect_is_told_without_details_and_logged_with_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_request: pb.ModelReadyRequest, _call: Call) -> Message:
        raise ZeroDivisionError("secret")

    lines = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    async def main() -> grpc.aio.AioRpcError:
        async with answering(handler) as ask:
            return await failure_of(ask(metadata=(("x-request-id", "seven"),)))

    handler_of_lines = Lines()
    logging.getLogger("service").addHandler(handler_of_lines)
    try:
        error = asyncio.run(main())
    finally:
        logging.getLogger("service").removeHandler(handler_of_lines)
    assert error.code() is StatusCode.INTERNAL
    assert error.details() == "an unexpected error; the server's log has it under this request's id"
    assert dict(error.trailing_metadata()) == {"x-request-id": "seven"}
    (line,) = lines
    assert line["request_id"] == "seven"
    assert "ZeroDivisionError: secret" in line["exception"]


def test_calls_are_counted_by_their_code() -> None:
    metrics = Metrics("0")

    async def handler(request: pb.ModelReadyRequest, call: Call) -> Message:
        if request.name == "unknown":
            raise NotFound("x")
        if request.name == "broken":
            raise ZeroDivisionError
        if request.name == "slow":
            await asyncio.Event().wait()
        return await ready(request, call)

    async def main() -> None:
        async with answering(handler, metrics) as ask:
            await ask()
            await ask()
            for name in ("unknown", "broken"):
                await failure_of(ask(pb.ModelReadyRequest(name=name).SerializeToString()))
            await failure_of(ask(b"\xff"))
            slow = pb.ModelReadyRequest(name="slow").SerializeToString()
            await failure_of(ask(slow, timeout=0.05))
            cancelled = ask(slow)
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await until(lambda: "CANCELLED" in metrics.render().decode())

    asyncio.run(main())
    series = parsed(metrics.render().decode())
    counted = {key: value for key, value in series.items() if key.startswith("inferd_requests_total")}
    assert counted == {
        f'inferd_requests_total{{code="{code}",protocol="grpc"}}': number
        for code, number in {
            "OK": 2,
            "NOT_FOUND": 1,
            "INTERNAL": 1,
            "INVALID_ARGUMENT": 1,
            "DEADLINE_EXCEEDED": 1,
            "CANCELLED": 1,
        }.items()
    }


def test_the_access_log_has_a_line_for_every_call_if_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main(*, access_log: bool) -> None:
        async with answering(ready, access_log=access_log) as ask:
            await ask()
            await failure_of(ask(b"\xff"))

    asyncio.run(main(access_log=False))
    assert caplog.records == []
    asyncio.run(main(access_log=True))
    first, second = caplog.records
    assert first.name == "inferd.access"
    assert (first.getMessage(), first.levelno) == ("gRPC ModelReady OK", logging.INFO)
    fields: Any = first.__dict__["fields"]
    assert (fields["method"], fields["status"]) == ("ModelReady", "OK")
    assert 0 < fields["duration_ms"] < 10_000
    assert second.getMessage() == "gRPC ModelReady INVALID_ARGUMENT"


def test_a_stream_is_a_call_too() -> None:
    metrics = Metrics("0")

    async def echo(duplex: Duplex, call: Call) -> None:
        while (message := await duplex.read()) is not None:
            await duplex.write(message + str(request_id.get()).encode())
        if call.text("end") == "badly":
            raise NotFound("gone")

    async def main() -> None:
        server = grpc.aio.server()
        method = Calls(
            metrics, everybody(metrics), max_message_bytes=100, message_timeout_s=60, access_log=False
        ).stream("Echo", "predict", echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Echo": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for end, code in (("well", StatusCode.OK), ("badly", StatusCode.NOT_FOUND)):
                call = channel.stream_stream("/test/Echo")(metadata=(("x-request-id", "seven"), ("end", end)))
                await call.write(b"one ")
                assert await call.read() == b"one seven"
                await call.done_writing()
                assert await call.code() is code
                assert dict(await call.trailing_metadata()) == {"x-request-id": "seven"}
        await server.stop(5)

    asyncio.run(main())
    series = parsed(metrics.render().decode())
    assert series['inferd_requests_total{code="OK",protocol="grpc"}'] == 1
    assert series['inferd_requests_total{code="NOT_FOUND",protocol="grpc"}'] == 1


def test_metadata_that_are_bytes_are_no_text(shared: Shared) -> None:
    error = shared.refused("RepositoryModelUnload", metadata=(("authorization-bin", b"\xff"),))
    assert error.code() is StatusCode.UNAUTHENTICATED
    call = Call({"one": "text", "two-bin": b"\xff"}, 0, None, 0)
    assert (call.text("one"), call.text("two-bin"), call.text("three")) == ("text", None, None)
