"""What leaves when, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvloop

from service.connections.sending import TogetherTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
PATIENCE_S = 20

Both = tuple[TogetherTransport, asyncio.StreamReader]
Test = Callable[[TogetherTransport, asyncio.StreamReader], Awaitable[None]]
Run = Callable[[Test], None]


class Server(asyncio.Protocol):
    """Holds its only connection."""

    def __init__(self) -> None:
        self.connected: asyncio.Future[TogetherTransport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sends = cast("asyncio.Transport", transport)  # uvloop's is one, and does not say so
        self.connected.set_result(TogetherTransport(sends, asyncio.get_running_loop().call_soon))


@asynccontextmanager
async def connected() -> AsyncIterator[Both]:
    protocol = Server()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    transport = await protocol.connected
    try:
        yield transport, reader
    finally:
        transport.close()
        writer.close()
        server.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test with both ends of a connection, on either event loop."""

    def run(test: Test) -> None:
        async def main() -> None:
            async with asyncio.timeout(PATIENCE_S), connected() as both:
                await test(*both)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


def test_a_head_and_its_body_come_together(run: Run) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        for _ in range(3):
            transport.write(HEAD)
            assert transport.get_write_buffer_size() == len(HEAD)
            transport.write(b"body")
            assert transport.get_write_buffer_size() == 0
            assert await reader.read(1000) == HEAD + b"body"

    run(test)


def test_a_head_whose_body_takes_time_does_not_wait_for_it(run: Run) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        transport.write(HEAD)
        assert await reader.read(1000) == HEAD
        transport.write(b"bo")
        assert await reader.read(1000) == b"bo"
        transport.writelines([b"d", b"y"])
        assert await reader.read(1000) == b"dy"

    run(test)


@pytest.mark.parametrize("end", [TogetherTransport.close, TogetherTransport.write_eof])
def test_a_head_that_is_the_whole_answer_comes_before_the_end(
    run: Run, end: Callable[[TogetherTransport], None]
) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        transport.write(HEAD)
        end(transport)
        assert await reader.read() == HEAD

    run(test)


def test_whoever_is_cut_off_gets_nothing_more(run: Run) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        transport.write(HEAD)
        transport.abort()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert await reader.read() == b""

    run(test)


def test_a_large_body_follows_its_head_whole(run: Run) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        body = bytes(range(256)) * 40_000
        transport.write(HEAD)
        transport.write(body)
        assert await reader.readexactly(len(HEAD) + len(body)) == HEAD + body

    run(test)


def test_all_else_is_asked_of_the_transport_itself(run: Run) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        transport.set_write_buffer_limits(high=1000, low=10)
        assert transport.get_write_buffer_limits() == (10, 1000)
        assert transport.can_write_eof()
        assert isinstance(transport.get_protocol(), Server)
        transport.set_protocol(other := asyncio.Protocol())
        assert transport.get_protocol() is other
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
        assert transport.get_extra_info("nothing", 7) == 7
        assert transport.is_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        assert transport.is_reading()

    run(test)


def test_what_is_sent_on_a_connection_that_has_ended_is_dropped(run: Run) -> None:
    async def test(transport: TogetherTransport, reader: asyncio.StreamReader) -> None:
        transport.close()
        transport.write(HEAD)
        transport.write(b"body")
        assert await reader.read() == b""
        transport.write(HEAD)  # by now it is closed for good
        transport.write(b"body")

    run(test)
