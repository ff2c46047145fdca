from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.policy import (
    DEFAULT_PRIORITY_LEVEL,
    LOOK_PAST,
    PRIORITY_LEVELS,
    SHORTEST_RETRY_S,
    TIMER_TICK_S,
    Decision,
    LatencyProfile,
    Limits,
    Waiting,
    adapted,
    admit,
    give_up_at,
    level_of,
    next_batch,
)
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


@pytest.mark.parametrize("full", [0, 9])
def test_a_full_batch_is_one_that_may_run(full: int) -> None:
    with pytest.raises(ValueError, match="limits need 1 <= full_batch_rows <= max_batch_rows"):
        replace(LIMITS, full_batch_rows=full)


@pytest.mark.parametrize(
    ("points", "most", "rows"),
    [
        pytest.param(((1, 0.01), (2, 0.02), (4, 0.04)), 64, 1, id="rows that cost the same in any company"),
        pytest.param(((1, 0.01), (2, 0.01), (4, 0.01)), 4, 4, id="rows that cost nothing more"),
        pytest.param(((1, 0.001), (8, 0.002), (16, 0.0021), (64, 0.0088)), 64, 16, id="a gain that ends"),
        pytest.param(((1, 0.001), (8, 0.002), (16, 0.0021), (64, 0.0088)), 8, 8, id="no more than may run"),
        pytest.param(((1, 0.00001), (8, 0.00008), (64, 0.00064)), 64, 64, id="so quick that the sending counts"),
        pytest.param(((1, 0.01),), 1, 1, id="one at a time"),
    ],
)
def test_a_batch_is_no_larger_than_is_worthwhile(points: tuple[tuple[int, float], ...], most: int, rows: int) -> None:
    assert LatencyProfile(points).worthwhile_rows(most) == rows


# Levels


@pytest.mark.parametrize(
    ("priority", "level"),
    [(0, DEFAULT_PRIORITY_LEVEL), (1, 1), (2, 2), (3, 3), (4, DEFAULT_PRIORITY_LEVEL), (2**64, DEFAULT_PRIORITY_LEVEL)],
)
def test_a_priority_that_is_no_level_is_the_default(priority: int, level: int) -> None:
    assert level_of(priority) == level


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


def test_nobody_waits_for_those_behind() -> None:
    admit(8, 24, 3600.0, PROFILE, LIMITS, rows_behind=24)  # as if the queue were empty
    admit(4, 12, 4.5, PROFILE, LIMITS, rows_behind=8)
    with pytest.raises(Overloaded, match=r"the predicted wait is 6.5 s, and may be 5 s") as refused:
        admit(5, 12, 4.0, PROFILE, LIMITS, rows_behind=8)  # 4 s to go, and 2.5 s for the four in front
    assert refused.value.retry_after_s == pytest.approx(1.5)


def test_those_behind_take_room_all_the_same() -> None:
    with pytest.raises(Overloaded, match="30 rows wait, and 32 may") as refused:
        admit(3, 30, 1.5, PROFILE, PATIENT, rows_behind=30)
    assert refused.value.retry_after_s == 1.5


def test_what_takes_longer_than_was_measured_fills_the_queue_sooner() -> None:
    admit(4, 5, 1.0, PROFILE, LIMITS)  # 1 s to go, and 2.875 s for the five
    with pytest.raises(Overloaded, match=r"the predicted wait is 6.75 s, and may be 5 s") as refused:
        admit(4, 5, 1.0, PROFILE, LIMITS, slowdown=2.0)
    assert refused.value.retry_after_s == pytest.approx(1.0)  # the five have started then


def test_the_slowdown_follows_what_batches_take_and_no_single_one() -> None:
    slowdown = 1.0
    for _ in range(200):
        slowdown = adapted(slowdown, 2.0, 6.0)
    assert slowdown == pytest.approx(3.0, rel=0.01)
    assert adapted(1.0, 0.001, 3600.0) < 2.0
    for _ in range(200):
        slowdown = adapted(slowdown, 2.0, 1.0)
    assert slowdown == pytest.approx(0.5, rel=0.02)


# When to give up


@pytest.mark.parametrize(
    ("rows", "at"),
    [(1, 9.0 + TIMER_TICK_S), (8, 6.0 + TIMER_TICK_S)],
)
def test_a_request_is_given_up_when_it_would_be_late_alone(rows: int, at: float) -> None:
    assert give_up_at(rows, 10.0, PROFILE) == pytest.approx(at)


def test_a_request_is_given_up_at_its_deadline_at_the_latest() -> None:
    assert give_up_at(1, 10.0, LatencyProfile(((1, TIMER_TICK_S / 4),))) == 10.0


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
        pytest.param(waiting(8, 1, deadlines={1: 9.0}), Decision((), (0,), "full"), id="late beyond the batch"),
        pytest.param(waiting(1, deadlines={0: 10.9}), Decision((0,), (), "idle"), id="all are late"),
    ],
)
def test_the_next_batch(queue: list[Waiting], decision: Decision) -> None:
    assert next_batch(queue, 10.0, PROFILE, LIMITS) == decision


@pytest.mark.parametrize(
    ("queue", "decision"),
    [
        pytest.param(waiting(1, 1, 1, 1), Decision((), (0, 1, 2), "full"), id="full before the limit"),
        pytest.param(waiting(2, 2, 1), Decision((), (0,), "full"), id="what does not fit waits"),
        pytest.param(waiting(5, 1), Decision((), (0,), "full"), id="a larger one runs alone"),
        pytest.param(waiting(1, 5), Decision((), (0,), "full"), id="and nobody overtakes it"),
        pytest.param(waiting(1, 1), Decision((), (0, 1), "idle"), id="all of it"),
    ],
)
def test_batches_are_gathered_until_they_are_full(queue: list[Waiting], decision: Decision) -> None:
    assert next_batch(queue, 10.0, PROFILE, replace(LIMITS, full_batch_rows=3)) == decision


def test_a_batch_has_one_layout() -> None:
    queue = [Waiting(1, 0.0, layout="a"), Waiting(1, 0.0, layout="a"), Waiting(1, 0.0, layout="b"), Waiting(1, 0.0)]
    assert next_batch(queue, 10.0, PROFILE, LIMITS) == Decision((), (0, 1), "full")
    assert next_batch(queue[2:], 10.0, PROFILE, LIMITS) == Decision((), (0,), "full")


def laid_out(layouts: str, rows: int = 1, deadlines: dict[int, float] | None = None) -> list[Waiting]:
    return [Waiting(rows, 0.0, (deadlines or {}).get(i), layout) for i, layout in enumerate(layouts)]


@pytest.mark.parametrize(
    ("queue", "decision"),
    [
        pytest.param(laid_out("abab"), Decision((), (0, 2), "full"), id="others are passed over"),
        pytest.param(laid_out("baaa"), Decision((), (0,), "full"), id="the first decides"),
        pytest.param(laid_out("abaa", rows=4), Decision((), (0, 2), "full"), id="until it is full"),
        pytest.param(laid_out("abaa", rows=3), Decision((), (0, 2), "full"), id="no overtaking of its like"),
        pytest.param(laid_out("aba", deadlines={1: 9.0}), Decision((), (0, 2), "full"), id="late, passed over"),
        pytest.param(laid_out("aba", deadlines={1: 11.1}), Decision((), (0, 2), "full"), id="in a hurry, passed over"),
        pytest.param(laid_out("baab", deadlines={0: 9.0}), Decision((0,), (1, 2), "full"), id="late, the first"),
        pytest.param(laid_out("aba", deadlines={2: 11.1}), Decision((), (0,), "deadline"), id="its like in a hurry"),
    ],
)
def test_only_others_are_passed_over(queue: list[Waiting], decision: Decision) -> None:
    assert next_batch(queue, 10.0, PROFILE, LIMITS) == decision


@pytest.mark.parametrize(("others", "take"), [(LOOK_PAST - 1, (0, LOOK_PAST)), (LOOK_PAST, (0,))])
def test_a_batch_looks_past_so_many_and_no_more(others: int, take: tuple[int, ...]) -> None:
    assert next_batch(laid_out("a" + others * "b" + "a"), 10.0, PROFILE, LIMITS) == Decision((), take, "full")


queues = st.lists(
    st.builds(
        Waiting,
        rows=st.integers(1, 8),
        enqueued_at=st.just(0.0),
        deadline=st.none() | st.floats(9.0, 16.0),
        layout=st.sampled_from("abc"),
    ),
    max_size=40,
)


@modest
@given(queues)
def test_a_decision_looks_no_further_than_it_takes(queue: list[Waiting]) -> None:
    looked_at = 0

    def count() -> Iterator[Waiting]:
        nonlocal looked_at
        for each in [*queue, *(Waiting(1, 0.0, layout="d") for _ in range(4 * LOOK_PAST))]:
            looked_at += 1
            yield each

    decision = next_batch(count(), 10.0, PROFILE, LIMITS)
    assert looked_at <= len(decision.take) + len(decision.expired) + LOOK_PAST + 1


@modest
@given(queues)
def test_the_first_in_time_leads_a_batch_that_leaves_out_none_of_its_like(queue: list[Waiting]) -> None:
    decision = next_batch(queue, 10.0, PROFILE, LIMITS)
    late = {i for i, each in enumerate(queue) if each.deadline and 10.0 + PROFILE.seconds(each.rows) > each.deadline}
    in_time = [i for i in range(len(queue)) if i not in late]
    if not in_time:
        assert decision == Decision(tuple(range(len(queue))), (), "idle")
        return
    like = [i for i in in_time if queue[i].layout == queue[in_time[0]].layout]
    assert decision.take == tuple(like[: len(decision.take)])
    assert decision.take
    assert late.issuperset(decision.expired)


# Whole runs: random arrivals go through both functions, on a clock of the test's own


@dataclass(frozen=True)
class Arrival:
    at: float
    rows: int
    deadline: float | None
    level: int = DEFAULT_PRIORITY_LEVEL
    layout: str = ""


@dataclass(frozen=True)
class Load:
    profile: LatencyProfile
    limits: Limits
    arrivals: list[Arrival]

    def turn(self, index: int) -> tuple[int, int]:
        """What requests are served by: their level, then their arrival."""
        return self.arrivals[index].level, index


@dataclass(frozen=True)
class Ran:
    """A batch, and which requests it left to wait, in the order of their turns."""

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
    found_nobody_before: set[int] = field(default_factory=set)


@st.composite
def profiles(draw: st.DrawFn) -> LatencyProfile:
    """Draw a model that takes no less time for more rows."""
    steps = draw(st.dictionaries(st.integers(1, 12), st.floats(0.01, 1.0), min_size=1, max_size=4))
    sizes = sorted(steps)
    return LatencyProfile(tuple(zip(sizes, accumulate(steps[size] for size in sizes), strict=True)))


@st.composite
def loads(
    draw: st.DrawFn,
    *,
    max_rows: int = 6,
    with_deadlines: bool = True,
    levels: bool = True,
    layouts: bool = True,
) -> Load:
    batch = draw(st.integers(max_rows, 12))
    full = draw(st.none() | st.integers(1, batch))
    limits = Limits(batch, draw(st.integers(batch, 40)), draw(st.floats(0.1, 8.0)), full)
    gap = st.sampled_from([0.0, 0.0, 0.1, 0.7, 3.0])
    patience = st.none() | st.floats(-0.5, 4.0) if with_deadlines else st.none()
    level = st.integers(1, PRIORITY_LEVELS) if levels else st.just(DEFAULT_PRIORITY_LEVEL)
    layout = st.sampled_from("aaab" if layouts else "a")
    arrivals, now = [], 0.0
    one = st.tuples(gap, st.integers(1, max_rows), patience, level, layout)
    for waited, rows, patient, at_level, of_layout in draw(st.lists(one, max_size=30)):
        now += waited
        arrivals.append(Arrival(now, rows, None if patient is None else now + patient, at_level, of_layout))
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
            behind = sum(load.arrivals[other].rows for other in queue if load.arrivals[other].level > arrival.level)
            try:
                admit(arrival.rows, queued_rows, max(0.0, idle_at - now), load.profile, load.limits, behind)
            except Overloaded:
                history.refused.append(index)
            else:
                if queued_rows == behind:
                    history.found_nobody_before.add(index)
                queue.append(index)
                queue.sort(key=load.turn)
        if queue and now >= idle_at:
            idle_at = dispatch(load, queue, now, history)
    return history


def dispatch(load: Load, queue: list[int], now: float, history: History) -> float:
    """Do what `next_batch` says, and return when the runtime is idle again."""
    arrivals = [load.arrivals[index] for index in queue]
    waiting = [Waiting(arrival.rows, arrival.at, arrival.deadline, arrival.layout) for arrival in arrivals]
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
def test_order_is_kept_among_those_who_are_alike(load: Load) -> None:
    def kind(index: int) -> tuple[int, str]:
        return load.arrivals[index].level, load.arrivals[index].layout

    answered = [index for ran in serve(load).batches for index in ran.requests]
    for _, alike in groupby(sorted(answered, key=kind), key=kind):
        in_order = list(alike)
        assert in_order == sorted(in_order)


@modest
@given(loads())
def test_whose_turn_it_is_runs_next_and_takes_its_like_along_by_turns(load: Load) -> None:
    for ran in serve(load).batches:
        turns = [load.turn(index) for index in ran.requests]
        assert turns == sorted(turns)
        assert all(turns[0] < load.turn(index) for index in ran.waited)
        layout = load.arrivals[ran.requests[0]].layout
        assert all(load.arrivals[index].layout == layout for index in ran.requests)
        for index in ran.waited:
            assert load.arrivals[index].layout != layout or load.turn(index) > turns[-1]


@modest
@given(loads(with_deadlines=False, levels=False))
def test_whoever_is_passed_over_waits_for_a_batch_of_each_before_it_at_most(load: Load) -> None:
    batches = serve(load).batches
    for number, ran in enumerate(batches):
        for before, index in enumerate(ran.waited):
            assert any(index in later.requests for later in batches[number + 1 : number + 2 + before])


@modest
@given(loads())
def test_a_batch_stays_within_its_limit_and_ends_for_its_cause(load: Load) -> None:
    for ran in serve(load).batches:
        rows = sum(load.arrivals[i].rows for i in ran.requests)
        assert rows <= (load.limits.max_batch_rows if len(ran.requests) == 1 else load.limits.full_rows)
        if ran.decision.cause == "idle":
            assert not ran.waited
            assert rows < load.limits.full_rows
            continue
        layout = load.arrivals[ran.requests[0]].layout
        alike = [index for index in ran.waited if load.arrivals[index].layout == layout]
        if ran.decision.cause == "full":
            others_wait = len(alike) < len(ran.waited)
            assert others_wait or rows + sum(load.arrivals[i].rows for i in alike[:1]) >= load.limits.full_rows
        else:
            first = load.arrivals[alike[0]]
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
@given(loads(max_rows=1, with_deadlines=False, levels=False, layouts=False))
def test_whoever_is_admitted_waits_no_longer_than_allowed(load: Load) -> None:
    history = serve(load)
    for ran in history.batches:
        for index in set(ran.requests) - history.found_nobody_before:
            assert ran.start - load.arrivals[index].at <= load.limits.max_queue_s + AN_ULP_OR_SO


@modest
@given(
    profiles(),
    st.integers(1, 8),
    st.integers(0, 60),
    st.integers(0, 60),
    st.floats(0.0, 3.0),
    st.floats(0.1, 8.0),
    st.none() | st.integers(1, 8),
)
def test_a_retry_after_the_time_told_is_admitted(
    profile: LatencyProfile,
    rows: int,
    queued: int,
    behind: int,
    running_s_left: float,
    max_queue_s: float,
    full: int | None,
) -> None:
    limits = Limits(max_batch_rows=8, max_queue_rows=24, max_queue_s=max_queue_s, full_batch_rows=full)
    behind = min(behind, queued)
    try:
        admit(rows, queued, running_s_left, profile, limits, behind)
    except Overloaded as refused:
        left = running_s_left - refused.retry_after_s - AN_ULP_OR_SO
        while left <= 0 and queued:  # the next batch starts
            batch = min(queued, limits.full_rows)
            queued -= batch
            left += profile.seconds(batch)
        admit(rows, queued, max(0.0, left), profile, limits, min(behind, queued))
