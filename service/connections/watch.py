"""What takes too long, and what all connections take together: each is looked at once a second.

So a request that takes no time costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from service.connections.limits import ConnectionLimits, Doing

LOOK_EVERY_S = 1.0

_CROWDED, _ROOMY = 0.95, 0.85
"""Above this share of the most connections those that have waited for longest are closed, down to that share."""


class Watched(Protocol):
    """A connection, as `Watch` sees it."""

    doing: Doing
    since: float

    def look(self, now: float) -> None:
        """See what its client does, and end that if it takes too long."""

    def cut_off(self, why: str) -> None:
        """End it without a word."""

    def close(self) -> None:
        """End it as a connection ends that has rested for long."""

    @property
    def unread(self) -> int:
        """How many bytes wait for its client."""


class Watch:
    """Looks at all connections once a second, for as long as `start` says.

    Args:
        connections: those that there are, whenever it looks.
        limits: of all of them.
    """

    def __init__(self, connections: Iterable[Watched], limits: ConnectionLimits) -> None:
        self._connections = connections
        self._limits = limits
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on; in the event loop."""
        loop = asyncio.get_running_loop()
        self._next = loop.call_later(LOOK_EVERY_S, self._look_and_go_on, loop)

    def stop(self) -> None:
        """Look no more."""
        if self._next:
            self._next.cancel()

    def look(self, now: float) -> None:
        """Look once, at `now` on the event loop's clock."""
        connections = list(self._connections)
        for one in connections:
            one.look(now)
        self._bound_what_is_unread(connections)
        self._make_room(connections)

    def _look_and_go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self.look(loop.time())
        finally:
            self._next = loop.call_later(LOOK_EVERY_S, self._look_and_go_on, loop)

    def _bound_what_is_unread(self, connections: Iterable[Watched]) -> None:
        slow = sorted((one for one in connections if one.doing == "reads"), key=lambda one: one.unread)
        total = sum(one.unread for one in slow)
        while slow and total > self._limits.max_unread_bytes:
            largest = slow.pop()
            total -= largest.unread
            largest.cut_off(
                f"of all answers {self._limits.max_unread_bytes} bytes may wait to be read, and it has most"
            )

    def _make_room(self, connections: list[Watched]) -> None:
        """Where it gets crowded, close those that have asked nothing for longest: they come back when they want to."""
        most = self._limits.max_connections
        if len(connections) <= most * _CROWDED:
            return
        idle = sorted((one for one in connections if one.doing == "waits"), key=lambda one: one.since)
        for one in idle[: len(connections) - int(most * _ROOMY)]:
            one.close()
