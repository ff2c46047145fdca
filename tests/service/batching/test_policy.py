from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.policy import SHORTEST_RETRY_S, Decision, LatencyProfile, Limits, Waiting, admit, next_batch
from service.errors import BadInput, Overloaded, TooLarge

PROFILE = LatencyProfile(((1, 1.0), (4, 2.5), (8, 4.0)))
LIMITS = Limits(max_batch_rows=8, max_queue_rows=32, max_queue_s=5.0)
PATIENT = replace(LIMITS, max_queue_s=100.0)
AN_ULP_OR_SO = 1e-9

modest = settings(deadline=None, max_examples=60)


# The latency profile and the limits


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 1.0), (2, 1.5), (4, 2.5), (6, 3.25), (8, 4.0), (16, 8.0), (12, 6.0)],
)
def test_a_profile_interpolates_and_then_grows_in_proportion(rows: int, seconds: float) -> None:
    assert PROFILE.seconds(rows) == pytest.approx(seconds)


def test_a_profile_takes_its_first_point_for_smaller_batches() -> None:
    assert LatencyProfile(((4, 2.0), (8, 3.0))).seconds(1) == 2.0


@pytest.mark.parametrize(
    "points",
    [(), ((0, 1.0),), ((2, 1.0), (2, 1.0)), ((4, 1.0), (2, 2.0)), ((1, 0.0),), ((1, -1.0),), ((1, math.inf),)],
    ids=["none", "no rows", "twice", "falling", "no time", "negative time", "endless"],
)
def test_a_profile_without_sense_is_refused(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="a latency profile needs"):
        LatencyProfile(points)


@pytest.mark.parametrize(("batch", "queue", "seconds"), [(0, 8, 1.0), (8, 7, 1.0), (8, 8, 0.0), (8, 8, math.nan)])
def test_limits_without_sense_are_refused(batch: int, queue: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="limits need"):
        Limits(max_batch_rows=batch, max_queue_rows=queue, max_queue_s=seconds)


# Admission


def test_a_request_without_rows_is_bad() -> None:
    with pytest.raises(BadInput, match="at least one row"):
        admit(0, 0, 0.0, PROFILE, LIMITS)


def test_a_request_larger_than_a_batch_is_told_the_limit() -> None:
    with pytest.raises(TooLarge, match="at most 8 rows; this one has 9"):
        admit(9, 0, 0.0, PROFILE, LIMITS)


def test_an_empty_queue_admits_however_slow_the_model_is() -> None:
    admit(8, 0, 3600.0, PROFILE, LIMITS)


def test_too_many_rows_are_refused_until_enough_have_left() -> None:
    admit(2, 30, 1.5, PROFILE, PATIENT)
    with pytest.raises(Overloaded, match="31 rows wait, and 32 may") as refused:
        admit(2, 31, 1.5, PROFILE, PATIENT)
    assert refused.value.retry_after_s == 1.5  # the next batch takes 8 of them
    with pytest.raises(Overloaded) as refused:
        admit(8, 33, 1.5, PROFILE, PATIENT)  # 9 too many: the batch after that
    assert refused.value.retry_after_s == 1.5 + 4.0


def test_too_long_a_wait_is_refused_until_it_has_shortened() -> None:
    admit(3, 5, 5.0, PROFILE, LIMITS)  # joins the batch that follows the run in flight
    with pytest.raises(Overloaded, match=r"the predicted wait is 6.8\d? s, and may be 5 s") as refused:
        admit(4, 5, 4.0, PROFILE, LIMITS)  # 4 s to go, and 2.875 s for the five
    assert refused.value.retry_after_s == pytest.approx(1.875)


def test_the_queue_is_empty_before_a_slow_models_wait_is_short() -> None:
    slow = LatencyProfile(((1, 60.0),))
    one_by_one = Limits(max_batch_rows=1, max_queue_rows=8, max_queue_s=1.0)
    with pytest.raises(Overloaded) as refused:
        admit(1, 1, 20.0, slow, one_by_one)
    assert refused.value.retry_after_s == 20.0


def test_a_refusal_never_says_to_retry_at_once() -> None:
    with pytest.raises(Overloaded) as refused:
        admit(8, 32, 0.0, PROFILE, PATIENT)
    assert refused.value.retry_after_s == SHORTEST_RETRY_S


# The next batch


def waiting(*rows: int, deadlines: dict[int, float] | None = None) -> list[Waiting]:
    return [Waiting(size, 0.0, (deadlines or {}).get(index)) for index, size in enumerate(rows)]


@pytest.mark.parametrize(
    ("queue", "decision"),
    [
        pytest.param(waiting(), Decision((), (), "idle"), id="nothing waits"),
        pytest.param(waiting(1, 2), Decision((), (0, 1), "idle"), id="all of it"),
        pytest.param(waiting(4, 4), Decision((), (0, 1), "full"), id="exactly full"),
        pytest.param(waiting(4, 4, 1), Decision((), (0, 1), "full"), id="more than fits"),
        pytest.param(waiting(4, 5, 1), Decision((), (0,), "full"), id="no overtaking of a large request"),
        pytest.param(waiting(1, 3, deadlines={0: 12.4}), Decision((), (0,), "deadline"), id="together too late"),
        pytest.param(waiting(1, 3, deadlines={0: 12.5}), Decision((), (0, 1), "idle"), id="together just in time"),
        pytest.param(waiting(1, 3, deadlines={0: 11.0}), Decision((), (0,), "deadline"), id="alone just in time"),
        pytest.param(
            waiting(1, 1, deadlines={0: 11.4, 1: 20.0}), Decision((), (0,), "deadline"), id="the earlier counts"
        ),
        pytest.param(waiting(3, 1, deadlines={1: 11.5}), Decision((), (0,), "deadline"), id="a newcomer in a hurry"),
        pytest.param(waiting(1, 1, deadlines={0: 9.0}), Decision((0,), (1,), "idle"), id="the oldest is late"),
        pytest.param(waiting(1, 8, deadlines={1: 13.9}), Decision((1,), (0,), "idle"), id="too large to be in time"),
        pytest.param(waiting(8, 1, deadlines={1: 9.0}), Decision((1,), (0,), "full"), id="late beyond the batch"),
        pytest.param(waiting(1, deadlines={0: 10.9}), Decision((0,), (), "idle"), id="all are late"),
    ],
)
def test_the_next_batch(queue: list[Waiting], decision: Decision) -> None:
    assert next_batch(queue, 10.0, PROFILE, LIMITS) == decision


def test_a_batch_has_one_layout() -> None:
    queue = [Waiting(1, 0.0, layout="a"), Waiting(1, 0.0, layout="a"), Waiting(1, 0.0, layout="b"), Waiting(1, 0.0)]
    assert next_batch(queue, 10.0, PROFILE, LIMITS) == Decision((), (0, 1), "full")
    assert next_batch(queue[2:], 10.0, PROFILE, LIMITS) == Decision((), (0,), "full")


# Whole runs: random arrivals go through both functions, on a clock of the test's own


@dataclass(frozen=True)
class Arrival:
    at: float
    rows: int
    deadline: float | None


@dataclass(frozen=True)
class Load:
    profile: LatencyProfile
    limits: Limits
    arrivals: list[Arrival]


@dataclass(frozen=True)
class Ran:
    """A batch, and which requests it left to wait."""

    requests: list[int]
    start: float
    end: float
    decision: Decision
    waited: list[int]


@dataclass
class History:
    refused: list[int] = field(default_factory=list)
    expired: list[tuple[int, float]] = field(default_factory=list)
    batches: list[Ran] = field(default_factory=list)
    met_empty_queue: set[int] = field(default_factory=set)


@st.composite
def profiles(draw: st.DrawFn) -> LatencyProfile:
    """Draw a model that takes no less time for more rows."""
    steps = draw(st.dictionaries(st.integers(1, 12), st.floats(0.01, 1.0), min_size=1, max_size=4))
    sizes = sorted(steps)
    return LatencyProfile(tuple(zip(sizes, accumulate(steps[size] for size in sizes), strict=True)))


@st.composite
def loads(draw: st.DrawFn, *, max_rows: int = 6, with_deadlines: bool = True) -> Load:
    batch = draw(st.integers(max_rows, 12))
    limits = Limits(batch, draw(st.integers(batch, 40)), draw(st.floats(0.1, 8.0)))
    gap = st.sampled_from([0.0, 0.0, 0.1, 0.7, 3.0])
    patience = st.none() | st.floats(-0.5, 4.0) if with_deadlines else st.none()
    arrivals, now = [], 0.0
    for waited, rows, patient in draw(st.lists(st.tuples(gap, st.integers(1, max_rows), patience), max_size=30)):
        now += waited
        arrivals.append(Arrival(now, rows, None if patient is None else now + patient))
    return Load(draw(profiles()), limits, arrivals)


def serve(load: Load) -> History:
    """Serve a load as an ideal runtime does, which takes just the predicted time."""
    history = History()
    to_come = deque(enumerate(load.arrivals))
    queue: list[int] = []
    now = idle_at = 0.0
    while to_come or queue:
        next_arrival = to_come[0][1].at if to_come else math.inf
        now = max(now, min(next_arrival, idle_at if queue else math.inf))
        while to_come and to_come[0][1].at <= now:
            index, arrival = to_come.popleft()
            queued_rows = sum(load.arrivals[other].rows for other in queue)
            try:
                admit(arrival.rows, queued_rows, max(0.0, idle_at - now), load.profile, load.limits)
            except Overloaded:
                history.refused.append(index)
            else:
                if not queue:
                    history.met_empty_queue.add(index)
                queue.append(index)
        if queue and now >= idle_at:
            idle_at = dispatch(load, queue, now, history)
    return history


def dispatch(load: Load, queue: list[int], now: float, history: History) -> float:
    """Do what `next_batch` says, and return when the runtime is idle again."""
    waiting = [Waiting(load.arrivals[i].rows, load.arrivals[i].at, load.arrivals[i].deadline) for i in queue]
    decision = next_batch(waiting, now, load.profile, load.limits)
    requests = [queue[i] for i in decision.take]
    history.expired += [(queue[i], now) for i in decision.expired]
    gone = {*decision.take, *decision.expired}
    queue[:] = [index for place, index in enumerate(queue) if place not in gone]
    if not requests:
        assert not queue, "the runtime is idle, something waits, and nothing runs"
        return now
    end = now + load.profile.seconds(sum(load.arrivals[i].rows for i in requests))
    history.batches.append(Ran(requests, now, end, decision, list(queue)))
    return end


@modest
@given(loads())
def test_no_request_is_lost_and_none_is_answered_twice(load: Load) -> None:
    history = serve(load)
    answered = [index for ran in history.batches for index in ran.requests]
    fates = answered + history.refused + [index for index, _ in history.expired]
    assert sorted(fates) == list(range(len(load.arrivals)))


@modest
@given(loads())
def test_order_is_kept(load: Load) -> None:
    answered = [index for ran in serve(load).batches for index in ran.requests]
    assert answered == sorted(answered)


@modest
@given(loads())
def test_a_batch_stays_within_its_limit_and_ends_for_its_cause(load: Load) -> None:
    for ran in serve(load).batches:
        rows = sum(load.arrivals[i].rows for i in ran.requests)
        assert rows <= load.limits.max_batch_rows
        if ran.decision.cause == "idle":
            assert not ran.waited
            assert rows < load.limits.max_batch_rows
        elif ran.decision.cause == "full":
            assert rows + sum(load.arrivals[i].rows for i in ran.waited[:1]) >= load.limits.max_batch_rows
        else:
            first = load.arrivals[ran.waited[0]]
            together = [first.deadline, *(load.arrivals[i].deadline for i in ran.requests)]
            end = ran.start + load.profile.seconds(rows + first.rows)
            assert end > min(deadline for deadline in together if deadline is not None)


@modest
@given(loads())
def test_nothing_waits_while_the_runtime_is_idle(load: Load) -> None:
    idle_since = 0.0
    for ran in serve(load).batches:
        assert ran.start == max(idle_since, load.arrivals[ran.requests[0]].at)
        idle_since = ran.end


@modest
@given(loads())
def test_whatever_runs_ends_before_its_deadline(load: Load) -> None:
    for ran in serve(load).batches:
        for index in ran.requests:
            deadline = load.arrivals[index].deadline
            assert deadline is None or ran.end <= deadline


@modest
@given(loads())
def test_nothing_expires_that_could_still_be_in_time(load: Load) -> None:
    for index, now in serve(load).expired:
        arrival = load.arrivals[index]
        assert arrival.deadline is not None
        assert now + load.profile.seconds(arrival.rows) > arrival.deadline


@modest
@given(loads(max_rows=1, with_deadlines=False))
def test_whoever_is_admitted_waits_no_longer_than_allowed(load: Load) -> None:
    history = serve(load)
    for ran in history.batches:
        for index in set(ran.requests) - history.met_empty_queue:
            assert ran.start - load.arrivals[index].at <= load.limits.max_queue_s + AN_ULP_OR_SO


@modest
@given(profiles(), st.integers(1, 8), st.integers(0, 60), st.floats(0.0, 3.0), st.floats(0.1, 8.0))
def test_a_retry_after_the_time_told_is_admitted(
    profile: LatencyProfile, rows: int, queued: int, running_s_left: float, max_queue_s: float
) -> None:
    limits = Limits(max_batch_rows=8, max_queue_rows=24, max_queue_s=max_queue_s)
    try:
        admit(rows, queued, running_s_left, profile, limits)
    except Overloaded as refused:
        left = running_s_left - refused.retry_after_s - AN_ULP_OR_SO
        while left <= 0 and queued:  # the next batch starts
            batch = min(queued, limits.max_batch_rows)
            queued -= batch
            left += profile.seconds(batch)
        admit(rows, queued, max(0.0, left), profile, limits)
