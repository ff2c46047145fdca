"""How long a graph takes by batch size, measured once it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from service.tensors import Arrays

_PASSES: Final = 4
_TOGETHER_S: Final = 0.002
"""So many times all sizes are timed one after the other, and each for so long at a time, with one run at least."""


def measure_latency(
    run: Callable[[Arrays], object],
    example: Callable[[int], Arrays],
    *,
    max_rows: int,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    run_clock: Callable[[], float] | None = None,
) -> tuple[tuple[int, float], ...]:
    """Time `run` at 1, 2, 4, ... `max_rows` rows.

    Args:
        run: the graph.
        example: makes inputs of so many rows.
        max_rows: the largest batch that will be built.
        budget_s: no larger batch and no other run is begun once this much time is spent; the smallest batch is always
            measured.
        clock: in seconds.
        run_clock: by which runs are timed, if not by the same: on a machine that others use too, a thread's own time
            (`time.thread_time`) tells how long a run takes that is done by one thread.

    Returns:
        (rows, seconds) in rising order. Each is the shortest of several runs, which lie apart: a machine's slow moments
        last longer than a run, and would else be taken for those of one size.
    """
    run_clock = run_clock or clock
    started = clock()
    shortest: dict[int, float] = {}

    def time_runs(rows: int, inputs: Arrays) -> None:
        spent_s = 0.0
        while spent_s < _TOGETHER_S and (rows not in shortest or clock() - started < budget_s):
            begun, begun_run = clock(), run_clock()
            run(inputs)
            seconds = run_clock() - begun_run
            if seconds <= 0:  # a thread's clock stands still now and then
                seconds = clock() - begun
            spent_s += seconds
            shortest[rows] = min(seconds, shortest.get(rows, seconds))

    rows = 1
    while not shortest or clock() - started < budget_s:
        inputs = example(rows)
        run(inputs)
        time_runs(rows, inputs)
        if rows == max_rows:
            break
        rows = min(2 * rows, max_rows)
    for _ in range(_PASSES - 1):
        for rows in shortest:
            if clock() - started < budget_s:
                time_runs(rows, example(rows))
    return tuple(shortest.items())
