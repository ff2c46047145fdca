"""Server-sent events: an answer that is told while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.connections.protocol import CONNECTION, BoundedProtocol
from service.errors import Cancelled, InferdError
from service.protocols.requests import disconnected

_encode = msgspec.json.encode


def event(content: Any) -> bytes:
    """One event with `content`, which must be ready for JSON."""
    return b"data: " + _encode(content) + b"\n\n"


class EventStream(Response):
    """An answer in events; it has no status before its first one is there, so what fails until then fails as ever.

    Args:
        chunks: one or more events each; every chunk is a write.
        measured: what is open around the request, and is closed when the stream ends.
        failure: makes of an error the event that tells it in mid-stream.
        headers: of the answer.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        measured: ExitStack,
        failure: Callable[[InferdError], bytes],
        headers: dict[str, str],
    ) -> None:
        # Proxies that gather answers (nginx) would undo the stream.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._chunks = chunks
        self._measured = measured
        self._failure = failure
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes away."""
        connection: BoundedProtocol | None = scope.get(CONNECTION)
        past_layers = connection.sender(scope) if connection else None
        telling = asyncio.create_task(self._tell(send, past_layers or send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            with self._measured:
                await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
                if not telling.done():
                    raise Cancelled("the client went away before the end of its answer")
                telling.result()
        except InferdError:
            if not self._started:
                raise
        finally:
            gone.cancel()
            telling.cancel()
            await asyncio.wait((telling,))  # it lets go of what makes the answer

    async def _tell(self, send: Send, send_more: Send) -> None:
        """Send beginning and end as answers are sent, and what lies between past all layers: it comes often."""
        async with aclosing(self._chunks):
            try:
                async for chunk in self._chunks:
                    await self._start(send)
                    await send_more({"type": "http.response.body", "body": chunk, "more_body": True})
            except InferdError as error:
                if self._started:
                    await send({"type": "http.response.body", "body": self._failure(error), "more_body": False})
                raise
            await self._start(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
