"""Load on a server, put on cheaply: it shares the machine with the server, and what it takes the server has not.

One thread watches all sockets, requests were made before, and of an answer no more is read than `Answer` does.
"""

from __future__ import annotations

import selectors
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from service.bench.address import Address
from service.bench.connection import Clock, Connection
from service.bench.messages import Request, Unreadable
from service.bench.samples import Samples

_MOST_FAILURES = 20
"""Connections that may fail one after the other, beside twice as many as there are."""


class _Gone(Exception):
    """So many connections have failed that there is no going on; no OSError, which is about one of them."""


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
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
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
        except _Gone as gone:
            raise OSError(str(gone)) from gone
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
            raise _Gone(f"{self._address} can't be reached: {error}") from error
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


def why(error: OSError) -> str:
    """A word or two for why there is no answer."""
    if isinstance(error, Unreadable):
        return "unreadable"
    return "refused" if isinstance(error, ConnectionRefusedError) else "disconnected"
