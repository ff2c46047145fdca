from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import uvicorn
import uvloop
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.metrics import Metrics
from service.protocols.open_inference.grpc import server
from service.protocols.open_inference.grpc.server import ENVELOPE_BYTES, GrpcServer
from service.security.access import Access
from tests.bundles import identity_graph, make_bare, make_bundle, slow_graph
from tests.service.protocols.open_inference.grpc.conftest import Shared
from tests.service.protocols.open_inference.grpc.serving import (
    Client,
    Serving,
    infer_request,
    outputs_of,
    pictures,
    serving,
    until,
)

LIMIT = 16 * 2**20
PATIENCE_S = 30


def slow(rows: int = 8) -> Any:
    return infer_request("slow", ("image", "FP32", np.ones((rows, 1, 4, 6), np.float32)))


def floats(count: int) -> Any:
    return infer_request("rows", ("x", "FP32", np.arange(count, dtype=np.float32)[None]))


def another(running: Serving, **changes: Any) -> GrpcServer:
    """Make a second server of the same models."""
    return GrpcServer(
        **{
            "repository": running.repository,
            "control": running.control,
            "access": Access(open=("predict",), metrics=Metrics("0")),
            "tls": None,
            "metrics": Metrics("0"),
            "version": "0",
            "host": "127.0.0.1",
            "port": running.port,
            "max_connections": 100,
            "message_timeout_s": 60.0,
            "max_body_bytes": LIMIT,
            **changes,
        }
    )


# Limits


def test_past_the_most_connections_others_are_closed_and_these_go_on(models: Path) -> None:
    async def main() -> None:
        async with serving(models, max_connections=2) as running, AsyncExitStack() as others:
            target = f"127.0.0.1:{running.port}"
            first, second, third = [
                await others.enter_async_context(grpc.aio.insecure_channel(target, options=OWN_CONNECTION))
                for _ in range(3)
            ]
            live = [Client(channel) for channel in (first, second)]
            for client in live:
                assert (await client.ask("ServerLive")).live
            error = await Client(third).refused("ServerLive", timeout=1)
            assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
            for client in live:
                assert (await client.ask("ServerLive")).live
            await first.close()
            assert (await Client(third).ask("ServerLive", wait_for_ready=True)).live

    asyncio.run(main())


def test_a_call_whose_message_does_not_come_is_ended(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models, body_timeout_s=0.3) as running:
            started = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(head_of(b"/inference.GRPCInferenceService/ModelInfer"))
            while (frame := await reader.readexactly(9))[3] != HEADERS:
                await reader.readexactly(int.from_bytes(frame[:3]))
            assert 0.3 <= time.monotonic() - started < PATIENCE_S
            answer = await reader.readexactly(int.from_bytes(frame[:3]))
            assert b"may take 0.3 s to come (INFERD_BODY_TIMEOUT_S)" in answer
            writer.close()
            await writer.wait_closed()
            assert (await running.client.ask("ServerLive")).live

    asyncio.run(main())


def test_a_message_that_comes_in_time_is_waited_for_as_long_as_it_takes_to_be_answered(models: Path) -> None:
    make_bundle(models, "slow", graph=slow_graph(20_000))

    async def main() -> None:
        async with serving(models, body_timeout_s=0.3) as running:
            started = time.monotonic()
            answer = await running.client.ask("ModelInfer", slow())
            assert time.monotonic() - started > 0.3, "it was to take longer than a message may"
            assert len(outputs_of(answer)["logits"]) == 8

    asyncio.run(main())


def test_sixteen_mebibytes_pass_both_ways(shared: Shared) -> None:
    request = floats(LIMIT // 4)
    answer = shared.ask("ModelInfer", request)
    assert len(answer.raw_output_contents[0]) == LIMIT
    assert answer.raw_output_contents[0] == request.raw_input_contents[0]


def test_a_message_over_the_limit_is_refused_and_the_limit_named(shared: Shared) -> None:
    error = shared.refused("ModelInfer", floats((LIMIT + ENVELOPE_BYTES) // 4))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert f"vs. {LIMIT + ENVELOPE_BYTES}" in error.details()
    assert shared.ask("ServerReady").ready


def test_an_answer_over_the_limit_is_refused_and_the_limit_named(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bare(models, "bytes", graph=identity_graph("BYTES", None))

    async def main() -> tuple[grpc.aio.AioRpcError, str]:
        async with serving(models, max_body_bytes=1) as running:
            # Typed texts have two bytes beside each; raw ones have four.
            request = infer_request("bytes")
            one = request.inputs.add(name="x", datatype="BYTES", shape=[16_000])
            one.contents.bytes_contents.extend([b"x"] * 16_000)
            error = await running.client.refused("ModelInfer", request)
            stream = running.client.stream()
            await stream.write(request)
            streamed = await stream.read()
            await stream.done_writing()
            assert await stream.code() is StatusCode.OK
            return error, streamed.error_message

    error, streamed = asyncio.run(main())
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    for message in (error.details(), streamed):
        assert message.startswith("the answer is a message of 80")
        assert message.endswith(f"it may have {1 + ENVELOPE_BYTES} at most (INFERD_MAX_BODY_BYTES)")
    assert caplog.records == []


def test_a_message_over_the_limit_ends_its_stream(shared: Shared) -> None:
    async def main() -> tuple[StatusCode, str]:
        stream = shared.serving.client.stream()
        await stream.write(pictures())
        assert not (await stream.read()).error_message
        await stream.write(floats((LIMIT + ENVELOPE_BYTES) // 4))
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
        return await stream.code(), await stream.details()

    code, details = shared.run(main())
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert f"vs. {LIMIT + ENVELOPE_BYTES}" in details


def test_compressed_messages_are_read_as_long_as_they_are_small(shared: Shared) -> None:
    request = floats(100_000)
    answer = shared.ask("ModelInfer", request, compression=grpc.Compression.Gzip)
    assert answer.raw_output_contents[0] == request.raw_input_contents[0]

    bomb = infer_request("rows", ("x", "FP32", np.zeros((1, LIMIT), np.float32)))
    assert len(gzip.compress(bomb.SerializeToString())) < LIMIT / 100
    error = shared.refused("ModelInfer", bomb, compression=grpc.Compression.Gzip)
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    assert shared.ask("ServerReady").ready


def test_more_calls_than_can_be_kept_are_turned_away(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CALLS", 3)
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> list[StatusCode]:
        async with serving(models) as running:
            calls = [running.client.call("ModelInfer", slow()) for _ in range(8)]
            codes = [await call.code() for call in calls]
            assert (await running.client.ask("ServerReady")).ready
            return codes

    codes = asyncio.run(main())
    assert set(codes) == {StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED}


def test_a_connection_has_as_many_calls_at_once_as_it_may(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server._CONNECTIONS, "grpc.max_concurrent_streams", 2)
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> None:
        async with serving(models) as running:
            model = running.repository.get("slow")
            calls = [asyncio.ensure_future(running.client.ask("ModelInfer", slow())) for _ in range(8)]
            most = 0
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.001)
                most = max(most, model.queued_rows())
            assert 0 < most <= 16

    asyncio.run(main())


# Its port


def test_a_port_that_is_taken_is_an_error_that_says_so(models: Path) -> None:
    async def main() -> None:
        async with serving(models) as running:
            with pytest.raises(OSError, match=rf"gRPC can't listen on 127.0.0.1:{running.port}: "):
                await another(running, share_port=False).start()
            with pytest.raises(OSError, match=r"gRPC can't listen on 203\.0\.113\.1:0: "):
                await another(running, host="203.0.113.1", port=0).start()
            assert (await running.client.ask("ServerLive")).live

    asyncio.run(main())


def test_servers_that_share_a_port_share_its_connections(models: Path) -> None:
    async def main() -> None:
        async with serving(models, share_port=True) as running:
            second = another(running)
            assert await second.start() == running.port
            versions = set()
            for _ in range(200):
                channel = grpc.aio.insecure_channel(
                    f"127.0.0.1:{running.port}", options=(("grpc.use_local_subchannel_pool", 1),)
                )
                async with channel:
                    versions.add((await Client(channel).ask("ServerMetadata")).version)
                if len(versions) == 2:
                    break
            assert versions == {"0", "9.8.7"}
            await second.stop(5)
            assert (await running.client.ask("ServerLive")).live

    asyncio.run(main())


def test_an_address_may_be_one_of_ipv6(models: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")

    async def main() -> None:
        async with serving(models) as running:
            on_ipv6 = another(running, host="::1", port=0)
            port = await on_ipv6.start()
            async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
                assert (await Client(channel).ask("ServerLive")).live
            await on_ipv6.stop(5)

    asyncio.run(main())


def test_a_path_that_ends_grpc_itself_does_not_end_the_service(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(models) as running:
            for number in (1, 2, 3):
                _, writer = await asyncio.open_connection("127.0.0.1", running.port)
                writer.write(head_of(b"/inference.\x8f/ModelReady") + EMPTY_MESSAGE)
                await until(lambda number=number: caplog.text.count("begins anew") == number)
                answer = await running.client.ask("ServerLive", wait_for_ready=True, timeout=30)
                assert answer.live
                writer.close()

    asyncio.run(scenario())


EMPTY_MESSAGE = b"\0\0\5\0\1\0\0\0\1" + b"\0" * 5
HEADERS = 1
"""The kind of a frame that has the status of a call that failed."""


def head_of(path: bytes) -> bytes:
    """The frames of HTTP/2 that begin a call, whatever its path; what it asks would come next."""
    headers = {b":method": b"POST", b":scheme": b"http", b":path": path, b":authority": b"a", b"te": b"trailers"}
    headers[b"content-type"] = b"application/grpc"
    block = b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in headers.items())
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + b"\0\0\0\4\0\0\0\0\0"  # settings: none
        + len(block).to_bytes(3, "big") + b"\1\4\0\0\0\1" + block
    )  # fmt: skip


# Its end


def test_stopping_answers_what_was_accepted_and_takes_no_more(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> None:
        async with serving(models) as running:
            model = running.repository.get("slow")
            calls = [asyncio.ensure_future(running.client.ask("ModelInfer", slow())) for _ in range(4)]
            await until(lambda: model.queued_rows() >= 24)
            stopping = asyncio.create_task(running.server.stop(30))
            assert await code_once_refused(f"127.0.0.1:{running.port}") is StatusCode.UNAVAILABLE
            answers = await asyncio.gather(*calls)
            assert all(len(outputs_of(answer)["logits"]) == 8 for answer in answers)
            await stopping

    asyncio.run(main())
    assert caplog.records == []


OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


async def code_once_refused(address: str) -> StatusCode:
    """Call over ever new connections until one is refused."""
    while True:
        async with grpc.aio.insecure_channel(address) as channel:
            try:
                await Client(channel).ask("ServerLive")
            except grpc.aio.AioRpcError as error:
                code: StatusCode = error.code()
                return code


def test_stopping_drops_no_call_of_clients_that_go_on_calling(models: Path) -> None:
    make_bundle(models)

    async def main() -> list[StatusCode]:
        async with serving(models) as running:
            answered = asyncio.Semaphore(0)

            async def go_on() -> StatusCode:
                """Call again and again, as one who waits for each answer; return how it ended."""
                async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}", options=OWN_CONNECTION) as channel:
                    client = Client(channel)
                    while True:
                        try:
                            await client.ask("ModelInfer", pictures())
                        except grpc.aio.AioRpcError as error:
                            code: StatusCode = error.code()
                            return code
                        answered.release()

            clients = [asyncio.create_task(go_on()) for _ in range(16)]
            for _ in range(200):
                await answered.acquire()
            await running.server.stop(30)
            return await asyncio.gather(*clients)

    # None was cancelled: each was told to connect elsewhere, and there was nobody.
    assert set(asyncio.run(main())) == {StatusCode.UNAVAILABLE}


def test_stopping_does_not_wait_for_clients_that_call_without_end(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models) as running:
            calls: list[asyncio.Task[Any]] = []

            async def go_on() -> None:
                """Call every few milliseconds, whether or not anything is answered."""
                while True:
                    calls.append(asyncio.create_task(running.client.ask("ModelInfer", pictures())))
                    await asyncio.sleep(0.005)

            calling = asyncio.create_task(go_on())
            await until(lambda: sum(call.done() for call in calls) > 10)
            await asyncio.wait_for(running.server.stop(30), 10)
            calling.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            ended = {one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)}
            assert ended <= {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}

    asyncio.run(main())


def test_stopping_gives_up_what_takes_longer_than_it_may(models: Path) -> None:
    make_bundle(models, "slow", graph=slow_graph(5000))

    async def main() -> None:
        async with serving(models) as running:
            call = asyncio.ensure_future(running.client.refused("ModelInfer", slow()))
            await until(lambda: not running.repository.get("slow").is_idle)
            await asyncio.wait_for(running.server.stop(0.05), 10)
            assert (await call).code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)

    asyncio.run(main())


def test_stopping_ends_streams_after_their_answers(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> None:
        async with serving(models) as running:
            idle, busy = running.client.stream(), running.client.stream()
            await idle.write(slow())
            assert not (await idle.read()).error_message
            for _ in range(3):
                await busy.write(slow())
            await until(lambda: running.repository.get("slow").queued_rows() >= 16)
            await asyncio.wait_for(running.server.stop(30), 10)
            for _ in range(3):
                assert not (await busy.read()).error_message
            for stream in (idle, busy):
                assert await stream.code() is StatusCode.UNAVAILABLE
                assert "is being stopped" in await stream.details()

    asyncio.run(main())
    assert caplog.records == []


def test_a_server_that_never_started_can_be_stopped(models: Path) -> None:
    async def main() -> None:
        async with serving(models) as running:
            await another(running).stop(1)

    asyncio.run(main())


# Its loop


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_it_shares_its_event_loop_with_the_http_server(
    models: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    make_bundle(models)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        http_server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            http = asyncio.create_task(http_server.serve([listener]))
            async with serving(models) as running, httpx.AsyncClient() as client:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

                async def ask_both() -> None:
                    for _ in range(20):
                        answer = await running.client.ask("ModelInfer", pictures(id="seven"))
                        assert answer.id == "seven"
                        assert (await client.get(url)).status_code == 204

                await asyncio.gather(*(ask_both() for _ in range(8)))
            http_server.should_exit = True
            await http

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_starting_another_program_leaves_it_alone() -> None:
    program = """if True:
        import asyncio, uvloop
        import service.protocols.open_inference.grpc
        import grpc

        async def main():
            server = grpc.aio.server()
            server.add_insecure_port("127.0.0.1:0")
            await server.start()
            for _ in range(5):
                process = await asyncio.create_subprocess_exec("true")
                await process.wait()
            await server.stop(0)

        uvloop.run(main())
    """
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


# What is beside the service


def test_reflection_tells_clients_the_services_and_their_messages(shared: Shared) -> None:
    async def main() -> list[Any]:
        stub = reflection_pb2_grpc.ServerReflectionStub(shared.serving.client.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        ]
        return [answer async for answer in stub.ServerReflectionInfo(iter(asked))]

    services, file = shared.run(main())
    assert {one.name for one in services.list_services_response.service} == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    (content,) = file.file_descriptor_response.file_descriptor_proto
    described = descriptor_pb2.FileDescriptorProto.FromString(content)
    assert "ModelStreamInfer" in {method.name for method in described.service[0].method}


def test_the_log_says_where_it_is_served(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.protocols.open_inference.grpc")

    make_bare(models)

    async def main() -> int:
        async with serving(models) as running:
            stub = health_pb2_grpc.HealthStub(running.client.channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
            return running.port

    port = asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [f"gRPC is served on 127.0.0.1:{port}"]
