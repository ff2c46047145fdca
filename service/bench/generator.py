"""Puts load on a server, cheaply: it shares the machine with the server, and what it takes the server has not.

One thread watches all sockets; requests were made before; of an answer no more is read than `Answer` does. A closed
loop has so many clients, each of which asks again as soon as it has been answered. An open loop sends requests when
they are due, whatever became of others, and counts the time from when they were: a server that stalls is charged for
all that should have been asked meanwhile.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from service.bench.address import Address
from service.bench.messages import Answer, Request, Unreadable
from service.bench.samples import Samples

Clock = Callable[[], float]

TIMED_STREAMS = 8
"""Of a closed loop of streams so many connections are read as soon as something comes. The others are emptied now and
then, as if they were far away: reading each of their tokens as it comes would take the server's time."""

_EMPTIED_EVERY_S = 0.02
_READ_BYTES = 64 * 1024
_MOST_FAILURES = 20
"""Connections that may fail one after the other, beside as many as there are."""
_NO_PROBLEM = {0, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOTCONN, errno.EINPROGRESS}


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

    def __init__(self, load: Load, *, watched: bool) -> None:
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


class Load(ABC):
    """What both loops have in common.

    Args:
        address: of the server.
        requests: what is asked, in turns.
        warm_up_s: for so long nothing is measured,
        seconds: and then for so long all is.
        clock: in seconds.
    """

    def __init__(
        self,
        address: Address,
        requests: Sequence[Request],
        *,
        warm_up_s: float,
        seconds: float,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.socket_address = address.resolved()
        self.selector = selectors.DefaultSelector()
        self.clock = clock
        self.samples = Samples(seconds)
        self._address = address
        self._requests = requests
        self._asked = 0
        self._failures = 0
        self._most_at_once = 0
        self._warm_up_s = warm_up_s
        self._connections: set[Connection] = set()
        self._begin = self._end = 0.0

    def run(self) -> Samples:
        """Put the load on, and return what was measured.

        Raises:
            OSError: the server can't be reached, or is gone.
        """
        self._begin = self.clock() + self._warm_up_s
        self._end = self._begin + self.samples.seconds
        taken = 0.0
        try:
            self._start()
            self._go_on_until(self._begin)
            taken = time.process_time()
            self._go_on_until(self._end)
            self.samples.processor_s = time.process_time() - taken
            self._finish()
        finally:
            for one in self._connections:
                one.close()
            self.selector.close()
        return self.samples

    @abstractmethod
    def answered(self, connection: Connection, now: float) -> None:
        """An answer is complete."""

    @abstractmethod
    def heard(self, connection: Connection, events: int, due: float | None, last: float, now: float) -> None:
        """Events of a stream have come, in one piece.

        Args:
            connection: on which.
            events: how many.
            due: of the stream's request, if these are its first.
            last: when others came before.
            now: when these came.
        """

    @abstractmethod
    def _start(self) -> None:
        """Connect."""

    @abstractmethod
    def _go_on_until(self, when: float) -> None:
        """Work until then."""

    @abstractmethod
    def _finish(self) -> None:
        """Wait for what is still awaited, if anything is."""

    @abstractmethod
    def _replace(self, connection: Connection, error: OSError) -> None:
        """A connection is broken, and has been closed."""

    def _connect(self, *, watched: bool = True) -> Connection:
        connection = Connection(self, watched=watched)
        self._connections.add(connection)
        self._most_at_once = max(self._most_at_once, len(self._connections))
        return connection

    def _next(self) -> Request:
        request = self._requests[self._asked % len(self._requests)]
        self._asked += 1
        return request

    def _ask(self, connection: Connection, request: Request, due: float) -> None:
        try:
            connection.ask(request, due)
        except OSError as error:
            self._break(connection, error)

    def _take(self, connections: Iterable[Connection]) -> None:
        """Have connections go on, and see to those that break."""
        for connection in connections:
            try:
                connection.go_on()
            except OSError as error:
                self._break(connection, error)

    def _break(self, connection: Connection, error: OSError) -> None:
        connection.close()
        self._connections.discard(connection)
        self._failures += connection.waits
        if self._failures > _MOST_FAILURES + 2 * self._most_at_once:
            raise OSError(f"{self._address} can't be reached: {error}") from error
        self._replace(connection, error)

    def _count_events(self, events: int, due: float | None, last: float, now: float) -> None:
        """Count the times of events that came together: the first of them waited, the others did not."""
        if due is not None:
            self.samples.first_s.append(now - due)
        else:
            self.samples.gaps_s.append(now - last)
        self.samples.gaps_s.extend([0.0] * (events - 1))

    def _ready(self, seconds: float = 0) -> list[Connection]:
        """The connections on which something comes within so many seconds, which may become a whole millisecond."""
        return [key.data for key, _ in self.selector.select(max(0.0, seconds))]

    def _measures(self, when: float) -> bool:
        return self._begin <= when < self._end


class ClosedLoop(Load):
    """So many clients, each of which asks again as soon as it has been answered.

    An answer is measured if it is complete within the time that is.

    Args:
        address: of the server.
        requests: what is asked, in turns.
        clients: how many.
        streamed: whether answers are streams.
        warm_up_s: as of `Load`.
        seconds: as of `Load`.
        clock: in seconds.
    """

    def __init__(
        self,
        address: Address,
        requests: Sequence[Request],
        *,
        clients: int,
        streamed: bool = False,
        warm_up_s: float,
        seconds: float,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(address, requests, warm_up_s=warm_up_s, seconds=seconds, clock=clock)
        self._clients = clients
        self._timed = TIMED_STREAMS if streamed else clients
        self._broken: list[Connection] = []
        self._emptied_at = 0.0

    def answered(self, connection: Connection, now: float) -> None:
        """See `Load.answered`."""
        self._failures = 0
        if self._measures(now):
            request = connection.request
            assert request is not None  # noqa: S101 - this is the answer to it
            taken = now - connection.due if connection.watched else None
            self.samples.count(connection.answer, taken, request.units)
        if connection.answer.closes:
            raise ConnectionResetError("the server ends the connection")
        self._ask(connection, self._next(), now)

    def heard(self, connection: Connection, events: int, due: float | None, last: float, now: float) -> None:
        """See `Load.heard`."""
        if not self._measures(now):
            return
        self.samples.tokens += events
        if connection.watched:
            self._count_events(events, due, last, now)

    def _start(self) -> None:
        for number in range(self._clients):
            self._ask(self._connect(watched=number < self._timed), self._next(), self.clock())
        self._emptied_at = self.clock()

    def _go_on_until(self, when: float) -> None:
        emptied = [one for one in self._connections if not one.watched]
        while (now := self.clock()) < when:
            self._take(self._ready(min(when, self._emptied_at + _EMPTIED_EVERY_S) - now if emptied else when - now))
            if emptied and self.clock() >= self._emptied_at + _EMPTIED_EVERY_S:
                self._emptied_at = self.clock()
                self._take(emptied)
            if self._broken:
                for old in self._broken:
                    self._ask(self._connect(watched=old.watched), self._next(), self.clock())
                self._broken.clear()
                emptied = [one for one in self._connections if not one.watched]

    def _finish(self) -> None:
        """What is awaited when the time is over is not measured."""

    def _replace(self, connection: Connection, error: OSError) -> None:
        if connection.waits and self._measures(self.clock()):
            self.samples.lost[_why(error)] += 1
        self._broken.append(connection)


class OpenLoop(Load):
    """Requests that are sent when they are due, on whichever connection is free.

    A request is measured if it is due within the time that is, whenever it is answered. Where all connections are
    busy another one is made; where there may be no more, the request waits here, and that counts.

    Args:
        address: of the server.
        requests: what is asked, in turns.
        due: when, in seconds from the start, in rising order.
        connections: to begin with.
        most_connections: at most.
        patience_s: how long after the end answers are awaited.
        warm_up_s: as of `Load`.
        seconds: as of `Load`.
        clock: in seconds.
    """

    def __init__(
        self,
        address: Address,
        requests: Sequence[Request],
        *,
        due: Sequence[float],
        connections: int,
        most_connections: int,
        patience_s: float = 30.0,
        warm_up_s: float,
        seconds: float,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(address, requests, warm_up_s=warm_up_s, seconds=seconds, clock=clock)
        self._first_connections = connections
        self._most_connections = most_connections
        self._patience_s = patience_s
        self._due = due
        self._place = 0
        self._awaited = 0
        self._waiting: deque[float] = deque()
        self._idle: deque[Connection] = deque()

    def answered(self, connection: Connection, now: float) -> None:
        """See `Load.answered`."""
        self._failures = 0
        if self._measures(connection.due):
            request = connection.request
            assert request is not None  # noqa: S101 - this is the answer to it
            self._awaited -= 1
            self.samples.count(connection.answer, now - connection.due, request.units)
        if connection.answer.closes:
            raise ConnectionResetError("the server ends the connection")
        self._idle.append(connection)

    def heard(self, connection: Connection, events: int, due: float | None, last: float, now: float) -> None:
        """See `Load.heard`."""
        if self._measures(now):
            self.samples.tokens += events
        if self._measures(connection.due):
            self._count_events(events, due, last, now)

    def _start(self) -> None:
        self._idle.extend(self._connect() for _ in range(self._first_connections))

    def _go_on_until(self, when: float) -> None:
        while (now := self.clock()) < when:
            self._send_due(now)
            self._take(self._ready() or self._wait(min(self._next_due(), when) - self.clock()))
        self._send_due(when)

    def _finish(self) -> None:
        until = self._end + self._patience_s
        while self._awaited and (now := self.clock()) < until:
            self._take(self._ready(until - now))
            self._send_waiting()
        if self._awaited:
            self.samples.lost["no answer"] += self._awaited

    def _wait(self, seconds: float) -> list[Connection]:
        """As `_ready`, but to microseconds: what is due must not be sent a millisecond late."""
        fileno = getattr(self.selector, "fileno", None)
        if fileno is None:
            return self._ready(seconds)
        if seconds > 0:
            select.select([fileno()], [], [], seconds)
        return self._ready()

    def _next_due(self) -> float:
        return self._begin - self._warm_up_s + self._due[self._place] if self._place < len(self._due) else float("inf")

    def _send_due(self, now: float) -> None:
        """Send what is due by `now`."""
        while (due := self._next_due()) <= now:
            self._place += 1
            self._awaited += self._measures(due)
            self._waiting.append(due)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what is due, as far as there are connections for it."""
        while self._waiting and (self._idle or len(self._connections) < self._most_connections):
            connection = self._idle.popleft() if self._idle else self._connect()
            due = self._waiting.popleft()
            if self._measures(due):
                self.samples.late_s.append(self.clock() - due)
            self._ask(connection, self._next(), due)

    def _replace(self, connection: Connection, error: OSError) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        elif connection.waits and self._measures(connection.due):
            self._awaited -= 1
            self.samples.lost[_why(error)] += 1


def _why(error: OSError) -> str:
    """A word or two for why there is no answer."""
    if isinstance(error, Unreadable):
        return "unreadable"
    return "refused" if isinstance(error, ConnectionRefusedError) else "disconnected"
