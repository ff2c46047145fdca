from __future__ import annotations

import itertools
import statistics

import pytest

from service.bench.arrivals import arrivals


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [
        (4, 1, [0, 0.25, 0.5, 0.75]),
        (2.5, 1, [0, 0.4, 0.8]),
        (0.5, 3, [0, 2]),
        (100, 0.001, [0]),
    ],
)
def test_even_arrivals_have_one_distance_and_end_before_the_end(
    rate: float, seconds: float, expected: list[float]
) -> None:
    assert arrivals(rate, seconds, "even") == pytest.approx(expected)


def test_poisson_arrivals_come_at_the_rate_with_distances_as_of_people_who_know_nothing_of_each_other() -> None:
    due = arrivals(1000, 50, "poisson")
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 50
    assert len(due) == pytest.approx(50_000, rel=0.02)  # four deviations
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(0.001, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(0.001, rel=0.03)  # of an exponential distribution both are one
    assert sum(gap < 0.001 for gap in gaps) / len(gaps) == pytest.approx(1 - 1 / 2.71828, abs=0.01)


def test_poisson_arrivals_fill_all_of_the_time() -> None:
    for seed in range(200):
        due = arrivals(2, 20, "poisson", seed=seed)
        assert due[-1] < 20
        more = arrivals(2, 10, "poisson", seed=seed)
        assert more == [one for one in due if one < 10]


def test_a_seed_repeats_them_and_another_gives_others() -> None:
    assert arrivals(10, 10, "poisson") == arrivals(10, 10, "poisson")
    assert arrivals(10, 10, "poisson", seed=2) != arrivals(10, 10, "poisson")
