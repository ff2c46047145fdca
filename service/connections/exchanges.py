"""A request that has come, and the answer to it, where no ASGI application stands in between.

An application costs a small model more than the model's run: a task, a dictionary, half a dozen layers, and messages
to and fro. So a connection shows a request that has none before it to `Quick` first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Header = tuple[bytes, bytes]


class Cancellable(Protocol):
    """What a client waits for."""

    def cancel(self) -> object:
        """It waits no longer."""


class Connected(Protocol):
    """The connection of an exchange.

    Attributes:
        ends_with: what is cancelled when the client goes away.
        refused_at: when the last request was refused because too much is asked, on the event loop's clock.
    """

    ends_with: set[Cancellable]
    refused_at: float

    def send_answer(self, status: int, content: Iterable[bytes], *, last: bool) -> None:
        """Send an answer: the line with its status, and all that follows. `last`: and end."""


class _Unheard:
    """In the place of an event that nobody waits for."""

    def set(self) -> None:
        """Nothing comes of it."""


_UNHEARD = _Unheard()


class Exchange:
    """A request and what becomes of it. To uvicorn it is what its own `RequestResponseCycle` is.

    Args:
        connection: on which.
        scope: of ASGI, as far as uvicorn has made it for an application: the headers, names in lower case.
        pieces: in which its body came; whoever takes the request lets go of them.
        since: when its head had come, on the clock of `time.monotonic`.
        keep_alive: whether the client may ask again on this connection.

    Attributes:
        size: of the body, in bytes.
        disconnected: whether the client has gone away, or was sent away.
    """

    __slots__ = (
        "connection",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "pieces",
        "response_complete",
        "response_started",
        "scope",
        "since",
        "size",
        "waiting_for_100_continue",
    )

    def __init__(
        self, connection: Connected, scope: Any, pieces: Sequence[bytes], since: float, *, keep_alive: bool
    ) -> None:
        self.connection = connection
        self.scope = scope
        self.pieces = pieces
        self.size = sum(map(len, pieces))
        self.since = since
        self.keep_alive = keep_alive
        self.disconnected = False
        # What uvicorn wants to know of a cycle.
        self.more_body = False
        self.message_event = _UNHEARD
        self.response_started = False
        self.response_complete = False
        self.waiting_for_100_continue = False

    def answer(self, status: int, headers: Iterable[Header], body: bytes, *, last: bool = False) -> None:
        """Answer, once.

        Args:
            status: of HTTP.
            headers: all of them, `content-length` too.
            body: as it is sent.
            last: whether the connection ends behind it; it also does where the client or the server wants that.
        """
        self.response_started = self.response_complete = True
        self.pieces = ()  # a connection that rests keeps its last exchange
        if self.disconnected:
            return
        content: list[bytes] = []
        for name, value in headers:
            content += (name, b": ", value, b"\r\n")
        last = last or not self.keep_alive
        content += (b"connection: close\r\n\r\n" if last else b"\r\n", body)
        self.connection.send_answer(status, content, last=last)


class Quick(Protocol):
    """What may answer without an application."""

    def find(self, url: bytes) -> object | None:
        """What is asked for by POST at a target, if it may be answered so."""

    def waits_for(self, found: Any, headers: Sequence[Header]) -> bool:
        """Whether a body that does not come with its head is waited for: it is little, and asked for by who may ask."""

    def begin(self, found: Any, exchange: Exchange) -> bool:
        """Take a request, whose answer comes now or later; False: it is one for the application."""
