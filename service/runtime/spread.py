"""A graph on one core or, while nothing else runs, on several: whoever asks alone may have all of the machine.

Threads that wait for each other's parts of a short run by letting go of their cores gain nothing, as waking up takes as
long as a part. These spin, which is only right where nobody else wants the core: `ModelRuns.is_alone` tells. Whether it
is sooner done then depends on the graph, on how many rows there are, and on who else is on the machine: that is learned
run by run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from numpy.typing import NDArray

from service.runtime.runs import ModelRuns
from service.runtime.session import OnnxSession
from service.tensors import Arrays

_AT_FIRST: Final = 4
"""So many times either way is taken at first, and the shortest counts: the first runs find no memory laid out."""
_OTHER_WAY_EVERY: Final = 32
"""So often the way that seems longer is taken, to see whether it still is."""
_WEIGHT: Final = 1 / 4
"""Of the last time that a way took, beside those before."""
_AT_MOST: Final = 2.0
"""So many times what was usual counts at most: a machine has its moments."""


class Sooner:
    """Which of two ways of doing the same is sooner done, learned by doing it."""

    def __init__(self) -> None:
        self._seconds = [float("inf"), float("inf")]
        self._taken = [0, 0]

    def pick(self) -> int:
        """The way to take now, 0 or 1."""
        first, second = self._taken
        if min(first, second) < _AT_FIRST:
            return int(second < first)
        best = int(self._seconds[1] < self._seconds[0])
        return 1 - best if (first + second) % _OTHER_WAY_EVERY == 0 else best

    def took(self, way: int, seconds: float) -> None:
        """Learn how long a way took."""
        self._taken[way] += 1
        usual = self._seconds[way]
        if self._taken[way] <= _AT_FIRST:
            self._seconds[way] = min(usual, seconds)
        else:
            self._seconds[way] += _WEIGHT * (min(seconds, _AT_MOST * usual) - usual)


class SpreadSession:
    """Runs a graph by one of two sessions of it, one run after the other.

    Args:
        narrow: on one thread.
        wide: on several, which spin.
        runs: of the model, by which both are told.
        rows_of: how many rows inputs have: a longer run gains by other threads than a short one.
        clock: in seconds.
    """

    def __init__(
        self,
        narrow: OnnxSession,
        wide: OnnxSession,
        runs: ModelRuns,
        *,
        rows_of: Callable[[Arrays], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sessions = narrow, wide
        self._runs = runs
        self._rows_of = rows_of
        self._clock = clock
        self._sooner: dict[int, Sooner] = {}

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `OnnxSession.run`."""
        if not self._runs.is_alone():
            return self._sessions[0].run(inputs)
        rows = self._rows_of(inputs)
        sooner = self._sooner.get(rows) or self._sooner.setdefault(rows, Sooner())
        way = sooner.pick()
        begun = self._clock()
        outputs = self._sessions[way].run(inputs)
        sooner.took(way, self._clock() - begun)
        return outputs


def answer_alike(one: OnnxSession, other: OnnxSession, example: Arrays) -> bool:
    """Whether two sessions of a graph answer with the same bits."""
    first, second = one.run(example), other.run(example)
    return all(first[name].tobytes() == second[name].tobytes() for name in first)
