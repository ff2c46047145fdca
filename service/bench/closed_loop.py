"""A closed loop: so many clients, each of which asks again as soon as it has been answered."""

from __future__ import annotations

import time
from collections.abc import Sequence

from service.bench.address import Address
from service.bench.connection import Clock, Connection
from service.bench.load import Load, why
from service.bench.messages import Request

TIMED_STREAMS = 8
"""Of a closed loop of streams so many connections are read as soon as something comes. The others are emptied now and
then, as if they were far away: reading each of their tokens as it comes would take the server's time."""

_EMPTIED_EVERY_S = 0.02


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
        while (now := self.clock()) < when:
            self._mend()
            until = when if self._timed >= self._clients else min(when, self._emptied_at + _EMPTIED_EVERY_S)
            self._take(self._ready(0 if self._broken else until - now))
            if self._timed < self._clients and self.clock() >= self._emptied_at + _EMPTIED_EVERY_S:
                self._emptied_at = self.clock()
                self._take([one for one in self._connections if not one.watched])

    def _mend(self) -> None:
        """Put others in the place of connections that have broken."""
        broken, self._broken = self._broken, []
        for old in broken:
            self._ask(self._connect(watched=old.watched), self._next(), self.clock())

    def _finish(self) -> None:
        """What is awaited when the time is over is not measured."""

    def _replace(self, connection: Connection, error: OSError) -> None:
        if connection.waits and self._measures(self.clock()):
            self.samples.lost[why(error)] += 1
        self._broken.append(connection)
