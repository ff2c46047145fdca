from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.errors import Cancelled, NotReady
from service.protocols.open_inference.grpc.calls import Duplex
from service.protocols.open_inference.grpc.streams import Streams


class Wire:
    """Both directions of a stream: what a client sends, and what it is sent."""

    def __init__(self, *requests: bytes, ends: bool = True) -> None:
        self.requests = asyncio.Queue[bytes | None]()
        for request in (*requests, *([None] if ends else [])):
            self.requests.put_nowait(request)
        self.read = 0
        self.answers: list[bytes] = []
        self.writing = 0
        self.broken = False
        self.taken = asyncio.Event()
        self.taken.set()
        self.duplex = Duplex(self._read, self._write)

    async def _read(self) -> bytes | None:
        request = await self.requests.get()
        self.read += 1
        return request

    async def _write(self, answer: bytes) -> None:
        assert not self.writing, "two answers are written at once"
        self.writing += 1
        await self.taken.wait()
        await asyncio.sleep(0)
        self.writing -= 1
        if self.broken:
            raise ConnectionError("gone")
        self.answers.append(answer)


async def settle() -> None:
    """Let everything that can happen without more from outside happen."""
    for _ in range(50):
        await asyncio.sleep(0)


def gated(gates: dict[bytes, asyncio.Event]) -> Callable[[bytes], Awaitable[bytes]]:
    async def answer(request: bytes) -> bytes:
        await gates.setdefault(request, asyncio.Event()).wait()
        return b"to " + request

    return answer


async def at_once(request: bytes) -> bytes:
    return b"to " + request


def test_answers_come_as_they_are_finished() -> None:
    async def main() -> None:
        wire, gates = Wire(b"a", b"b", b"c"), dict[bytes, asyncio.Event]()
        serving = asyncio.create_task(Streams(8).serve(wire.duplex, gated(gates)))
        await settle()
        for name in (b"c", b"a"):
            gates[name].set()
            await settle()
        assert wire.answers == [b"to c", b"to a"]
        assert not serving.done()
        gates[b"b"].set()
        await serving
        assert wire.answers == [b"to c", b"to a", b"to b"]

    asyncio.run(main())


def test_a_stream_without_requests_ends() -> None:
    async def main() -> None:
        wire = Wire()
        await Streams(8).serve(wire.duplex, at_once)
        assert wire.answers == []

    asyncio.run(main())


def test_no_further_request_is_read_until_one_is_through() -> None:
    async def main() -> None:
        wire, gates = Wire(b"a", b"b", b"c", b"d"), dict[bytes, asyncio.Event]()
        serving = asyncio.create_task(Streams(2).serve(wire.duplex, gated(gates)))
        await settle()
        assert wire.read == 2
        gates[b"b"].set()
        await settle()
        assert wire.read == 3
        for name in (b"a", b"c", b"d"):
            gates.setdefault(name, asyncio.Event()).set()
        await serving
        assert len(wire.answers) == 4

    asyncio.run(main())


def test_a_client_that_takes_no_answers_is_read_no_further() -> None:
    async def main() -> None:
        wire = Wire(*(b"%d" % number for number in range(10)))
        wire.taken.clear()
        serving = asyncio.create_task(Streams(3).serve(wire.duplex, at_once))
        await settle()
        assert wire.read == 3
        wire.taken.set()
        await serving
        assert len(wire.answers) == 10

    asyncio.run(main())


def test_a_stream_that_is_cancelled_cancels_its_work() -> None:
    async def main() -> None:
        cancelled = []

        async def answer(request: bytes) -> bytes:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request)
                raise
            raise AssertionError

        wire = Wire(b"a", b"b", ends=False)
        serving = asyncio.create_task(Streams(8).serve(wire.duplex, answer))
        await settle()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert sorted(cancelled) == [b"a", b"b"]

    asyncio.run(main())


def test_a_client_that_takes_no_more_ends_its_stream_and_its_work() -> None:
    async def main() -> None:
        wire, gates = Wire(b"a", b"b", ends=False), dict[bytes, asyncio.Event]()
        serving = asyncio.create_task(Streams(8).serve(wire.duplex, gated(gates)))
        await settle()
        wire.broken = True
        gates[b"a"].set()
        with pytest.raises(Cancelled, match="takes no more answers: gone"):
            await serving
        assert wire.answers == []
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_defect_is_not_taken_for_a_client_that_has_gone() -> None:
    async def main() -> None:
        async def answer(_: bytes) -> bytes:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await Streams(8).serve(Wire(b"a", ends=False).duplex, answer)

    asyncio.run(main())


@pytest.mark.parametrize("most", [2, 8])
def test_stopping_answers_what_was_read_and_reads_no_more(most: int) -> None:
    async def main() -> None:
        streams = Streams(most)
        wire, gates = Wire(b"a", b"b", ends=False), dict[bytes, asyncio.Event]()
        serving = asyncio.create_task(streams.serve(wire.duplex, gated(gates)))
        await settle()
        streams.stop()
        wire.requests.put_nowait(b"too late")
        await settle()
        assert not serving.done()
        gates[b"a"].set()
        gates[b"b"].set()
        with pytest.raises(NotReady, match="is being stopped"):
            await serving
        assert wire.answers == [b"to a", b"to b"]
        assert wire.requests.get_nowait() == b"too late"

    asyncio.run(main())


def test_after_stopping_no_stream_is_read() -> None:
    async def main() -> None:
        streams = Streams(8)
        streams.stop()
        wire = Wire(b"a")
        with pytest.raises(NotReady):
            await streams.serve(wire.duplex, at_once)
        assert wire.read == 0

    asyncio.run(main())


def test_stopping_leaves_a_stream_alone_that_has_ended() -> None:
    async def main() -> None:
        streams = Streams(8)
        wire, gates = Wire(b"a"), dict[bytes, asyncio.Event]()
        serving = asyncio.create_task(streams.serve(wire.duplex, gated(gates)))
        await settle()
        streams.stop()
        gates[b"a"].set()
        await serving
        assert wire.answers == [b"to a"]

    asyncio.run(main())
