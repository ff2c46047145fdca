from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.policy import LatencyProfile
from service.runtime.profile import measure_latency
from service.tensors import Arrays


class Machine:
    """A graph whose runs take the time they are told to, on a clock of its own."""

    def __init__(self, overhead_s: float, row_s: float, *, jitter: tuple[float, ...] = (0.0,)) -> None:
        self.now = 100.0
        self.runs: list[int] = []
        self._overhead_s = overhead_s
        self._row_s = row_s
        self._jitter = jitter

    def run(self, inputs: Arrays) -> None:
        rows = len(inputs["x"])
        self.now += self._overhead_s + rows * self._row_s + self._jitter[len(self.runs) % len(self._jitter)]
        self.runs.append(rows)

    def measure(self, max_rows: int, budget_s: float = 1e9) -> tuple[tuple[int, float], ...]:
        return measure_latency(
            self.run, lambda rows: {"x": np.zeros(rows)}, max_rows=max_rows, budget_s=budget_s, clock=lambda: self.now
        )


@pytest.mark.parametrize(
    ("max_rows", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (11, [1, 2, 4, 8, 11]), (3, [1, 2, 3])]
)
def test_sizes_double_up_to_the_largest_batch(max_rows: int, sizes: list[int]) -> None:
    points = Machine(0.001, 0.001).measure(max_rows)
    assert [rows for rows, _ in points] == sizes
    assert [seconds for _, seconds in points] == pytest.approx([0.001 + rows * 0.001 for rows in sizes])


def test_each_size_is_warmed_up_and_timed_four_times_with_the_others_in_between() -> None:
    machine = Machine(0.01, 0.0)
    machine.measure(4)
    assert machine.runs == [1, 1, 2, 2, 4, 4] + [1, 2, 4] * 3


def test_short_runs_are_repeated_for_two_milliseconds() -> None:
    machine = Machine(0.0003, 0.0005)
    machine.measure(2)
    assert machine.runs == [1] * 4 + [2] * 3 + ([1] * 3 + [2] * 2) * 3


def test_the_shortest_run_counts_and_the_first_one_does_not() -> None:
    points = Machine(0.01, 0.0, jitter=(-0.009, 0.5, 0.02, 0.7, 0.6)).measure(1)
    assert points == ((1, pytest.approx(0.03)),)


@pytest.mark.parametrize("begins", range(13))
def test_a_slow_moment_is_not_taken_for_that_of_a_size(begins: int) -> None:
    slow_for_three_runs = (0.0,) * begins + (0.02,) * 3 + (0.0,) * 15
    points = Machine(0.01, 0.001, jitter=slow_for_three_runs).measure(4)
    assert [seconds for _, seconds in points] == pytest.approx([0.011, 0.012, 0.014])


def test_no_larger_size_and_no_other_run_is_begun_once_the_budget_is_spent() -> None:
    machine = Machine(0.0, 1.0)
    assert [rows for rows, _ in machine.measure(64, budget_s=13.0)] == [1, 2, 4]
    assert machine.runs == [1, 1, 2, 2, 4, 4]
    machine = Machine(0.0, 1.0)
    machine.measure(2, budget_s=8.5)
    assert machine.runs == [1, 1, 2, 2, 1, 2]


def test_the_smallest_size_is_measured_whatever_it_takes() -> None:
    machine = Machine(60.0, 0.0)
    assert machine.measure(64, budget_s=1.0) == ((1, pytest.approx(60.0)),)
    assert machine.runs == [1, 1]


def test_a_clock_that_stands_still_says_nothing() -> None:
    machine = Machine(0.01, 0.001)
    still = measure_latency(
        machine.run,
        lambda rows: {"x": np.zeros(rows)},
        max_rows=2,
        budget_s=1e9,
        clock=lambda: machine.now,
        run_clock=lambda: 7.0,
    )
    assert [seconds for _, seconds in still] == pytest.approx([0.011, 0.012])


@given(
    max_rows=st.integers(1, 200),
    overhead_s=st.floats(1e-6, 1.0),
    row_s=st.floats(0, 0.1),
    budget_s=st.floats(0.001, 100.0),
)
def test_a_profile_can_be_made_of_whatever_was_measured(
    max_rows: int, overhead_s: float, row_s: float, budget_s: float
) -> None:
    points = Machine(overhead_s, row_s).measure(max_rows, budget_s)
    assert points[0][0] == 1
    assert points[-1][0] <= max_rows
    assert LatencyProfile(points).seconds(max_rows) > 0
