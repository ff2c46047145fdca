"""Which model it was that a worker died of.

A worker tells what it runs as it goes (`runtime.runs`). What was running when it died is suspected; what was running
when a second one died, too, is to blame. Of several it is the one whose run had lasted longest: the others are
suspected still, so a wrong guess costs one more worker, and never all models at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from service.repository.placement import Key
from service.runtime.runs import Running

DEATHS: Final = 2
_REMEMBERED_S: Final = 24 * 3600.0


class Blame:
    """Counts of which models workers died.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: dict[Key, list[float]] = {}

    def died(self, running: Sequence[Running]) -> Key | None:
        """Count a death; the model that is to blame, if there is one.

        Args:
            running: what the worker was at, the longest first.
        """
        now = self._clock()
        suspects: list[Key] = list(dict.fromkeys((one.name, one.version) for one in running))
        for key in suspects:
            deaths = [one for one in self._deaths.get(key, ()) if now - one < _REMEMBERED_S]
            self._deaths[key] = [*deaths, now]
        convicted = next((key for key in suspects if len(self._deaths[key]) >= DEATHS), None)
        if convicted:
            del self._deaths[convicted]
        return convicted
