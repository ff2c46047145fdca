from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import current_thread, get_ident
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batcher import Batcher
from service.batching.policy import TIMER_TICK_S, LatencyProfile, Limits
from service.batching.records import Answer, BatchReport
from service.errors import (
    BadInput,
    BundleRefused,
    DeadlineExceeded,
    InferdError,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
)
from service.tensors import Arrays
from tests.virtual_clock import VirtualClockLoop, run

T = TypeVar("T")

ONE_SECOND = LatencyProfile(((1, 1.0), (8, 1.0)))
INSTANT = LatencyProfile(((1, 0.0001), (8, 0.0005)))
LIMITS = Limits(max_batch_rows=8, max_queue_rows=16, max_queue_s=10.0)

modest = settings(deadline=None, max_examples=30)


class Model:
    """A graph of two outputs, computed row by row, whose runs outside the loop take a virtual second."""

    def __init__(self) -> None:
        self.seen: list[Arrays] = []
        self.started: list[float] = []
        self.fails_with: Exception | None = None

    def __call__(self, inputs: Arrays) -> Arrays:
        self.seen.append(inputs)
        if self.fails_with:
            raise self.fails_with
        return {"doubled": 2 * inputs["x"], "total": inputs["x"].sum(axis=1)}

    async def run_blocking(self, work: Callable[[], T]) -> T:
        self.started.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        return work()

    @property
    def batches(self) -> list[int]:
        return [len(inputs["x"]) for inputs in self.seen]


def batcher_of(model: Model, profile: LatencyProfile = ONE_SECOND, limits: Limits = LIMITS, **others: Any) -> Batcher:
    return Batcher(model, profile=profile, limits=limits, **{"run_blocking": model.run_blocking, **others})


def rows(*values: float) -> dict[str, np.ndarray[Any, Any]]:
    """Make a request whose rows are told apart by their values."""
    return {"x": np.array([[value, value + 0.5] for value in values], dtype=np.float32)}


def check(answer: Answer, inputs: Arrays) -> None:
    assert answer.outputs.keys() == {"doubled", "total"}
    np.testing.assert_array_equal(answer.outputs["doubled"], 2 * inputs["x"])
    np.testing.assert_array_equal(answer.outputs["total"], inputs["x"].sum(axis=1))


async def a_pass_of_the_loop() -> None:
    await asyncio.sleep(0)


async def error_of(answer: Awaitable[Answer]) -> InferdError:
    with pytest.raises(InferdError) as raised:
        await answer
    return raised.value


# A caller who leaves


@pytest.mark.parametrize("leaves_after_s", [0.0, 0.5, 1.0, 1.5], ids=["at once", "queued", "at dispatch", "running"])
def test_a_caller_who_leaves_neither_harms_nor_hangs_the_others_of_its_batch(leaves_after_s: float) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        first = asyncio.create_task(batcher.submit(rows(0), 1))
        await a_pass_of_the_loop()
        await a_pass_of_the_loop()  # the first runs until 1.0; the others then share a batch, until 2.0
        stays, leaves, stays_too = (asyncio.create_task(batcher.submit(rows(n, n), 2)) for n in (1, 2, 3))
        await asyncio.sleep(leaves_after_s)
        leaves.cancel()

        async with asyncio.timeout(10):
            check(await first, rows(0))
            check(await stays, rows(1, 1))
            check(await stays_too, rows(3, 3))
            with pytest.raises(asyncio.CancelledError):
                await leaves
            check(await batcher.submit(rows(4), 1), rows(4))
        assert asyncio.get_running_loop().time() == 3.0
        assert batcher.statistics().queued_rows == 0

    run(scenario())


def test_whoever_leaves_before_the_run_takes_no_part_in_it() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model)
        leaves, stays = batcher.submit_nowait(rows(1, 2), 2), batcher.submit_nowait(rows(3), 1)
        leaves.cancel()
        check(await stays, rows(3))
        assert model.batches == [1]

    run(scenario())


def test_the_rows_of_whoever_leaves_stop_counting() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        running = batcher.submit_nowait(rows(0), 1)
        await a_pass_of_the_loop()
        queued = [batcher.submit_nowait(rows(*range(8)), 8) for _ in range(2)]
        with pytest.raises(Overloaded):
            batcher.submit_nowait(rows(1), 1)
        queued[0].cancel()
        await a_pass_of_the_loop()
        assert batcher.statistics().queued_rows == 8
        assert batcher.statistics().queued_requests == 1
        await asyncio.gather(running, queued[1], batcher.submit(rows(1), 1))

    run(scenario())


def test_a_batch_that_everyone_has_left_ends_like_any_other() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        left = [batcher.submit_nowait(rows(n), 1) for n in (1, 2)]
        await asyncio.sleep(0.5)
        for future in left:
            future.cancel()
        check(await batcher.submit(rows(3), 1), rows(3))
        assert batcher.statistics().batches == 2

    run(scenario())


# How batches form


def test_requests_of_one_pass_share_a_batch() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model)
        answers = await asyncio.gather(*(batcher.submit(rows(n), 1) for n in range(3)))
        assert model.batches == [3]
        assert [answer.batch_rows for answer in answers] == [3, 3, 3]
        assert model.started == [0.0]  # nobody waited for more to come

    run(scenario())


def test_the_next_batch_forms_while_a_run_is_in_flight() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model)
        futures = []
        for n in range(4):
            futures.append(batcher.submit_nowait(rows(n), 1))
            await asyncio.sleep(0.3)
        for n, answer in enumerate(await asyncio.gather(*futures)):
            check(answer, rows(n))
        assert model.batches == [1, 3]
        assert model.started == [0.0, 1.0]

    run(scenario())


def test_one_run_is_in_flight_at_a_time() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model)
        await asyncio.gather(*(batcher.submit(rows(*range(4)), 4) for _ in range(4)))
        assert model.batches == [8, 8]
        assert model.started == [0.0, 1.0]

    run(scenario())


def test_an_answer_tells_how_long_it_waited_and_ran() -> None:
    async def scenario() -> None:
        reports: list[BatchReport] = []
        batcher = batcher_of(Model(), on_batch=reports.append)
        first = batcher.submit_nowait(rows(1, 2), 2)
        await asyncio.sleep(0.25)
        second, third = await asyncio.gather(*(batcher.submit(rows(n), 1) for n in (3, 4)))
        assert ((await first).queue_s, (await first).compute_s, (await first).batch_rows) == (0.0, 1.0, 2)
        assert (second.queue_s, second.compute_s, second.batch_rows) == (0.75, 1.0, 2)
        assert third.queue_s == 0.75
        assert reports == [
            BatchReport(cause="idle", rows=2, requests=1, compute_s=1.0, failed=False),
            BatchReport(cause="idle", rows=2, requests=2, compute_s=1.0, failed=False),
        ]

    run(scenario())


def test_a_failing_report_harms_nobody() -> None:
    async def scenario() -> None:
        def fail(_: BatchReport) -> None:
            raise ValueError("no such metric")

        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        batcher = batcher_of(Model(), on_batch=fail)
        for n in range(2):
            check(await batcher.submit(rows(n), 1), rows(n))
        assert [str(complaint["exception"]) for complaint in complaints] == ["no such metric"] * 2

    run(scenario())


# What goes in and out


@modest
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.sampled_from([ONE_SECOND, INSTANT]))
def test_everyone_gets_the_results_of_their_own_rows(sizes: list[int], profile: LatencyProfile) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model(), profile, Limits(max_batch_rows=8, max_queue_rows=60, max_queue_s=100.0))
        rng = np.random.default_rng(sum(sizes))
        requests = [{"x": rng.normal(size=(size, 3)).astype(np.float32)} for size in sizes]
        answers = await asyncio.gather(*(batcher.submit(inputs, len(inputs["x"])) for inputs in requests))
        for answer, inputs in zip(answers, requests, strict=True):
            check(answer, inputs)

    run(scenario())


def test_a_lone_request_is_not_copied() -> None:
    async def scenario() -> None:
        model = Model()
        inputs = rows(1, 2)
        await batcher_of(model).submit(inputs, 2)
        assert model.seen[0]["x"] is inputs["x"]

    run(scenario())


def test_results_are_views_of_the_runs_outputs() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        one, two = await asyncio.gather(*(batcher.submit(rows(n), 1) for n in range(2)))
        assert one.outputs["doubled"].base is not None
        assert one.outputs["doubled"].base is two.outputs["doubled"].base

    run(scenario())


@pytest.mark.parametrize(
    "other",
    [np.ones((1, 3), np.float32), np.ones((1, 2), np.float64), np.ones((1, 2, 1), np.float32)],
    ids=["shape", "dtype", "rank"],
)
def test_requests_that_cannot_be_joined_run_apart(other: np.ndarray[Any, Any]) -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model)
        inputs = [rows(1), {"x": other}, rows(2)]
        answers = await asyncio.gather(*(batcher.submit(each, 1) for each in inputs))
        for answer, each, batch_rows in zip(answers, inputs, (2, 1, 2), strict=True):
            check(answer, each)
            assert answer.outputs["doubled"].dtype == each["x"].dtype
            assert answer.batch_rows == batch_rows
        assert model.batches == [2, 1]

    run(scenario())


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (2, BadInput, r"input 'x' has shape \[1, 2\], where the first axis should be 2"),
        (0, BadInput, "at least one row"),
        (9, TooLarge, "at most 8 rows"),
    ],
)
def test_a_malformed_request_is_refused_before_it_can_meet_others(
    count: int, error: type[InferdError], message: str
) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        inputs = rows(1) if count == 2 else {"x": np.ones((count, 2), np.float32)}
        with pytest.raises(error, match=message):
            batcher.submit_nowait(inputs, count)
        assert batcher.statistics().queued_requests == 0

    run(scenario())


# Overload and deadlines


def test_a_full_queue_refuses_and_tells_when_to_retry() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model(), limits=Limits(max_batch_rows=8, max_queue_rows=100, max_queue_s=1.5))
        accepted = [batcher.submit_nowait(rows(0), 1)]
        await asyncio.sleep(0.25)
        accepted += [batcher.submit_nowait(rows(*range(8)), 8) for _ in range(1)]
        with pytest.raises(Overloaded, match=r"the predicted wait is 1.75 s, and may be 1.5 s") as refused:
            batcher.submit_nowait(rows(1), 1)
        assert refused.value.retry_after_s == pytest.approx(0.25)
        await asyncio.sleep(refused.value.retry_after_s)
        await asyncio.gather(*accepted, batcher.submit(rows(1), 1))

    run(scenario())


@pytest.mark.parametrize(
    ("deadline", "told_at"),
    [(0.5, 0.0), (1.0, TIMER_TICK_S), (1.25, 0.25 + TIMER_TICK_S)],
    ids=["hopeless from the start", "in time if it ran now", "in time if it ran soon"],
)
def test_a_deadline_that_cannot_be_met_behind_a_long_run_is_told_at_once(deadline: float, told_at: float) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        model = Model()
        batcher = batcher_of(model)
        running = batcher.submit_nowait(rows(1), 1)
        await a_pass_of_the_loop()
        late, patient = batcher.submit_nowait(rows(2), 1, deadline), batcher.submit_nowait(rows(3), 1)
        assert isinstance(await error_of(late), DeadlineExceeded)
        assert loop.time() == pytest.approx(told_at)
        assert batcher.statistics().queued_rows == 1
        check(await running, rows(1))
        check(await patient, rows(3))
        assert model.batches == [1, 1]

    run(scenario())


@pytest.mark.parametrize("deadline", [-1.0, 0.0, 0.9])
def test_whatever_cannot_be_in_time_does_not_run(deadline: float) -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model)
        late, in_time = batcher.submit_nowait(rows(1), 1, deadline), batcher.submit_nowait(rows(2), 1, 1.0)
        assert isinstance(await error_of(late), DeadlineExceeded)
        check(await in_time, rows(2))
        assert model.batches == [1]

    run(scenario())


def test_whatever_is_found_late_is_told_before_its_timer() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        model = Model()
        batcher = batcher_of(model, INSTANT)
        late, in_time = batcher.submit_nowait(rows(1), 1, 0.00005), batcher.submit_nowait(rows(2), 1)
        assert isinstance(await error_of(late), DeadlineExceeded)
        assert loop.time() == 0.0
        check(await in_time, rows(2))
        assert model.batches == [1]

    run(scenario())


def test_a_deadline_says_nothing_about_a_run_that_has_begun() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model(), LatencyProfile(((1, 0.1),)))  # it will take a second, not a tenth
        check(await batcher.submit(rows(1), 1, 0.5), rows(1))

    run(scenario())


def test_a_deadline_of_a_model_faster_than_a_timer_is_told_when_it_passes() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        batcher = batcher_of(Model(), INSTANT, inline_below_s=0.0)  # it will take a second all the same
        running = batcher.submit_nowait(rows(1), 1)
        await a_pass_of_the_loop()
        assert isinstance(await error_of(batcher.submit(rows(2), 1, 0.5)), DeadlineExceeded)
        assert loop.time() == 0.5
        check(await running, rows(1))

    run(scenario())


def test_deadlines_are_on_the_injected_clock() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        batcher = batcher_of(Model(), clock=lambda: loop.time() + 1000.0)
        running = batcher.submit_nowait(rows(1), 1, 1001.0)
        await a_pass_of_the_loop()
        assert isinstance(await error_of(batcher.submit(rows(2), 1, 1001.5)), DeadlineExceeded)
        assert loop.time() == pytest.approx(0.5 + TIMER_TICK_S)
        check(await running, rows(1))

    run(scenario())


def test_a_late_request_far_behind_the_next_batch_is_told_too() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        batcher = batcher_of(Model(), limits=Limits(max_batch_rows=8, max_queue_rows=100, max_queue_s=100.0))
        in_front = [batcher.submit_nowait(rows(*range(8)), 8) for _ in range(4)]
        late = batcher.submit_nowait(rows(1), 1, 2.25)
        assert isinstance(await error_of(late), DeadlineExceeded)
        assert loop.time() == 1.25 + TIMER_TICK_S
        assert batcher.statistics().queued_rows == 16
        await asyncio.gather(*in_front)

    run(scenario())


# Priority


def test_higher_levels_run_first_and_lower_ones_fill_the_batch() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model, limits=Limits(max_batch_rows=2, max_queue_rows=16, max_queue_s=100.0))
        running = batcher.submit_nowait(rows(0), 1)
        await a_pass_of_the_loop()
        priorities = [3, 0, 1, 2, 3, 1, 99, 1]
        futures = [batcher.submit_nowait(rows(n), 1, priority=priority) for n, priority in enumerate(priorities)]
        for n, answer in enumerate(await asyncio.gather(*futures)):
            check(answer, rows(n))
        await running
        assert [inputs["x"][:, 0].tolist() for inputs in model.seen] == [[0], [2, 5], [7, 1], [3, 6], [0, 4]]

    run(scenario())


def test_a_queue_that_is_too_long_for_the_others_takes_a_higher_level() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model, limits=Limits(max_batch_rows=8, max_queue_rows=24, max_queue_s=1.5))
        for priority in (1, 2, 3):  # what was served is forgotten
            await batcher.submit(rows(*range(8)), 8, priority=priority)
        model.seen.clear()
        futures = [batcher.submit_nowait(rows(*range(8)), 8, priority=2)]
        await a_pass_of_the_loop()
        futures.append(batcher.submit_nowait(rows(*range(8)), 8, priority=2))
        for priority in (2, 3):
            with pytest.raises(Overloaded, match="the predicted wait is 2 s"):
                batcher.submit_nowait(rows(9), 1, priority=priority)
        futures.append(batcher.submit_nowait(rows(9), 1, priority=1))
        await asyncio.gather(*futures)
        assert model.batches == [8, 1, 8]
        assert model.seen[1]["x"][0, 0] == 9.0

    run(scenario())


@pytest.mark.parametrize("priority", [1, 2, 3])
def test_whoever_leaves_any_level_makes_room(priority: int) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        running = batcher.submit_nowait(rows(0), 1)
        await a_pass_of_the_loop()
        leaves = batcher.submit_nowait(rows(1, 2), 2, priority=priority)
        others = [batcher.submit_nowait(rows(3), 1, priority=other) for other in (1, 2, 3)]
        assert (batcher.statistics().queued_requests, batcher.statistics().queued_rows) == (4, 5)
        leaves.cancel()
        await a_pass_of_the_loop()
        assert (batcher.statistics().queued_requests, batcher.statistics().queued_rows) == (3, 3)
        await asyncio.gather(running, *others)

    run(scenario())


# Models without a batch axis


def alone(run: Callable[[Arrays], Arrays], model: Model, profile: LatencyProfile = INSTANT) -> Batcher:
    limits = Limits(max_batch_rows=1, max_queue_rows=60, max_queue_s=100.0)
    return Batcher(run, profile=profile, limits=limits, run_blocking=model.run_blocking, batched=False)


@modest
@given(
    st.lists(
        st.dictionaries(st.sampled_from("xyz"), st.lists(st.integers(0, 3), max_size=3).map(np.ones), max_size=2),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([ONE_SECOND, INSTANT]),
)
def test_without_a_batch_axis_each_request_runs_alone_and_untouched(
    requests: list[Arrays], profile: LatencyProfile
) -> None:
    async def scenario() -> None:
        seen: list[Arrays] = []

        def identity(inputs: Arrays) -> Arrays:
            seen.append(inputs)
            return inputs

        batcher = alone(identity, Model(), profile)
        answers = await asyncio.gather(*(batcher.submit(inputs, 1) for inputs in requests))
        assert [id(inputs) for inputs in seen] == [id(inputs) for inputs in requests]
        for answer, inputs in zip(answers, requests, strict=True):
            assert answer.outputs is inputs
            assert answer.batch_rows == 1
        assert (batcher.statistics().batches, batcher.statistics().rows) == (len(requests), len(requests))

    run(scenario())


def test_without_a_batch_axis_order_failures_and_deadlines_are_as_with_one() -> None:
    async def scenario() -> None:
        model = Model()
        seen: list[float] = []

        def halve(inputs: Arrays) -> Arrays:
            seen.append(float(inputs["x"]))
            if inputs["x"] == 0:
                raise ZeroDivisionError("nothing to halve")
            return {"half": inputs["x"] / 2}

        batcher = alone(halve, model, ONE_SECOND)
        low, fails, late, high = (
            batcher.submit_nowait({"x": np.array(value)}, 1, deadline, priority)
            for value, deadline, priority in ((8.0, None, 3), (0.0, None, 0), (4.0, 1.5, 0), (6.0, None, 1))
        )
        assert (await high).outputs["half"] == 3.0
        assert isinstance(await error_of(late), DeadlineExceeded)
        assert isinstance(await error_of(fails), RuntimeFailure)
        assert (await low).outputs["half"] == 4.0
        assert seen == [6.0, 0.0, 8.0]

    run(scenario())


def test_without_a_batch_axis_there_is_one_row_and_no_more() -> None:
    async def scenario() -> None:
        with pytest.raises(TooLarge, match="at most 1 rows"):
            alone(lambda inputs: inputs, Model()).submit_nowait(rows(1, 2), 2)
        with pytest.raises(ValueError, match="runs 1 row at once, not 8"):
            batcher_of(Model(), batched=False)

    run(scenario())


def test_a_model_that_is_slower_than_was_measured_has_a_shorter_queue() -> None:
    async def scenario() -> None:
        model = Model()  # a second a run, and it was measured as an instant
        batcher = batcher_of(model, INSTANT, Limits(max_batch_rows=8, max_queue_rows=10_000), inline_below_s=0.0)
        waiting = []
        refused = 0
        for n in range(400):
            try:
                waiting.append(batcher.submit_nowait(rows(n), 1))
            except Overloaded:
                refused += 1
            await asyncio.sleep(0.1)
        assert len(waiting) > 200
        assert refused > 10
        for answer in await asyncio.gather(*waiting):
            assert answer.queue_s < 10

    run(scenario())


# Failures


def test_a_failed_run_fails_its_batch_alone() -> None:
    async def scenario() -> None:
        reports: list[BatchReport] = []
        model = Model()
        batcher = batcher_of(model, on_batch=reports.append)
        model.fails_with = FloatingPointError("not a number")
        failing = [batcher.submit_nowait(rows(n), 1) for n in range(2)]
        await asyncio.sleep(0.5)
        behind = batcher.submit_nowait(rows(3), 1)
        for future in failing:
            error = await error_of(future)
            assert isinstance(error, RuntimeFailure)
            assert "not a number" in str(error)
            assert error.__cause__ is model.fails_with
        model.fails_with = None
        check(await behind, rows(3))
        assert [report.failed for report in reports] == [True, False]
        assert batcher.statistics().failed_batches == 1

    run(scenario())


@pytest.mark.parametrize("profile", [ONE_SECOND, INSTANT], ids=["in a thread", "in the loop"])
def test_of_a_batch_that_fails_only_those_fail_that_are_at_fault(profile: LatencyProfile) -> None:
    async def scenario() -> None:
        reports: list[BatchReport] = []
        model = Model()

        def choosy(inputs: Arrays) -> Arrays:
            if (inputs["x"] < 0).any():
                raise FloatingPointError("a negative number")
            return model(inputs)

        batcher = Batcher(
            choosy, profile=profile, limits=LIMITS, run_blocking=model.run_blocking, on_batch=reports.append
        )
        good = [rows(1), rows(3, 4), rows(5)]
        futures = [batcher.submit_nowait(one, len(one["x"])) for one in (good[0], rows(-2), *good[1:])]
        error = await error_of(futures.pop(1))
        assert isinstance(error, RuntimeFailure)
        assert "a negative number" in str(error)
        for one, future in zip(good, futures, strict=True):
            answer = await future
            check(answer, one)
            assert answer.batch_rows == len(one["x"])  # each ran alone in the end
        check(await batcher.submit(rows(6), 1), rows(6))
        assert [(report.rows, report.failed) for report in reports] == [(5, True), (1, False)]
        assert batcher.statistics().failed_batches == 1

    run(scenario())


def test_an_error_of_our_own_passes_unchanged() -> None:
    async def scenario() -> None:
        model = Model()
        model.fails_with = BundleRefused("model.onnx", "gone")
        assert await error_of(batcher_of(model).submit(rows(1), 1)) is model.fails_with

    run(scenario())


@pytest.mark.parametrize("output", [np.ones((3, 2)), np.ones(()), np.ones((0, 2))], ids=["more", "scalar", "none"])
def test_outputs_without_a_row_for_each_input_row_are_a_failure(output: np.ndarray[Any, Any]) -> None:
    async def scenario() -> None:
        model = Model()
        batcher = Batcher(lambda _: {"y": output}, profile=INSTANT, limits=LIMITS, run_blocking=model.run_blocking)
        for error in await asyncio.gather(*(error_of(batcher.submit(rows(n), 1)) for n in range(2))):
            assert isinstance(error, RuntimeFailure)
            assert "output 'y' has shape" in str(error)

    run(scenario())


def test_an_executor_that_refuses_work_fails_the_batch_and_not_the_batcher() -> None:
    async def scenario() -> None:
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        loop = asyncio.get_running_loop()
        batcher = batcher_of(Model(), run_blocking=partial(loop.run_in_executor, executor))
        for _ in range(2):
            assert isinstance(await error_of(batcher.submit(rows(1), 1)), RuntimeFailure)
        await batcher.drain()

    run(scenario())


def test_a_run_that_is_cancelled_from_outside_fails_its_batch() -> None:
    async def scenario() -> None:
        runs: list[asyncio.Task[Any]] = []
        model = Model()

        def start(work: Callable[[], T]) -> asyncio.Task[T]:
            runs.append(asyncio.create_task(model.run_blocking(work)))
            return runs[-1]

        batcher = batcher_of(model, run_blocking=start)
        future = batcher.submit_nowait(rows(1), 1)
        await asyncio.sleep(0.5)
        runs[0].cancel()
        assert isinstance(await error_of(future), RuntimeFailure)
        check(await batcher.submit(rows(2), 1), rows(2))

    run(scenario())


# Where a run takes place


def test_a_run_that_is_predicted_to_be_long_goes_where_long_ones_go() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        threads: list[str] = []

        def identity(inputs: Arrays) -> Arrays:
            threads.append(current_thread().name)
            return inputs

        profile = LatencyProfile(((1, 0.0049), (2, 0.0051)))
        with ThreadPoolExecutor(1, "short") as short, ThreadPoolExecutor(1, "long") as long:
            short_run, long_run = (partial(loop.run_in_executor, executor) for executor in (short, long))
            make = partial(Batcher, identity, run_blocking=short_run, profile=profile, limits=LIMITS)
            batcher = make(run_long=long_run)
            for inputs in (rows(1), rows(2, 3), rows(4)):
                await batcher.submit(inputs, len(inputs["x"]))
            assert threads == ["short_0", "long_0", "short_0"]
            await make(run_long=long_run, long_s=0.001).submit(rows(1), 1)
            await make().submit(rows(1, 2), 2)
            assert threads[3:] == ["long_0", "short_0"]

    run(scenario())


def test_a_short_run_stays_in_the_loop_and_a_long_one_goes_to_a_thread() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        threads: list[int] = []

        def identity(inputs: Arrays) -> Arrays:
            threads.append(get_ident())
            return inputs

        profile = LatencyProfile(((1, 0.0009), (2, 0.0011)))
        with ThreadPoolExecutor(1) as executor:
            run_blocking = partial(loop.run_in_executor, executor)
            batcher = Batcher(identity, profile=profile, limits=LIMITS, run_blocking=run_blocking)
            for inputs in (rows(1), rows(2, 3), rows(4)):
                answer = await batcher.submit(inputs, len(inputs["x"]))
                np.testing.assert_array_equal(answer.outputs["x"], inputs["x"])
        inline, elsewhere, inline_again = (thread == get_ident() for thread in threads)
        assert (inline, elsewhere, inline_again) == (True, False, True)

    run(scenario())


def test_the_loop_serves_others_between_short_runs() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = batcher_of(model, INSTANT)
        futures = [batcher.submit_nowait(rows(*range(8)), 8) for _ in range(2)]
        batches_at_each_pass = []
        for _ in range(3):
            await a_pass_of_the_loop()
            batches_at_each_pass.append(len(model.seen))
        assert batches_at_each_pass == [1, 2, 2]
        await asyncio.gather(*futures)

    run(scenario())


def test_the_time_of_a_short_run_is_measured_too() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)

        def slow(inputs: Arrays) -> Arrays:
            loop.advance(SHORT)
            return inputs

        batcher = Batcher(slow, profile=INSTANT, limits=LIMITS, run_blocking=Model().run_blocking)
        first, second = await asyncio.gather(*(batcher.submit(rows(*range(8)), 8) for _ in range(2)))
        assert (first.queue_s, first.compute_s) == (0.0, SHORT)
        assert (second.queue_s, second.compute_s) == (SHORT, SHORT)

    run(scenario())


SHORT = 2**-7
"""Seconds that a run may take in the event loop without losing its place there."""


class AsLongAsAsked:
    """A graph whose runs take the seconds that the input says, in the event loop or as a thread would."""

    def __init__(self) -> None:
        self.inline: list[bool] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        loop.advance(float(inputs["x"][0, 0]))
        self.inline.append(True)
        return inputs

    async def run_blocking(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        result = work()
        self.inline[-1] = False
        return result


def test_runs_that_take_far_longer_than_predicted_are_kept_out_of_the_loop_for_a_while() -> None:
    async def scenario() -> None:
        graph = AsLongAsAsked()
        batcher = Batcher(graph, profile=INSTANT, limits=LIMITS, run_blocking=graph.run_blocking)
        for _ in range(3):
            await batcher.submit(rows(SHORT), 1)
        await batcher.submit(rows(0.125), 1)
        for _ in range(102):
            await batcher.submit(rows(SHORT), 1)
        assert graph.inline == [True] * 4 + [False] * 100 + [True] * 2

        await batcher.submit(rows(0.125), 1)
        graph.inline.clear()
        for _ in range(60):
            await batcher.submit(rows(SHORT), 1)
        await batcher.submit(rows(0.125), 1)  # in a thread: there too it tells what may come
        for _ in range(101):
            await batcher.submit(rows(SHORT), 1)
        assert graph.inline == [False] * 161 + [True]

    run(scenario())


def test_a_run_that_is_as_long_as_predicted_keeps_no_short_one_out_of_the_loop() -> None:
    async def scenario() -> None:
        graph = AsLongAsAsked()
        profile = LatencyProfile(((1, 0.0001), (8, 0.125)))
        batcher = Batcher(graph, profile=profile, limits=LIMITS, run_blocking=graph.run_blocking)
        await batcher.submit(rows(0.125, *range(7)), 8)
        await batcher.submit(rows(SHORT), 1)
        assert graph.inline == [False, True]

    run(scenario())


class SlowToHandle(dict[str, Any]):
    """Arrays of which every look at all of them, or at one, takes a while."""

    def __getitem__(self, name: str) -> Any:
        self._wait()
        return super().__getitem__(name)

    def items(self) -> Any:
        self._wait()
        return super().items()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        loop.advance(0.25)


def test_the_time_of_a_batch_is_told_by_its_parts() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)

        def slow(inputs: Arrays) -> Arrays:
            loop.advance(4.0)
            return SlowToHandle({"y": inputs["x"]})

        reports: list[BatchReport] = []
        batcher = Batcher(
            slow, profile=INSTANT, limits=LIMITS, run_blocking=Model().run_blocking, on_batch=reports.append
        )
        requests = [SlowToHandle(rows(n)) for n in range(2)]
        answers = await asyncio.gather(*(batcher.submit(inputs, 1) for inputs in requests))
        await a_pass_of_the_loop()
        (report,) = reports
        # Two arrays were joined; the outputs were looked at once to check them, and twice to part them.
        assert (report.input_s, report.infer_s, report.output_s, report.compute_s) == (0.5, 4.0, 0.75, 5.25)
        for answer in answers:
            assert (answer.input_s, answer.infer_s, answer.output_s, answer.compute_s) == (0.5, 4.0, 0.75, 5.25)

    run(scenario())


# Draining, and what can be seen from outside


def test_drain_refuses_what_is_new_and_finishes_what_was_accepted() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        batcher = batcher_of(Model())
        accepted = [batcher.submit_nowait(rows(*range(n, n + 5)), 5) for n in range(3)]
        draining = asyncio.create_task(batcher.drain())
        await a_pass_of_the_loop()
        with pytest.raises(NotReady):
            batcher.submit_nowait(rows(1), 1)
        await draining
        assert loop.time() == 3.0
        for n, future in enumerate(accepted):
            check(future.result(), rows(*range(n, n + 5)))

    run(scenario())


def test_drain_of_an_idle_batcher_returns_at_once() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        await batcher.drain()
        assert asyncio.get_running_loop().time() == 0.0

    run(scenario())


def test_drain_waits_for_a_run_that_nobody_listens_to() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        future = batcher.submit_nowait(rows(1), 1)
        await asyncio.sleep(0.5)
        future.cancel()
        await batcher.drain()
        assert asyncio.get_running_loop().time() == 1.0

    run(scenario())


def test_statistics_show_queue_run_and_totals() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Model())
        futures = [batcher.submit_nowait(rows(1, 2, 3), 3), batcher.submit_nowait(rows(*range(6)), 6)]
        await asyncio.sleep(0.5)
        now = batcher.statistics()
        assert (now.running_rows, now.queued_rows, now.queued_requests, now.batches, now.rows) == (3, 6, 1, 0, 0)
        await asyncio.gather(*futures)
        now = batcher.statistics()
        assert (now.running_rows, now.queued_rows, now.queued_requests, now.batches, now.rows) == (0, 0, 0, 2, 9)

    run(scenario())


# Everything at once

callers = st.tuples(
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),  # seconds after the one before
    st.integers(1, 4),  # rows
    st.none() | st.sampled_from([0.5, 1.0, 2.5]),  # patience, as a deadline
    st.none() | st.sampled_from([0.0, 0.3, 1.0, 1.7]),  # patience, as a disconnect
    st.integers(0, 4),  # priority
    st.integers(0, 2),  # columns, which make the layout
)


@modest
@given(st.lists(callers, max_size=20), st.sets(st.integers(0, 6)), st.sampled_from([ONE_SECOND, INSTANT]))
def test_whatever_happens_everyone_gets_their_own_answer_or_an_error(
    arrivals: list[tuple[float, int, float | None, float | None, int, int]],
    failing_batches: set[int],
    profile: LatencyProfile,
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        model = Model()
        batches = 0

        def sometimes_failing(inputs: Arrays) -> Arrays:
            nonlocal batches
            batches += 1
            if batches - 1 in failing_batches:
                raise ValueError("bad luck")
            return model(inputs)

        batcher = Batcher(sometimes_failing, profile=profile, limits=LIMITS, run_blocking=model.run_blocking)

        async def call(
            number: int,
            size: int,
            patience: float | None,
            leaves_after_s: float | None,
            priority: int,
            columns: int,
        ) -> None:
            inputs = {"x": np.arange(size * columns, dtype=np.float32).reshape(size, columns) + 100 * number}
            deadline = None if patience is None else loop.time() + patience
            try:
                async with asyncio.timeout(leaves_after_s):
                    check(await batcher.submit(inputs, size, deadline, priority), inputs)
            except (Overloaded, RuntimeFailure, DeadlineExceeded, TimeoutError):
                pass

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number, (gap, size, patience, leaves_after_s, priority, columns) in enumerate(arrivals):
                await asyncio.sleep(gap)
                group.create_task(call(number, size, patience, leaves_after_s, priority, columns))
        await batcher.drain()
        now = batcher.statistics()
        assert (now.queued_requests, now.queued_rows, now.running_rows) == (0, 0, 0)
        failed_runs = batches - len(model.seen)  # of a batch, or of one request of a batch that failed
        assert now.failed_batches <= failed_runs
        assert now.batches <= batches
        if not failed_runs:
            assert now.batches == batches

    run(scenario())
