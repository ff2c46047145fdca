"""How many bytes of requests a process holds at once: each body is bounded, and so are all of them together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

from service.errors import Overloaded
from service.machine import trim_memory

_BODIES, _HELD = "inferd.bodies", "inferd.held"
_RETRY_AFTER_S = 1.0
_TRIM_FROM_BYTES, _TRIM_AFTER_S = 4 * 2**20, 1.0


class Bodies:
    """Counts the bytes of the bodies of all requests, from when they come until their requests are answered.

    Args:
        limit: of all of them together, in bytes.
        trim: gives back what is free: called in a thread of its own, a second after 4 MiB of bodies were let go.

    Attributes:
        held: how many there are.
    """

    def __init__(self, limit: int, *, trim: Callable[[], object] = trim_memory) -> None:
        self.held = 0
        self._limit = limit
        self._trim = trim
        self._released = 0  # since that was done last
        self._is_trimmed_soon = False

    def watch(self, scope: MutableMapping[str, Any]) -> None:
        """Have `count` find this for the request of `scope`."""
        scope[_BODIES] = self

    def release(self, scope: MutableMapping[str, Any]) -> None:
        """The request is answered."""
        self.let_go(scope.pop(_HELD, 0))

    def hold(self, size: int) -> bool:
        """Count a whole body, unless there would be too many bytes; who let it in lets go of it in the end."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def let_go(self, size: int) -> None:
        """So many bytes are held no longer."""
        self.held -= size
        self.pass_by(size)

    def pass_by(self, size: int) -> None:
        """So many bytes have come, or are let go, and leave room behind them."""
        self._released += size
        if self._released > _TRIM_FROM_BYTES and not self._is_trimmed_soon:
            self._is_trimmed_soon = True
            asyncio.get_running_loop().call_later(_TRIM_AFTER_S, self._trim_now)

    def _trim_now(self) -> None:
        self._released, self._is_trimmed_soon = 0, False
        threading.Thread(target=self._trim, name="trim", daemon=True).start()

    def take(self, scope: MutableMapping[str, Any], size: int) -> None:
        """Count so many bytes more.

        Raises:
            Overloaded: there would be too many.
        """
        if not self.hold(size):
            raise Overloaded(
                f"of all requests together {self._limit} bytes may be held (INFERD_MAX_INFLIGHT_BYTES), and are",
                retry_after_s=_RETRY_AFTER_S,
            )
        scope[_HELD] = scope.get(_HELD, 0) + size


def count(scope: MutableMapping[str, Any], size: int) -> None:
    """Count `size` bytes that have come of a request's body, if its bytes are counted.

    Raises:
        Overloaded: there are too many of all requests together.
    """
    bodies: Bodies | None = scope.get(_BODIES)
    if bodies is not None:
        bodies.take(scope, size)
