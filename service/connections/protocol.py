"""One connection: uvicorn's HTTP/1.1 within bounds. What gets too large is noticed here, as it comes.

A request may be answered from here as soon as it has come, see `exchanges`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Literal, cast

import httptools
import msgspec
from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.connections.arrivals import Arrival, Held
from service.connections.exchanges import Cancellable, Exchange, Quick
from service.connections.limits import ConnectionLimits, Doing
from service.connections.sending import TogetherTransport
from service.connections.turns import LARGE_CHUNK, Turns

logger = logging.getLogger(__name__)

Refusal = Literal[400, 408, 413, 414, 429, 431, 503]
"""The statuses with which a connection ends before the application is asked."""

CONNECTION = "inferd.connection"
"""Where an ASGI scope has the connection that its request came on."""

_LINGER_S = 1.5
"""So long a client that was refused may go on sending: a connection that is closed at once takes its answer with it."""

MOST_HEADERS = 256
MOST_PIPELINED = 64
"""Requests of one connection that wait for the one before."""

_OF_UPGRADES = (b"connection", b"upgrade", b"http2-settings")

_PROGRESS_BYTES = 16 * 1024
"""Who reads less than this within `send_timeout_s` reads too slowly."""


class _Refused(Exception):
    """The parser has to stop: the request was answered."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, within `limits`, which `bounded` sets for the connections of a server.

    Attributes:
        when_lost: called when a connection has ended.
        bodies: counts bytes.
        quick: what is shown requests before the application is.
        turns: of all connections that send much.
        doing: what its client was found at.
        since: from when on, on the event loop's clock.
        is_lost: whether the client has gone away,
        ends_with: and what is cancelled then.
        refused_at: see `Connected`.
    """

    limits: ConnectionLimits
    when_lost: Callable[[], object]
    bodies: Held
    quick: Quick | None
    turns: Turns

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Take a connection, or refuse it where there are too many."""
        self.doing: Doing = "waits"
        self.since = self.loop.time()
        self._looked_at: object = None  # the request
        self._unread = 0
        self._received = 0  # of a head or a body that is not complete
        self._chunk = 0
        self._upgrades = False
        self._arrival: Arrival | None = None
        self.is_lost = False
        self.ends_with: set[Cancellable] = set()
        self.refused_at = -math.inf
        super().connection_made(TogetherTransport(transport, self.loop.call_soon))
        if len(self.connections) > (most := self.limits.max_connections):
            self.refuse(
                503, f"the server has all the connections that it takes, {most} (INFERD_MAX_CONNECTIONS)", linger=False
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone away, or was sent away."""
        self.is_lost = True
        for one in tuple(self.ends_with):
            one.cancel()
        self._drop_arrival()
        super().connection_lost(exc)
        self.cycle = self.scope = None  # type: ignore[assignment] # each has this, and all would keep each other
        self.when_lost()

    def data_received(self, data: bytes) -> None:
        """Read what has come, and refuse what gets too large."""
        if len(data) >= LARGE_CHUNK:
            self.turns.read(cast(TogetherTransport, self.transport), self.loop.call_soon)
            self.bodies.pass_by(len(data))
        if self.doing == "refused" or self.transport.is_closing():
            return
        before, self._chunk = self.scope, len(data)
        try:
            if len(data) > self.limits.max_head_bytes:
                self._parse_all(data)
            else:
                self._parse(data)
        except httptools.HttpParserError as error:
            if not self._is_refused:
                self.refuse(400, f"this can't be read as HTTP/1.1: {error}")
            return
        if (arrival := self._arrival) and not self._waits_for(arrival):
            self._tell_application(arrival)
        if self.scope is not before:
            self._received = 0  # of this request less than a chunk has come
        elif self._is_in_head():
            self._received += len(data)
            if self._received > self.limits.max_head_bytes:
                self._refuse_head()
        elif (cycle := self._begun) and cycle.more_body:
            self._received += len(data)
            if self._received > self.limits.max_message_bytes or len(self.headers) > MOST_HEADERS:
                self.refuse(
                    413,
                    f"what follows the head of a request may have {self.limits.max_message_bytes} bytes, with what the "
                    f"transfer adds to the body, and a request {MOST_HEADERS} headers, with those that come last",
                )

    def _parse_all(self, data: bytes) -> None:
        """Parse what has come, of a head little more than it may have: headers take many times what they came in."""
        most = self.limits.max_head_bytes
        head: object = None
        for start in range(0, len(data), most):
            if self._is_in_body():
                self._parse(data[start:])
                return
            self._parse(data[start : start + most])
            if self.doing == "refused":
                return
            before, head = head, self.scope if self._is_in_head() else None
            if head is not None and head is before:
                self._refuse_head()
                return

    def _parse(self, data: bytes) -> None:
        """Parse what has come. Nothing is upgraded to: a request that asks for it is answered as what it also is."""
        while data and self.doing != "refused":
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._upgrades:
                    return  # CONNECT, whose answer is the last
                self._begin_again()
                data = data[upgrade.args[0] :]
            else:
                return

    def _begin_again(self) -> None:
        """Have a head read as if it asked for no upgrade: else the parser takes what follows for another protocol.

        Java's client offers HTTP/2 with its first request, whatever it is, and that may well have a body.
        """
        self._upgrades = False
        closes = any(name == b"connection" and b"close" in value.lower() for name, value in self.headers)
        headers = [(name, value) for name, value in self.headers if name not in _OF_UPGRADES]
        if closes:
            headers.append((b"connection", b"close"))
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n")

    def on_headers_complete(self) -> None:
        """Check the head, and answer its request."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._upgrades = True
            return
        if self._received + self._chunk > self.limits.max_head_bytes:  # with what has come behind it
            head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if head > self.limits.max_head_bytes:
                self._refuse_head()
                raise _Refused
        if len(self.url) > (most := self.limits.max_url_bytes):
            self.refuse(414, f"the target of a request may have {most} bytes (INFERD_MAX_URL_BYTES)")
            raise _Refused
        if len(self.headers) > MOST_HEADERS:
            self.refuse(431, f"a request may have {MOST_HEADERS} headers, and this one has {len(self.headers)}")
            raise _Refused
        if len(self.pipeline) >= MOST_PIPELINED:
            self.refuse(429, f"at most {MOST_PIPELINED} requests of a connection may wait for the one before")
            raise _Refused
        self._received = 0
        found = self._find()
        if found is None:
            self._tell_application()
        else:
            self._arrival = Arrival(found)

    def on_body(self, body: bytes) -> None:
        """Some of the body has come."""
        if self._arrival:
            self._arrival.pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, unless its head is read again."""
        if self._upgrades:
            return
        if arrival := self._arrival:
            if self._is_taken(arrival):
                return
            self._tell_application(arrival)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was sent: go on with the next request, if it is there. `Watch` ends connections that rest."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def send_answer(self, status: int, content: Iterable[bytes], *, last: bool) -> None:
        """See `Connected.send_answer`."""
        if not self.transport.is_closing():
            self.transport.writelines((STATUS_LINE[status] + b"".join(content),))
            if last:
                self.transport.close()
        self.on_response_complete()

    def resume_writing(self) -> None:
        """The client has read most of what it had not."""
        if self.doing == "reads":
            self.doing = "runs"
        super().resume_writing()

    def shutdown(self) -> None:
        """The server ends: end when the answer has been sent."""
        if self.doing == "refused":
            self.transport.close()
        else:
            if self._arrival:
                self._tell_application(self._arrival)
            super().shutdown()

    def sender(self, scope: object) -> Send | None:
        """What sends the answer to the request of `scope` with no layer in between, if that is the last one."""
        cycle = self._begun
        if isinstance(cycle, RequestResponseCycle) and cycle.scope is scope:
            return cast(Send, cycle.send)
        return None

    def refuse(self, status: Refusal, message: str, *, linger: bool = True) -> None:
        """End the connection, with an error for an answer unless another answer is on its way."""
        self.doing, self.since = "refused", self.loop.time()
        self._drop_arrival()
        cycle = self._begun
        if cycle is None or cycle.response_complete:
            answer = True
        else:
            answer = not (cycle.response_started or self.pipeline or self._is_in_head())
            # Whoever makes an answer finds that there is nobody to take it, or to be told to go on.
            cycle.waiting_for_100_continue = False
            cycle.disconnected = True
            cycle.message_event.set()
        if answer:
            body = msgspec.json.encode({"error": message})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        if answer and linger and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()  # a client that sends before it looks would never see the answer
        else:
            self.transport.close()

    def look(self, now: float) -> None:
        """See what the client does, and end that if it takes too long."""
        if self.doing == "refused":
            if now - self.since > _LINGER_S:
                self.transport.abort()
            return
        doing = self._doing()
        if doing == "reads":
            unread = self.unread
            if doing != self.doing or unread + _PROGRESS_BYTES <= self._unread:
                self._unread, self.since = unread, now
        elif doing != self.doing or self.scope is not self._looked_at:
            self.since = now
        self.doing, self._looked_at = doing, self.scope
        seconds = now - self.since
        limits = self.limits
        if doing == "head" and seconds > limits.head_timeout_s:
            self.refuse(408, f"the head of a request may take {limits.head_timeout_s:g} s (INFERD_HEAD_TIMEOUT_S)")
        elif doing == "body" and seconds > limits.body_timeout_s:
            self.refuse(408, f"the body of a request may take {limits.body_timeout_s:g} s (INFERD_BODY_TIMEOUT_S)")
        elif doing == "reads" and seconds > limits.send_timeout_s:
            self.cut_off(f"it reads nothing of its answer for {limits.send_timeout_s:g} s (INFERD_SEND_TIMEOUT_S)")
        elif doing == "waits" and seconds > self.timeout_keep_alive:
            self.close()

    def close(self) -> None:
        """End the connection as one that has rested for long."""
        self.transport.close()

    def cut_off(self, why: str) -> None:
        """End the connection without a word: its client would not read it."""
        logger.info("a client is cut off: %s", why)
        self.transport.abort()

    @property
    def unread(self) -> int:
        """How many bytes wait for the client."""
        return self.transport.get_write_buffer_size()

    def _find(self) -> object | None:
        """What the request asks for, if it may be answered without the application."""
        if self.quick is None or self.expect_100_continue or self.flow.write_paused:
            return None
        cycle = self._begun
        if not (cycle is None or cycle.response_complete) or self.parser.get_method() != b"POST":
            return None
        return self.quick.find(self.url)

    def _waits_for(self, arrival: Arrival) -> bool:
        """Whether the rest of a body is waited for, of which some has come and is counted now."""
        quick = self.quick
        is_awaited = arrival.counted or (quick and quick.waits_for(arrival.found, self.headers))
        return bool(is_awaited) and arrival.hold(self.bodies)

    def _is_taken(self, arrival: Arrival) -> bool:
        """Whether a request that has come whole is answered without the application."""
        exchange = Exchange(
            self,
            self.scope,
            arrival.pieces,
            arrival.since,
            keep_alive=self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive(),
        )
        arrival.let_go(self.bodies)
        before, self.cycle = self.cycle, exchange  # type: ignore[assignment] # see Exchange
        if self.quick and self.quick.begin(arrival.found, exchange):
            self._arrival = None
            return True
        self.cycle = before
        return False

    def _tell_application(self, arrival: Arrival | None = None) -> None:
        """Begin with the request, of whose body some may have come."""
        self._drop_arrival()
        self.scope[CONNECTION] = self  # type: ignore[literal-required] # a scope may have keys of a server's own
        super().on_headers_complete()
        for body in arrival.pieces if arrival else ():
            super().on_body(body)

    def _drop_arrival(self) -> None:
        if self._arrival:
            self._arrival.let_go(self.bodies)
            self._arrival = None

    def _doing(self) -> Doing:
        if self.flow.write_paused:
            return "reads"
        if self._is_in_head():
            return "head"
        if self._arrival:
            return "body"
        cycle = self._begun
        if cycle is None:
            return "waits"
        if cycle.more_body:
            return "body"
        return "waits" if cycle.response_complete else "runs"

    @property
    def _is_refused(self) -> bool:
        """Whether `refuse` was called, also from a callback of the parser."""
        return self.doing == "refused"

    def _is_in_body(self) -> bool:
        """Whether a request has begun of whose body more is to come."""
        cycle = self._begun
        return self._arrival is not None or (cycle is not None and cycle.more_body and not self._is_in_head())

    def _is_in_head(self) -> bool:
        """Whether a request has begun whose head is not complete."""
        if self._arrival:
            return False
        last: object | None = self.scope
        cycle = self._begun
        return last is not None and (cycle is None or cycle.scope is not last)

    @property
    def _begun(self) -> RequestResponseCycle | Exchange | None:
        """The last request whose head is complete."""
        return self.cycle

    def _refuse_head(self) -> None:
        most = self.limits.max_head_bytes
        self.headers.clear()  # they would be kept until the client has gone
        self.refuse(431, f"the line and headers of a request may have {most} bytes together (INFERD_MAX_HEAD_BYTES)")


def bounded(
    limits: ConnectionLimits,
    bodies: Held,
    when_lost: Callable[[], object] = bool,
    quick: Quick | None = None,
) -> type[BoundedProtocol]:
    """The protocol of a server whose connections have `limits`, and which wants to know when one has ended.

    Args:
        limits: of each connection, and of all.
        bodies: counts what comes.
        when_lost: called when a connection has ended.
        quick: what is shown requests before the application is.
    """
    own = {
        "limits": limits,
        "bodies": bodies,
        "when_lost": staticmethod(when_lost),
        "quick": quick,
        "turns": Turns(),
    }
    return type("BoundedProtocol", (BoundedProtocol,), own)
