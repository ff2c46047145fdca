"""A request that the application is not told of yet, because it may be answered without it once its body has come."""

from __future__ import annotations

import time
from typing import Final, Protocol

MOST_PIECES: Final = 256
"""In so many pieces a body may come: each takes memory beside its bytes."""


class Held(Protocol):
    """How many bytes of bodies the process holds; see `service.bodies.Bodies`."""

    def hold(self, size: int) -> bool:
        """Count so many bytes, unless there would be too many."""

    def let_go(self, size: int) -> None:
        """So many bytes are held no longer."""

    def pass_by(self, size: int) -> None:
        """So many bytes have come at once, whatever becomes of them."""


class Arrival:
    """Such a request.

    Args:
        found: what it asks for; see `Quick.find`.

    Attributes:
        since: when its head had come, on the clock of `time.monotonic`.
        pieces: what has come of its body.
        counted: so many bytes of them are counted.
    """

    __slots__ = ("counted", "found", "pieces", "since")

    def __init__(self, found: object) -> None:
        self.found = found
        self.since = time.monotonic()
        self.pieces: list[bytes] = []
        self.counted = 0

    def hold(self, held: Held) -> bool:
        """Count what has come since; False: it is too much to be held, or comes in too many pieces."""
        size = sum(map(len, self.pieces))
        if len(self.pieces) > MOST_PIECES or not held.hold(size - self.counted):
            return False
        self.counted = size
        return True

    def let_go(self, held: Held) -> None:
        """Whoever goes on with the request counts for himself, or it is over."""
        if self.counted:
            held.let_go(self.counted)
            self.counted = 0
