from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.bodies import Bodies
from service.connections.limits import ConnectionLimits
from service.connections.protocol import MOST_HEADERS, MOST_PIPELINED, BoundedProtocol, bounded
from service.connections.turns import Turns
from service.connections.watch import Watch

LIMITS = ConnectionLimits(
    max_connections=20,
    max_head_bytes=4096,
    max_url_bytes=1000,
    max_message_bytes=300_000,
    max_unread_bytes=100_000_000,
    head_timeout_s=10.0,
    body_timeout_s=60.0,
    send_timeout_s=30.0,
)
ANSWER_BYTES = 40_000_000
"""More than the kernel takes for a client that reads nothing."""


class Answers:
    """An application: it says how long the body was, `/much` answers much, `/wait` waits until it is told to go on."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.disconnected = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.release()
        if scope["path"] == "/wait":
            await self.go_on.wait()
        try:
            body = await request.body()
        except ClientDisconnect:
            self.disconnected += 1
            return
        content = "x" * ANSWER_BYTES if scope["path"] == "/much" else f"{len(body)} bytes"
        await PlainTextResponse(content)(scope, receive, send)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, content: bytes) -> None:
        self.writer.write(content)

    async def answer(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def refusal(self) -> tuple[int, str]:
        """An error, and that the connection is closed behind it."""
        status, body = await self.answer()
        assert await self.reader.read() == b""
        message: str = json.loads(body)["error"]
        return status, message


class Served:
    """A server on a free port, and the watch that looks when it is told to."""

    def __init__(self, server: uvicorn.Server, answers: Answers, limits: ConnectionLimits) -> None:
        self.answers = answers
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.connections: set[BoundedProtocol] = server.server_state.connections  # type: ignore[assignment]
        self._watch = Watch(self.connections, limits)
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    def look(self, after_s: float = 0.0) -> None:
        """Look as if so much time had passed."""
        self._watch.look(asyncio.get_running_loop().time() + after_s)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
            with suppress(OSError):
                await client.writer.wait_closed()


@asynccontextmanager
async def serving(*, when_lost: Callable[[Served], object] | None = None, **changes: Any) -> AsyncIterator[Served]:
    limits = replace(LIMITS, **changes)
    answers = Answers()
    http = bounded(limits, Bodies(2**30), (lambda: when_lost(served)) if when_lost else bool)
    server = uvicorn.Server(
        uvicorn.Config(answers, port=0, http=http, log_config=None, lifespan="off", access_log=False)
    )
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    served = Served(server, answers, limits)
    try:
        yield served
    finally:
        answers.go_on.set()
        await served.close()
        server.force_exit = True
        await server.shutdown()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded_in_time() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded_in_time())


def test_requests_are_answered_one_after_the_other() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            for length in (0, 5, 100_000):
                client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length + b"x" * length)
                assert await client.answer() == (200, b"%d bytes" % length)

    run(main)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "bit by bit"])
def test_a_head_that_is_too_long_is_refused_while_it_comes(at_once: bool) -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            head = b"GET / HTTP/1.1\r\nhost: x\r\nx-long: "
            if at_once:
                client.send(head + b"x" * 5000 + b"\r\n\r\n")
            else:
                client.send(head)
                for _ in range(50):  # and no end
                    client.send(b"x" * 100)
                    await asyncio.sleep(0.001)
            status, message = await client.refusal()
            assert status == 431
            assert "4096 bytes" in message
            assert "INFERD_MAX_HEAD_BYTES" in message

    run(main)


def test_small_requests_are_answered_between_the_chunks_of_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * 2**20

    async def answered_between() -> int:
        async with serving(max_message_bytes=2 * size, max_unread_bytes=2 * size) as served:
            large = [await served.connect() for _ in range(4)]
            small = await served.connect()
            for client in large:
                client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
            answers = [asyncio.ensure_future(client.answer()) for client in large]
            between = 0
            while not all(answer.done() for answer in answers):
                small.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                assert await small.answer() == (200, b"0 bytes")
                between += 1
            assert [await answer for answer in answers] == [(200, b"%d bytes" % size)] * 4
            return between

    with_turns = asyncio.run(asyncio.wait_for(answered_between(), 60))
    monkeypatch.setattr(Turns, "read", lambda *_: None)
    without = asyncio.run(asyncio.wait_for(answered_between(), 60))
    assert with_turns > 1.3 * without


def test_who_offers_another_protocol_is_refused_once_too(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
            status, message = await client.refusal()
            assert status == 414
            assert "INFERD_MAX_URL_BYTES" in message

    run(main)
    assert caplog.records == []


def test_a_head_may_lie_anywhere_in_much_that_comes_at_once() -> None:
    async def main() -> None:
        async with serving(max_head_bytes=1024, max_connections=100) as served:
            for size in range(900, 1100, 7):  # of a request, so that the pieces that are looked at end everywhere
                client = await served.connect()
                body = b"x" * (size - 200)
                head = b"POST / HTTP/1.1\r\nhost: x\r\nx-long: %b\r\ncontent-length: %d\r\n\r\n" % (
                    b"y" * 120,
                    len(body),
                )
                client.send((head + body) * 30)
                for _ in range(30):
                    assert await client.answer() == (200, b"%d bytes" % len(body))

    run(main)


def test_of_far_too_long_a_head_little_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    headers: list[bytes] = []
    monkeypatch.setattr(BoundedProtocol, "on_header", lambda _self, name, _value: headers.append(name))

    async def main() -> None:
        async with serving(max_head_bytes=1024) as served:
            client = await served.connect()
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 30_000)
            assert (await client.refusal())[0] == 431
            served.look(after_s=10)

    run(main)
    assert len(headers) < 2 * 1024 / 6


def test_many_who_are_refused_in_the_middle_of_much_are_all_told() -> None:

    async def main() -> None:
        async with serving(max_message_bytes=2**20) as served:
            clients = [await served.connect() for _ in range(20)]
            for client in clients:
                client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (2**23) + b"x" * 2**23)
            for client in clients:  # which look at the answer when they have sent all
                await client.writer.drain()
                status, message = await client.answer()
                assert status == 413
                assert b"1048576 bytes" in message
            served.look(after_s=10)

    run(main)


def test_a_long_body_behind_a_short_head_is_no_long_head() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000)
            assert await client.answer() == (200, b"200000 bytes")

    run(main)


def test_whoever_wants_to_know_is_told_when_a_connection_has_ended() -> None:
    counted: list[int] = []

    async def main() -> None:
        async with serving(when_lost=lambda served: counted.append(len(served.connections))) as served:
            clients = [await served.connect() for _ in range(3)]
            await served.until(lambda: len(served.connections) == 3)
            for client in clients:
                client.writer.close()
            await served.until(lambda: not served.connections)

    run(main)
    assert sorted(counted) == [0, 1, 2]


def test_a_long_url_and_many_headers_are_refused() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            status, message = await client.refusal()
            assert status == 414
            assert "1000 bytes" in message
            assert "INFERD_MAX_URL_BYTES" in message
            client = await served.connect()
            client.send(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MOST_HEADERS + 1) + b"\r\n")
            status, message = await client.refusal()
            assert status == 431
            assert str(MOST_HEADERS) in message

    run(main)


def test_what_a_transfer_adds_to_its_body_is_bounded() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            await served.answers.asked.acquire()
            for _ in range(40):  # a byte each, and much that says nothing
                client.send(b"1;" + b"x" * 10_000 + b"\r\nx\r\n")
                await asyncio.sleep(0.001)
            status, message = await client.refusal()
            assert status == 413
            assert "300000 bytes" in message
            assert served.answers.disconnected == 1

    run(main)


def test_trailers_without_end_are_refused() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
            await served.answers.asked.acquire()
            client.send(b"a: b\r\n" * (MOST_HEADERS + 1))
            status, message = await client.refusal()
            assert status == 413
            assert str(MOST_HEADERS) in message

    run(main)


def test_requests_that_wait_for_the_one_before_are_bounded() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" * (MOST_PIPELINED + 2))
            assert await client.reader.read() == b""  # what is being answered may not get another's answer

    run(main)


def test_what_is_no_http_is_told_so() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"\x16\x03\x01 hello\r\n\r\n")
            status, message = await client.refusal()
            assert status == 400
            assert "HTTP/1.1" in message

    run(main)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_that_offers_another_protocol_is_answered_with_its_body(at_once: bool) -> None:
    head = (
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAEAAEAA\r\ncontent-length: 5\r\n\r\n"
    )

    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            for piece in (
                [head + b"hello" + head + b"again"] if at_once else [head, b"hel", b"lo", head[:50], head[50:]]
            ):
                client.send(piece)
                await asyncio.sleep(0)
            assert await client.answer() == (200, b"5 bytes")
            if not at_once:
                client.send(b"again")
            assert await client.answer() == (200, b"5 bytes")
            client.send(head.replace(b"Upgrade, HTTP2-Settings", b"upgrade, close") + b"hello")
            assert await client.answer() == (200, b"5 bytes")
            assert await client.reader.read() == b""

    run(main)


def test_who_is_refused_is_not_told_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(
                b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n"
            )
            status, _ = await client.refusal()
            assert status == 400
            assert not [record for record in caplog.records if record.levelname == "ERROR"]

    run(main)


def test_who_is_slow_with_a_head_is_refused() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET / HTTP/1.1\r\nhos")
            (connection,) = served.connections
            await served.until(lambda: connection._is_in_head())
            served.look()
            served.look(9.9)
            assert len(served.connections) == 1
            served.look(10.1)
            status, message = await client.refusal()
            assert status == 408
            assert "10 s (INFERD_HEAD_TIMEOUT_S)" in message

    run(main)


def test_who_is_slow_with_a_body_is_refused_and_the_request_ends() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345")
            await served.answers.asked.acquire()
            served.look()
            served.look(59.9)
            client.send(b"6")
            served.look(60.1)
            status, message = await client.refusal()
            assert status == 408
            assert "60 s (INFERD_BODY_TIMEOUT_S)" in message
            assert served.answers.disconnected == 1

    run(main)


def test_many_requests_that_are_each_quick_are_not_one_that_is_slow() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            for round_ in range(4):  # whenever anybody looks, there is a body that is not complete
                client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345")
                await served.answers.asked.acquire()
                served.look(30.0 * round_)
                client.send(b"67890")
                assert await client.answer() == (200, b"10 bytes")

    run(main)


def test_an_answer_may_take_as_long_as_it_takes() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            await served.answers.asked.acquire()
            served.look()
            served.look(3600.0)
            served.answers.go_on.set()
            assert await client.answer() == (200, b"0 bytes")

    run(main)


def test_who_reads_nothing_of_its_answer_is_cut_off_and_who_reads_slowly_is_not() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
            (connection,) = served.connections
            await served.until(lambda: connection.unread > 100_000)
            served.look()
            for round_ in range(1, 4):
                before = connection.unread
                await client.reader.readexactly(8_000_000)
                await served.until(lambda before=before: connection.unread < before - 100_000)
                served.look(25.0 * round_)
                assert len(served.connections) == 1
            served.look(25.0 * 3 + 30.1)
            await served.until(lambda: not served.connections)

    run(main)


def test_a_connection_that_never_asks_ends_as_one_that_asks_no_more() -> None:
    async def main() -> None:
        async with serving() as served:
            client = await served.connect()
            await served.until(lambda: len(served.connections) == 1)
            (connection,) = served.connections
            served.look(connection.timeout_keep_alive - 0.1)
            assert not connection.transport.is_closing()
            served.look(connection.timeout_keep_alive + 0.1)
            assert await client.reader.read() == b""

    run(main)


def test_one_connection_too_many_is_refused_in_words() -> None:
    async def main() -> None:
        async with serving(max_connections=2) as served:
            for _ in range(2):
                (await served.connect()).send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
                await served.answers.asked.acquire()
            status, message = await (await served.connect()).refusal()
            assert status == 503
            assert "2 (INFERD_MAX_CONNECTIONS)" in message

    run(main)


def test_where_it_gets_crowded_who_has_asked_nothing_for_longest_makes_room() -> None:
    async def main() -> None:
        async with serving() as served:
            waiting = [await served.connect() for _ in range(18)]
            busy = [await served.connect() for _ in range(2)]
            for client in busy:
                client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
                await served.answers.asked.acquire()
            await served.until(lambda: len(served.connections) == 20)
            served.look()
            await served.until(lambda: len(served.connections) == 17)
            ended = [client for client in waiting if client.reader.at_eof() or await _has_ended(client)]
            assert len(ended) == 3
            served.answers.go_on.set()
            for client in busy:
                assert (await client.answer())[0] == 200

    run(main)


async def _has_ended(client: Client) -> bool:
    try:
        async with asyncio.timeout(0.01):
            return await client.reader.read(1) == b""
    except TimeoutError:
        return False
