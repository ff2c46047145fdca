"""Tells an overload from a burst: how long may a new request wait?

A queue that has room for a burst is of no use where more is asked than can be answered for long: it fills up, and from
then on everybody waits as long as a burst would have had to, for the same number of answers. So while there is an
overload new requests may wait for a few batches only, and the others are refused at once.

What shows an overload is that a queue which is longer than that goes on growing. Many clients, each of which asks again
when it was answered, make a long queue too, but it stays as long as it is; and a burst comes once. Nothing shows that
the refused were such clients, so the full queue is tried again, soon at first, and then ever less often.
"""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 0.1
_BATCHES_IN_WINDOW: Final = 6
"""Arrivals and departures are compared for so long at a time, and for so many batches at least,"""
_GROWS: Final = 1.1
"""and the queue grows if so many times as much arrives as leaves,"""
_WINDOWS: Final = 3
"""in so many of these in a row, with a wait of"""
_LONG_S: Final = 0.1
"""so long: whoever waits for less is not worth refusing others for."""
_WINDOWS_OF_A_TRY: Final = 2
_LONG_IN_A_TRY_S: Final = 0.05
_TRY_S: Final = 2.0
"""For so long after the full queue was tried again less is enough: whoever it lets in waits for long."""

_OVER_AFTER_S: Final = 1.0
"""An overload is over once nobody was refused for so long."""
_FIRST_TRY_S: Final = 5.0
_RARER: Final = 12.0
_CALM_S: Final = 60.0
"""After so long without an overload the next one is a new one."""


class Overload:
    """What a queue has seen lately. All times are on one clock, in seconds.

    Args:
        now: when it begins.
        batch_rows: of a full batch: one may have begun to run just before a window, and one just after it.
        batch_s: how long it takes.
    """

    def __init__(self, now: float, *, batch_rows: int, batch_s: float) -> None:
        self.is_on = False
        self._batch_rows = batch_rows
        self._window_s = max(WINDOW_S, _BATCHES_IN_WINDOW * batch_s)
        self._ends = now + self._window_s
        self._arrived = self._left = 0
        self._grown = 0  # windows in a row
        self._is_tried = False
        self._changed = now - _CALM_S
        self._refused = now
        self._try_after_s = _FIRST_TRY_S

    def arrive(self, rows: int, now: float, wait_s: float) -> None:
        """Rows arrive, whether they are let in or not, where the wait is so long."""
        if now >= self._ends:
            self._look(now, wait_s)
        self._arrived += rows

    def leave(self, rows: int) -> None:
        """Rows begin to run."""
        self._left += rows

    def refuse(self, now: float) -> None:
        """Somebody was refused."""
        self._refused = now

    def _look(self, now: float, wait_s: float) -> None:
        is_tried = self._is_tried and now - self._changed < _TRY_S
        long_s = _LONG_IN_A_TRY_S if is_tried else _LONG_S
        grows = wait_s > long_s and self._arrived > _GROWS * self._left + self._batch_rows
        # Where a whole window has passed without an arrival, nothing grows.
        self._grown = self._grown + 1 if grows and now < self._ends + self._window_s else 0
        self._arrived = self._left = 0
        self._ends = now + self._window_s
        if self.is_on:
            if now - self._refused > _OVER_AFTER_S:
                self._turn(now, on=False)
            elif now - self._changed > self._try_after_s:
                self._try_after_s *= _RARER
                self._turn(now, on=False, is_tried=True)
        elif self._grown >= (_WINDOWS_OF_A_TRY if is_tried else _WINDOWS):
            if now - self._changed > _CALM_S:
                self._try_after_s = _FIRST_TRY_S
            self._turn(now, on=True)

    def _turn(self, now: float, *, on: bool, is_tried: bool = False) -> None:
        self.is_on, self._is_tried = on, is_tried
        self._changed = now
        self._grown = 0
