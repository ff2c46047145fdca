"""Who sends much is read in turns with others who do, so that small requests are answered in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeAlias

CallSoon: TypeAlias = Callable[[Callable[[], None]], object]

LARGE_CHUNK: Final = 64 * 1024
"""Bytes that came at once from which on they count as much: reading them takes longer than a small request does."""


class Restable(Protocol):
    """A connection, as `Turns` sees it."""

    def rest(self) -> None:
        """Read nothing of it until `go_on`."""

    def go_on(self) -> None:
        """Read it again, unless somebody else would have it paused."""


class Turns:
    """Has one large chunk read in each pass of an event loop: others who have one rest until it is their turn."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[Restable] = deque()

    def read(self, connection: Restable, call_soon: CallSoon) -> None:
        """A large chunk of it has come: it goes on if nobody else had one in this pass, or else in its turn.

        Args:
            connection: of which it came.
            call_soon: of the event loop, of all connections the same.
        """
        if self._is_taken:
            connection.rest()
            self._waiting.append(connection)
        else:
            self._is_taken = True
            call_soon(partial(self._next, call_soon))

    def _next(self, call_soon: CallSoon) -> None:
        if self._waiting:
            call_soon(partial(self._next, call_soon))
            self._waiting.popleft().go_on()
        else:
            self._is_taken = False
