from __future__ import annotations

import pytest
from promises import PARTS, PROMISES, Promise, flatness, summary, table

SHARE = Promise("share", "of the limit", "share", 0.72, 0.80)
TIMES = Promise("alone", "by a bare run", "times", 1.6, 1.35)


@pytest.mark.parametrize(
    ("promise", "value", "verdict"),
    [
        (SHARE, 0.71, "no"),
        (SHARE, 0.72, "must"),
        (SHARE, 0.79, "must"),
        (SHARE, 0.80, "goal"),
        (TIMES, 1.61, "no"),
        (TIMES, 1.6, "must"),
        (TIMES, 1.36, "must"),
        (TIMES, 1.35, "goal"),
        (Promise("alone", "live", "ms", 5.0), 1.0, "must"),
        (Promise("alone", "live", "ms", 5.0), 5.1, "no"),
        (Promise("overload", "errors", "count", 0.0), 0.0, "must"),
        (Promise("overload", "errors", "count", 0.0), 1.0, "no"),
        (Promise("overload", "of capacity", "share"), 0.1, ""),
        (SHARE, float("nan"), "no"),
        (TIMES, float("nan"), "no"),
    ],
)
def test_of_a_share_more_is_better_and_of_all_else_less(promise: Promise, value: float, verdict: str) -> None:
    assert promise.verdict(value) == verdict


def test_every_promise_belongs_to_a_part_and_a_goal_is_further_than_what_must_be() -> None:
    for promise in PROMISES.values():
        assert promise.part in PARTS
        if promise.goal is not None:
            assert promise.verdict(promise.goal) == "goal"
            assert promise.verdict(promise.must) == "must"
    assert {promise.part for promise in PROMISES.values()} == set(PARTS)


def test_flatness_is_the_least_by_the_most() -> None:
    assert flatness([{32: 100.0, 64: 80.0, 128: 90.0}]) == pytest.approx(0.8)


def test_flatness_does_not_mind_a_machine_that_drifts_from_round_to_round() -> None:
    assert flatness([{32: 100.0, 64: 100.0}, {32: 50.0, 64: 50.0}, {32: 10.0, 64: 10.0}]) == pytest.approx(1.0)
    # One round of three that was disturbed does not count.
    assert flatness([{32: 100.0, 64: 90.0}, {32: 10.0, 64: 90.0}, {32: 50.0, 64: 45.0}]) == pytest.approx(0.9)


def test_the_median_of_all_rounds_counts_and_what_was_not_measured_has_no_line() -> None:
    lines = summary({"binary fp32, 32 clients": [0.5, 0.9, 0.75], "errors": [0.0], "capacity": [1000.0]})
    assert [(one["name"], one["measured"], one["reached"]) for one in lines] == [
        ("binary fp32, 32 clients", 0.75, "must"),
        ("errors", 0.0, "must"),
    ]
    assert lines[0]["rounds"] == [0.5, 0.9, 0.75]


def test_the_table_says_what_was_promised_and_how_far_rounds_lie_apart() -> None:
    lines = summary({"binary fp32, 32 clients": [0.5, 0.9, 0.75], "health": [1.25], "work": [0.98]})
    _, _, share, health, work = table(lines)
    assert share == "| infer, binary tensors, float32, 32 clients: of the limit | 72% | 80% | 75% | 50% to 90% | must |"
    assert health == "| meanwhile /v2/health/live, 50 times a second: p99 | 5.0 ms |  | 1.2 ms |  | must |"
    assert work == "| 150 % of capacity: answered, of capacity |  |  | 98% |  |  |"
