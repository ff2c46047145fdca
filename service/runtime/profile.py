"""How long a graph takes by batch size, measured once it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.tensors import Arrays


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
        budget_s: no larger batch is begun once this much time is spent; the smallest one is always measured.
        clock: in seconds.
        run_clock: by which runs are timed, if not by the same: on a machine that others use too, a thread's own time
            (`time.thread_time`) tells how long a run takes that is done by one thread.

    Returns:
        (rows, seconds) in rising order, each the shortest of up to three runs after one to warm up.
    """
    points: list[tuple[int, float]] = []
    run_clock = run_clock or clock
    started = clock()
    rows = 1
    while not points or clock() - started < budget_s:
        inputs = example(rows)
        run(inputs)
        best = float("inf")
        for _ in range(3):
            begun = run_clock()
            run(inputs)
            best = min(best, run_clock() - begun)
            if clock() - started > budget_s:
                break
        points.append((rows, best))
        if rows == max_rows:
            break
        rows = min(2 * rows, max_rows)
    return tuple(points)
