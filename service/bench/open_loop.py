"""An open loop: requests that are sent when they are due, whatever became of others.

Time is counted from when a request was due, so a server that stalls is charged for all that should have been asked
meanwhile.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Sequence

from service.bench.address import Address
from service.bench.connection import Clock, Connection
from service.bench.load import Load, why
from service.bench.messages import Request


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
            self._take(self._wait(min(self._next_due(), when) - self.clock()))
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
            self.samples.lost[why(error)] += 1
