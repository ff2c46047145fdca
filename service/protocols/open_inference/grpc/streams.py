"""Requests of one stream, answered together: each as soon as it is finished, and only so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from service.errors import Cancelled, NotReady
from service.protocols.open_inference.grpc.calls import Duplex

Answer = Callable[[bytes], Awaitable[bytes]]

_STOPPED = "the server is being stopped and reads no more of this stream"


class Streams:
    """All open streams of a server.

    Args:
        most: how many requests of a stream may be in work or wait for the client to take their answer; no further ones
            are read until one is through.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._readers: set[asyncio.Task[None]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Read no further requests; each stream ends once what was read is answered."""
        self._stopping = True
        for reader in self._readers:
            reader.cancel()

    async def serve(self, duplex: Duplex, answer: Answer) -> None:
        """Answer every request of a stream; when it is cancelled, so is what it has in work.

        Args:
            duplex: the stream.
            answer: from a request to its answer, or to what says why there is none.

        Raises:
            NotReady: the server stopped before the client did.
            Cancelled: the client takes no more answers.
        """
        if self._stopping:
            raise NotReady(_STOPPED)
        room = asyncio.Semaphore(self._most)
        writing = asyncio.Lock()

        async def work(request: bytes) -> None:
            response = await answer(request)
            async with writing:
                try:
                    await duplex.write(response)
                except Exception as error:  # whatever gRPC makes of a stream that has ended
                    raise Cancelled(f"the client takes no more answers: {error}") from error
            room.release()

        async def read() -> None:
            while True:
                await room.acquire()
                request = await duplex.read()
                if request is None:
                    return
                tasks.create_task(work(request))

        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(read())
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if reader.cancelled():
            raise NotReady(_STOPPED)
