"""Busy polling: for a moment after an answer the event loop looks for the next request, and does not sleep.

Where nothing else is to be done a core falls asleep, and waking it up takes longer than a small network's request does
beside its run. A client on the same machine that asks again as soon as it was answered need not wait for that. For all
others it is looked in vain, which is noticed, and then tried ever more seldom.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

_FOR_S: Final = 150e-6
"""So long it is looked."""
_MOST_MISSES: Final = 10
"""After as many answers as two to this power it is tried once more, however often nobody came."""


class BusyPolling:
    """Keeps an event loop from sleeping; of one loop, and called only from there.

    Args:
        is_alone: whether nothing is to be done on this machine, as far as is known: else others want the core.
        clock: in seconds.
    """

    def __init__(self, is_alone: Callable[[], bool], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._is_alone = is_alone
        self._clock = clock
        self._until = 0.0  # when looking ends; 0 = nobody is looked for
        self._is_called = False  # `_look`, in the next pass
        self._misses = 0  # in a row
        self._passed_over = 0  # so many more answers are

    def came(self) -> None:
        """A request has come."""
        if self._until:
            self._until = 0.0
            self._misses = 0

    def answered(self) -> None:
        """An answer was sent."""
        if self._until:
            return
        if self._passed_over:
            self._passed_over -= 1
        elif self._is_alone():
            self._until = self._clock() + _FOR_S
            if not self._is_called:
                self._is_called = True
                asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Called in each pass of the event loop, which does not wait for anything as long as this is to be called."""
        if self._until and self._clock() < self._until and self._is_alone():
            asyncio.get_running_loop().call_soon(self._look)
            return
        self._is_called = False
        if self._until:
            self._until = 0.0
            self._misses = min(self._misses + 1, _MOST_MISSES)
            self._passed_over = 2**self._misses - 1
