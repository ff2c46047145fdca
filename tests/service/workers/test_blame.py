from __future__ import annotations

from service.runtime.runs import Running
from service.workers.blame import Blame


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


A, B = Running(1.0, "a", 1), Running(2.0, "b", 1)


def test_a_model_is_to_blame_when_a_second_worker_died_of_it() -> None:
    blame = Blame()
    assert blame.died([A]) is None
    assert blame.died([A]) == ("a", 1)


def test_versions_are_not_to_blame_for_each_other() -> None:
    blame = Blame()
    assert blame.died([A]) is None
    assert blame.died([Running(1.0, "a", 2)]) is None


def test_nobody_is_to_blame_where_nothing_ran() -> None:
    blame = Blame()
    assert [blame.died([]) for _ in range(3)] == [None] * 3


def test_two_runs_of_one_model_are_one_death() -> None:
    blame = Blame()
    assert blame.died([A, A]) is None


def test_of_several_it_is_the_one_that_ran_in_both_deaths() -> None:
    blame = Blame()
    assert blame.died([A, B]) is None
    assert blame.died([B]) == ("b", 1)


def test_of_several_that_did_it_is_the_one_that_ran_longest_and_the_other_stays_suspected() -> None:
    blame = Blame()
    assert blame.died([A, B]) is None
    assert blame.died([A, B]) == ("a", 1)
    assert blame.died([B]) == ("b", 1)


def test_whoever_was_quarantined_begins_anew() -> None:
    blame = Blame()
    assert [blame.died([A]) for _ in range(4)] == [None, ("a", 1), None, ("a", 1)]


def test_a_death_is_forgotten_after_a_day() -> None:
    clock = Clock()
    blame = Blame(clock)
    assert blame.died([A]) is None
    clock.now = 24 * 3600.0
    assert blame.died([A]) is None
    clock.now += 3600.0
    assert blame.died([A]) == ("a", 1)
