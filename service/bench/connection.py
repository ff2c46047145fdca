"""One connection of a load: requests go out, answers come in, and nothing waits."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable
from typing import Any, Protocol

from service.bench.messages import Answer, Request, Unreadable

Clock = Callable[[], float]

_READ_BYTES = 64 * 1024
_NO_PROBLEM = {0, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOTCONN, errno.EINPROGRESS}


class Listener(Protocol):
    """What a connection is part of.

    Attributes:
        socket_address: family and address of the server.
        selector: that watches connections.
        clock: in seconds.
    """

    socket_address: tuple[socket.AddressFamily, Any]
    selector: selectors.BaseSelector
    clock: Clock

    def answered(self, connection: Connection, now: float) -> None:
        """An answer is complete."""

    def heard(self, connection: Connection, events: int, due: float | None, last: float, now: float) -> None:
        """Events of a stream have come, in one piece.

        Args:
            connection: on which.
            events: how many.
            due: when their request was, if these are its first.
            last: when others came before.
            now: when these came.
        """


class Connection:
    """One connection, on which one request is asked after the other.

    Args:
        load: which is told of answers.
        watched: whether what comes is read at once.

    Attributes:
        request: the last one that was asked.
        due: when.
        waits: whether its answer is not complete.
        answer: what has come of it.
    """

    __slots__ = (
        "_heard",
        "_load",
        "_problem",
        "_socket",
        "_told",
        "_unsent",
        "answer",
        "due",
        "request",
        "waits",
        "watched",
    )

    def __init__(self, load: Listener, *, watched: bool) -> None:
        self.request: Request | None = None
        self.due = 0.0
        self.waits = False
        self.answer = Answer()
        self.watched = watched
        self._load = load
        self._unsent: memoryview | None = None
        self._told = 0
        self._heard = 0.0
        family, address = load.socket_address
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._problem = self._socket.connect_ex(address)
        if watched:
            load.selector.register(self._socket, selectors.EVENT_READ, self)

    def ask(self, request: Request, due: float) -> None:
        """Send a request, as much of it as can be sent now.

        Raises:
            OSError: the connection is broken.
        """
        self.request, self.due, self.waits = request, due, True
        self.answer.begin()
        self._told = 0
        if self._problem not in _NO_PROBLEM:
            raise OSError(self._problem, os.strerror(self._problem))
        if (sent := self._send(request.content)) < len(request.content):
            self._unsent = memoryview(request.content)[sent:]
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)

    def go_on(self) -> None:
        """Send what is left, and take what has come.

        Raises:
            OSError: the connection is broken, or has ended while an answer was awaited.
        """
        if self._unsent is not None:
            self._unsent = self._unsent[self._send(self._unsent) :]
            if self._unsent:
                return
            self._unsent = None
            self._watch(selectors.EVENT_READ)
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        now = self._load.clock()
        if not data:
            raise ConnectionResetError("the server closed the connection")
        if not self.waits:
            raise Unreadable("the server says something that nobody asked for")
        answer = self.answer
        complete = answer.feed(data)
        if answer.events > self._told:
            self._load.heard(self, answer.events - self._told, None if self._told else self.due, self._heard, now)
            self._told, self._heard = answer.events, now
        if complete:
            self.waits = False
            self._load.answered(self, now)

    def close(self) -> None:
        """Go away."""
        if self.watched:
            self._load.selector.unregister(self._socket)
        self._socket.close()

    def _send(self, content: bytes | memoryview) -> int:
        try:
            return self._socket.send(content)
        except OSError as error:
            if error.errno in _NO_PROBLEM:
                return 0
            raise

    def _watch(self, events: int) -> None:
        if self.watched:
            self._load.selector.modify(self._socket, events, self)
