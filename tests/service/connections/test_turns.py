"""Who is read when, of those who send much."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import pytest
import uvloop

from service.connections.sending import TogetherTransport
from service.connections.turns import LARGE_CHUNK, Turns

PATIENCE_S = 20


class Sender:
    """A connection that always has more to be read."""

    def __init__(self) -> None:
        self.rests = False

    def rest(self) -> None:
        assert not self.rests
        self.rests = True

    def go_on(self) -> None:
        assert self.rests
        self.rests = False


def test_of_several_each_has_its_turn_and_one_alone_need_not_wait() -> None:
    passes: deque[Callable[[], None]] = deque()
    turns, senders = Turns(), [Sender() for _ in range(3)]
    read: list[int] = []

    def go_round(count: int) -> None:
        """Passes of an event loop, in each of which whoever does not rest is read."""
        for _ in range(count):
            for sender in senders:
                if not sender.rests:
                    read.append(senders.index(sender))
                    turns.read(sender, passes.append)
            for _ in range(len(passes)):
                passes.popleft()()

    go_round(1)
    assert read == [0, 1, 2], "all are read before anybody can know"
    read.clear()
    go_round(9)
    assert all(read.count(one) in (3, 4) for one in range(3)), read
    assert len(read) <= 10, "one in a pass, but for the first, which had not to rest"
    senders[1:] = []
    while passes:
        passes.popleft()()
    read.clear()
    go_round(5)
    assert read == [0] * 5


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_transport_is_read_only_if_it_neither_rests_nor_is_paused(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    class Reading(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport) or loop is uvloop.new_event_loop
            made.set_result(TogetherTransport(transport, asyncio.get_running_loop().call_soon))  # type: ignore[arg-type]

        def data_received(self, data: bytes) -> None:
            nonlocal received
            received += len(data)

    async def main() -> None:
        nonlocal made
        made = asyncio.get_running_loop().create_future()
        server = await asyncio.get_running_loop().create_server(Reading, "127.0.0.1", 0)
        _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        transport = await made
        for stop, go_on in (
            ((transport.rest,), (transport.go_on,)),
            ((transport.pause_reading,), (transport.resume_reading,)),
            ((transport.rest, transport.pause_reading), (transport.resume_reading, transport.go_on)),
            ((transport.pause_reading, transport.rest), (transport.resume_reading, transport.go_on)),
            ((transport.rest, transport.pause_reading), (transport.go_on, transport.resume_reading)),
        ):
            for call in stop:
                call()
            before = received
            writer.write(b"x" * LARGE_CHUNK)
            for call in go_on[:-1]:
                call()
                await asyncio.sleep(0.01)
                assert received == before
            go_on[-1]()
            while received < before + LARGE_CHUNK:  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0.001)
        transport.close()
        transport.rest()
        transport.go_on()
        writer.close()
        server.close()

    received = 0
    made: asyncio.Future[TogetherTransport]
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main(), PATIENCE_S))
