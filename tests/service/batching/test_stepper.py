from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from service.batching.policy import LatencyProfile, Limits
from service.batching.records import StepReport
from service.batching.sampling import Sampling
from service.batching.sequences import SampledGroup
from service.batching.stepper import NEWS_EVERY_S, Stepper, StepperStatistics
from service.errors import (
    BadInput,
    BundleRefused,
    Cancelled,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
)
from tests.service.batching.step_graphs import GatedModel, StepModel, expect_as_alone, group_of, sampled_slots

PATIENCE_S = 20
ENDLESS = 10**9
"""A limit that no test would live to see."""


class Clock:
    """Stands still until a test moves it; what is hooked in is called once, when the thread asks for the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.hook: Callable[[], None] | None = None

    def __call__(self) -> float:
        if self.hook and threading.current_thread().name == "step-test":
            hook, self.hook = self.hook, None
            hook()
        return self.now


def stepper_of(
    model: StepModel,
    capacity: int = 4,
    *,
    clock: Callable[[], float] | None = None,
    seconds: float = 0.001,
    max_queue_rows: int = 1000,
    max_queue_s: float = 1e12,
    **others: Any,
) -> Stepper:
    """A stepper, made within an event loop; a step of any number of rows is predicted to take `seconds`."""
    clock = clock or Clock()
    return Stepper(
        sampled_slots(model, capacity=capacity, clock=clock),
        profile=LatencyProfile(((1, seconds), (capacity, seconds)) if capacity > 1 else ((1, seconds),)),
        limits=Limits(capacity, max_queue_rows, max_queue_s),
        name="step-test",
        clock=clock,
        **others,
    )


async def ended(*groups: SampledGroup) -> None:
    """Wait until nothing will change any more in any of the groups."""
    async with asyncio.timeout(PATIENCE_S):
        for group in groups:
            while not group.done:
                await group.changed.wait()
                group.changed.clear()


async def drained(stepper: Stepper) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await stepper.drain()
    for thread in threading.enumerate():
        if thread.name == "step-test":
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the thread goes on after all has ended"
    assert stepper.statistics() == StepperStatistics(queued=0, live=0)


def wait_for_a_run(model: GatedModel) -> None:
    """Wait until the next run has begun: all that came before is taken in."""
    assert model.entered.acquire(timeout=PATIENCE_S), "nothing runs"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "step-test"]


def test_each_group_gets_what_it_gets_alone_however_many_come_at_once() -> None:
    async def main() -> None:
        model = StepModel()
        stepper = stepper_of(model, capacity=8)
        groups = [
            group_of([seed % 11] * (1 + seed % 5), choices=1 + seed % 3, seed=seed, limit=1 + seed % 9)
            for seed in range(100)
        ]
        for group in groups:
            stepper.submit(group)
        await ended(*groups)
        for seed, group in enumerate(groups):
            assert group.error is None
            expect_as_alone(group, seed)
        assert max(model.batches) == 8
        await drained(stepper)

    asyncio.run(main())


# Order


def test_who_comes_first_is_served_first() -> None:
    async def main() -> None:
        ticks = count(1)
        stepper = stepper_of(StepModel(), capacity=2, clock=lambda: float(next(ticks)))
        groups = [group_of(choices=1 + number % 2, limit=3) for number in range(20)]
        for group in groups:
            stepper.submit(group)
        await ended(*groups)
        joined = [group.joined_at for group in groups]
        assert joined == sorted(joined)
        assert all(one.enqueued_at < one.joined_at < (one.first_token_at or 0) < one.ended_at for one in groups)
        await drained(stepper)

    asyncio.run(main())


def test_a_small_group_does_not_overtake_one_that_waits_for_more_slots() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=4)
        first, wide, small = group_of(choices=3, limit=4), group_of(choices=2, limit=2), group_of(limit=2)
        stepper.submit(first)
        wait_for_a_run(model)
        stepper.submit(wide)
        stepper.submit(small)
        for _ in range(4):
            assert stepper.statistics().queued == 3, "one slot is free, but it is not the small one's turn"
            model.let_run()
            wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=0, live=2)
        assert first.done or not first.left
        model.open()
        await ended(first, wide, small)
        await drained(stepper)

    asyncio.run(main())


def test_few_wait_for_others_to_be_seated_with_them_but_not_for_long() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=20, together=0.25)
        first = [group_of(limit=ENDLESS, seed=seed) for seed in range(8)]
        stepper.submit(*first)
        wait_for_a_run(model)

        def run_once() -> int:
            model.let_run()
            wait_for_a_run(model)
            return stepper.statistics().live

        assert run_once() == 8
        alone = group_of(limit=ENDLESS)
        stepper.submit(alone)
        assert [run_once() for _ in range(5)] == [8, 8, 8, 8, 9]
        others = [group_of(limit=ENDLESS) for _ in range(3)]
        stepper.submit(others[0])
        assert [run_once() for _ in range(2)] == [9, 9]
        stepper.submit(*others[1:])
        assert run_once() == 12, "they are more than a quarter of those that live"
        for group in (*first, alone, *others):
            stepper.cancel(group)
        model.open()
        await ended(*first, alone, *others)
        await drained(stepper)

    asyncio.run(main())


def test_who_comes_to_few_is_seated_at_once_whoever_waits_for_others() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=20, together=0.25)
        groups = [group_of(limit=ENDLESS) for _ in range(5)]
        for number, group in enumerate(groups):
            stepper.submit(group)
            wait_for_a_run(model)
            if number:
                model.let_run()
                wait_for_a_run(model)
            assert stepper.statistics().live == number + 1
            model.let_run()
        for group in groups:
            stepper.cancel(group)
        model.open()
        await ended(*groups)
        await drained(stepper)

    asyncio.run(main())


# What may wait


def test_what_can_never_have_its_slots_is_refused() -> None:
    async def main() -> None:
        stepper = stepper_of(StepModel(), capacity=4)
        with pytest.raises(TooLarge, match="at most 4 sequences; this one has 5"):
            stepper.submit(group_of(choices=5))
        with pytest.raises(BadInput, match="a prompt needs at least one token"):
            stepper.submit(group_of([]))
        assert stepper.statistics() == StepperStatistics(queued=0, live=0)
        await drained(stepper)

    asyncio.run(main())


def test_no_more_sequences_wait_than_may() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2, max_queue_rows=5)
        live = group_of(choices=2, limit=6)
        stepper.submit(live)
        wait_for_a_run(model)
        waiting = [group_of(choices=2, limit=100), group_of(limit=100), group_of(choices=1, limit=100)]
        for group in waiting:
            stepper.submit(group)
        with pytest.raises(Overloaded, match="the queue is full: 4 sequences wait, and 5 may"):
            stepper.submit(group_of(choices=2))
        stepper.submit(group_of())
        with pytest.raises(Overloaded):
            stepper.submit(group_of())
        assert stepper.statistics().queued == 5
        stepper.abort(NotReady("enough"))
        model.open()
        await drained(stepper)

    asyncio.run(main())


def test_a_full_queue_tells_a_time_to_come_back_that_is_not_nothing() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=1, max_queue_rows=1)
        stepper.submit(group_of())
        wait_for_a_run(model)
        stepper.submit(group_of())
        with pytest.raises(Overloaded) as caught:
            stepper.submit(group_of())
        assert caught.value.retry_after_s == 0.05
        model.open()
        await drained(stepper)

    asyncio.run(main())


def test_nobody_waits_longer_than_predicted_but_somebody_always_may() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2, seconds=0.5, max_queue_s=3.0)
        groups = [group_of(choices=2, limit=20)]
        stepper.submit(groups[0])  # 20 steps of half a second
        wait_for_a_run(model)
        groups.append(group_of(limit=1))
        stepper.submit(groups[1])
        with pytest.raises(Overloaded, match=r"the predicted wait is 10\.5 s, and may be 3 s") as caught:
            stepper.submit(group_of())
        assert caught.value.retry_after_s == pytest.approx(7.5)
        for _ in range(16):
            model.let_run()
            wait_for_a_run(model)
        groups.append(group_of())
        stepper.submit(groups[2])
        model.open()
        await ended(*groups)
        await drained(stepper)

    asyncio.run(main())


def test_nobody_is_refused_while_there_are_slots_for_all_that_wait() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=6, seconds=1.0, max_queue_s=1.0)
        stepper.submit(group_of(limit=ENDLESS))
        wait_for_a_run(model)
        for choices in (2, 1, 2):  # while one run lasts: each waits for the next
            stepper.submit(group_of(choices=choices, limit=ENDLESS))
        with pytest.raises(Overloaded, match="the predicted wait"):
            stepper.submit(group_of())
        stepper.abort(NotReady("enough"))
        model.open()
        await drained(stepper)

    asyncio.run(main())


def test_who_leaves_a_share_of_the_queue_to_others_is_refused_before_them() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2, seconds=1.0, max_queue_rows=8, max_queue_s=22.0)
        stepper.submit(group_of(choices=2, limit=10))
        wait_for_a_run(model)
        stepper.submit(group_of(choices=2, limit=10), share=0.5)
        with pytest.raises(Overloaded, match=r"the predicted wait is 20\.\d s, and may be 11 s"):
            stepper.admit(1, share=0.5)
        stepper.admit(1)
        stepper.submit(group_of(choices=2, limit=1))
        with pytest.raises(Overloaded, match="the queue is full: 4 sequences wait, and 4 may"):
            stepper.submit(group_of(), share=0.5)
        stepper.submit(group_of())
        assert stepper.statistics() == StepperStatistics(queued=5, live=1)
        stepper.abort(NotReady("enough"))
        model.open()
        await drained(stepper)
        with pytest.raises(NotReady):
            stepper.admit(1)

    asyncio.run(main())


def test_the_groups_of_a_request_do_not_stand_in_each_others_way() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2, seconds=10.0, max_queue_s=1.0, max_queue_rows=6)
        groups = [group_of(choices=2, limit=3, seed=seed) for seed in range(3)]
        stepper.submit(*groups)  # nobody is in front of them, though each would be in front of the next
        wait_for_a_run(model)
        with pytest.raises(Overloaded):
            stepper.submit(group_of())
        model.open()
        await ended(*groups)
        for seed, group in enumerate(groups):
            expect_as_alone(group, seed)
        await drained(stepper)

    asyncio.run(main())


def test_the_groups_of_a_request_are_all_taken_or_none() -> None:
    async def main() -> None:
        stepper = stepper_of(StepModel(), capacity=2, max_queue_rows=4)
        with pytest.raises(Overloaded):
            stepper.submit(*(group_of() for _ in range(5)))
        with pytest.raises(TooLarge):
            stepper.submit(group_of(), group_of(choices=3))
        assert stepper.statistics() == StepperStatistics(queued=0, live=0)
        await drained(stepper)  # nothing is open

    asyncio.run(main())


# Leaving early


@pytest.mark.parametrize("steps", [1, 3, 6], ids=["reading", "about to grow", "growing"])
def test_a_cancelled_group_has_left_before_the_next_step(steps: int) -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=4)
        leaving, staying = group_of([1, 2, 3, 4], choices=2, limit=ENDLESS), group_of(limit=30, seed=1)
        stepper.submit(leaving)
        stepper.submit(staying)
        wait_for_a_run(model)
        for _ in range(steps - 1):
            model.let_run()
            wait_for_a_run(model)
        stepper.cancel(leaving)
        model.let_run()
        wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=0, live=1)
        model.open()
        await ended(leaving, staying)
        assert isinstance(leaving.error, Cancelled)
        expect_as_alone(leaving, ended=False)
        assert max(len(one.tokens) for one in leaving.sequences) == max(0, steps - 3)
        expect_as_alone(staying, 1)
        await drained(stepper)

    asyncio.run(main())


def test_a_group_that_is_cancelled_while_it_waits_never_runs_and_those_behind_it_move_up() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2)
        live, leaving, behind = group_of(limit=9), group_of(choices=2), group_of(limit=2, seed=5)
        stepper.submit(live)
        wait_for_a_run(model)
        stepper.submit(leaving)
        stepper.submit(behind)
        stepper.cancel(leaving)
        model.let_run()
        wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=0, live=2)
        model.open()
        await ended(live, leaving, behind)
        assert isinstance(leaving.error, Cancelled)
        assert not any(one.tokens for one in leaving.sequences)
        expect_as_alone(behind, 5)
        await drained(stepper)

    asyncio.run(main())


def test_cancelling_what_is_done_changes_nothing() -> None:
    async def main() -> None:
        stepper = stepper_of(StepModel())
        first = group_of()
        stepper.submit(first)
        await ended(first)
        stepper.cancel(first)
        second = group_of(seed=3)
        stepper.submit(second)
        await ended(second)
        assert first.error is None
        expect_as_alone(second, 3)
        await drained(stepper)

    asyncio.run(main())


@pytest.mark.parametrize("call", range(12))
def test_no_cancellation_is_lost_at_whatever_moment_it_comes(call: int) -> None:
    async def main() -> None:
        clock = Clock()
        model = GatedModel()
        stepper = stepper_of(model, clock=clock)
        first, late = group_of(limit=8), group_of(limit=ENDLESS)
        calls = count()

        def come_and_go() -> None:
            if next(calls) < call:
                clock.hook = come_and_go
                return
            stepper.submit(late)  # as the event loop would, between two instructions of the thread
            stepper.cancel(late)

        clock.hook = come_and_go
        stepper.submit(first)
        model.open()
        await ended(first)
        await drained(stepper)  # it would wait for ever for what was not cancelled
        assert isinstance(late.error, Cancelled)

    asyncio.run(main())


def test_clients_that_come_and_go_in_no_order_leave_nothing_behind_and_disturb_nobody() -> None:
    async def main() -> None:
        stepper = stepper_of(StepModel(), capacity=8, clock=None, news_every_s=-1.0)
        choice = random.Random(5)  # noqa: S311 - no secret

        async def client(seed: int) -> None:
            leaves = choice.random() < 0.5
            group = group_of(
                [choice.randrange(11) for _ in range(choice.randint(1, 6))],
                choices=choice.randint(1, 4),
                seed=seed,
                limit=ENDLESS if leaves else choice.randint(1, 30),
                streamed=True,
            )
            stepper.submit(group)
            for _ in range(choice.randint(0, 5) if leaves else 0):
                await group.changed.wait()
                group.changed.clear()
            if leaves:
                stepper.cancel(group)
            await ended(group)
            if leaves:
                assert isinstance(group.error, Cancelled)
            else:
                expect_as_alone(group, seed)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as clients:
            for seed in range(150):
                clients.create_task(client(seed))
        await drained(stepper)

    asyncio.run(main())


# Deadlines


def test_a_deadline_that_comes_while_a_group_waits_or_lives_ends_it_and_frees_its_slots() -> None:
    async def main() -> None:
        clock = Clock()
        model = GatedModel()
        stepper = stepper_of(model, capacity=4, clock=clock)
        live = group_of(choices=2, limit=ENDLESS, deadline=110.0)
        staying = group_of(limit=12, seed=1, deadline=1000.0)
        waiting = group_of(choices=2, limit=5, deadline=105.0)
        unhurried = group_of(choices=3, limit=2, seed=2)
        for group in (live, staying, waiting, unhurried):
            stepper.submit(group)
        wait_for_a_run(model)
        model.let_run()
        wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=5, live=3)
        clock.now = 105.0
        model.let_run()
        wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=3, live=3)
        clock.now = 109.9
        model.let_run()
        wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=3, live=3)
        clock.now = 110.0
        model.let_run()
        wait_for_a_run(model)
        assert stepper.statistics() == StepperStatistics(queued=0, live=2), "a prompt and who stays"
        model.open()
        await ended(live, staying, waiting, unhurried)
        for group in (live, waiting):
            assert isinstance(group.error, DeadlineExceeded)
        assert not waiting.sequences[0].tokens
        assert len(live.sequences[0].tokens) == 4
        expect_as_alone(staying, 1)
        expect_as_alone(unhurried, 2)
        await drained(stepper)

    asyncio.run(main())


# The end


def test_draining_waits_for_everything_that_was_accepted_and_takes_nothing_more() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2)
        groups = [group_of(choices=2, seed=seed) for seed in range(4)]
        for group in groups:
            stepper.submit(group)
        wait_for_a_run(model)
        draining = asyncio.create_task(drained(stepper))
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="takes no new requests"):
            stepper.submit(group_of())
        assert not draining.done()
        model.open()
        await draining
        for seed, group in enumerate(groups):
            assert group.done
            expect_as_alone(group, seed)

    asyncio.run(main())


def test_a_stepper_that_was_never_used_drains_at_once_and_has_no_thread() -> None:
    async def main() -> None:
        stepper = stepper_of(StepModel())
        assert not [thread for thread in threading.enumerate() if thread.name == "step-test"]
        await drained(stepper)

    asyncio.run(main())


def test_what_is_aborted_ends_before_the_next_step_whether_it_lives_or_waits() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2)
        groups = [group_of(choices=2, limit=ENDLESS) for _ in range(3)]
        for group in groups:
            stepper.submit(group)
        wait_for_a_run(model)
        error = NotReady("serves no longer")
        stepper.abort(error)
        with pytest.raises(NotReady, match="takes no new requests"):
            stepper.submit(group_of())
        model.let_run()  # and no more
        await ended(*groups)
        assert all(group.error is error for group in groups)
        assert len(model.batches) == 1
        await drained(stepper)

    asyncio.run(main())


def test_the_thread_ends_at_its_next_step_when_nobody_listens_any_more() -> None:
    model = GatedModel()

    async def main() -> None:
        stepper = stepper_of(model)
        stepper.submit(group_of(limit=ENDLESS, streamed=True))
        wait_for_a_run(model)

    asyncio.run(main())  # its loop is closed, and the stepper was not drained
    (thread,) = (one for one in threading.enumerate() if one.name == "step-test")
    model.open()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert len(model.batches) == 1


# Models at fault


def test_a_run_that_fails_fails_those_that_live_and_the_next_request_works() -> None:
    async def main() -> None:
        model = GatedModel()
        stepper = stepper_of(model, capacity=2)
        live, waiting = group_of(choices=2), group_of(choices=2, seed=1)
        stepper.submit(live)
        stepper.submit(waiting)
        wait_for_a_run(model)
        model.fails_with = ValueError("no such axis")
        model.open()
        await ended(live, waiting)
        assert isinstance(live.error, RuntimeFailure)
        assert str(live.error) == "the model failed: ValueError('no such axis')"
        assert isinstance(live.error.__cause__, ValueError)
        assert waiting.error is None
        expect_as_alone(waiting, 1)
        after = group_of(seed=2)
        stepper.submit(after)
        await ended(after)
        expect_as_alone(after, 2)
        await drained(stepper)

    asyncio.run(main())


def test_an_error_of_our_own_is_passed_on_as_it_is() -> None:
    async def main() -> None:
        model = StepModel()
        error = model.fails_with = BundleRefused("step.onnx", "is gone")
        stepper = stepper_of(model)
        group = group_of()
        stepper.submit(group)
        await ended(group)
        assert group.error is error
        await drained(stepper)

    asyncio.run(main())


def test_a_group_without_finite_scores_fails_alone() -> None:
    async def main() -> None:
        model = StepModel()
        model.diverges_at = 7
        stepper = stepper_of(model)
        bad, good = group_of([1, 7, 1]), group_of([1, 2], seed=4, stop=7)
        stepper.submit(bad, good)
        await ended(bad, good)
        assert isinstance(bad.error, RuntimeFailure)
        assert good.error is None
        expect_as_alone(good, 4, stop=7)
        await drained(stepper)

    asyncio.run(main())


# News


def test_first_tokens_and_ends_are_told_at_once_and_other_tokens_share_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        clock = Clock()
        model = GatedModel()
        stepper = stepper_of(model, clock=clock)
        loop = asyncio.get_running_loop()
        told = []
        call = loop.call_soon_threadsafe

        def counted(callback: Callable[..., object], *args: Any) -> asyncio.Handle:
            told.append(callback)
            return call(callback, *args)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        streams = [group_of([1], limit=9, streamed=True), group_of([1, 2], limit=9, streamed=True)]
        whole = group_of([3], limit=7)
        stepper.submit(*streams, whole)

        def step() -> int:
            """Let one run end, and return how often the loop was woken because of it."""
            before = len(told)
            model.let_run()
            wait_for_a_run(model)
            return len(told) - before

        wait_for_a_run(model)
        assert step() == 1, "the first tokens of two"
        assert step() == 1, "the first token of the third"
        assert [step() for _ in range(3)] == [0, 0, 0]
        clock.now += NEWS_EVERY_S * 1.01
        assert step() == 1, "all that has gathered"
        assert step() == 1, "the end of the whole text, which is not streamed"
        assert [len(one.sequences[0].tokens) for one in streams] == [7, 6]
        assert step() == 0
        assert step() == 1
        model.open()
        await ended(*streams, whole)
        await drained(stepper)

    asyncio.run(main())


def test_only_streams_are_told_of_later_tokens() -> None:
    async def main() -> None:
        clock = Clock()
        model = GatedModel()
        stepper = stepper_of(model, clock=clock)
        stream, whole = group_of(limit=5, streamed=True), group_of(limit=5)
        stepper.submit(stream, whole)
        wait_for_a_run(model)
        model.let_run()
        wait_for_a_run(model)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(stream.changed.wait(), whole.changed.wait())
        stream.changed.clear()
        whole.changed.clear()
        clock.now += 1.0
        model.let_run()
        async with asyncio.timeout(PATIENCE_S):
            await stream.changed.wait()
        assert not whole.changed.is_set()
        model.open()
        await ended(stream, whole)
        await drained(stepper)

    asyncio.run(main())


def test_each_step_is_reported_with_its_rows_its_tokens_and_whether_somebody_waited() -> None:
    async def main() -> None:
        reports: list[StepReport] = []
        ticks = count()
        model = GatedModel()
        stepper = stepper_of(model, capacity=2, clock=lambda: float(next(ticks)), on_step=reports.append)
        groups = [group_of([1, 2], limit=2), group_of(choices=2, limit=1)]
        stepper.submit(*groups)
        wait_for_a_run(model)
        model.open()
        await ended(*groups)
        await drained(stepper)
        assert [(one.rows, one.tokens, one.full) for one in reports] == [
            (1, 0, True),
            (1, 1, True),
            (1, 1, True),
            (1, 2, False),
        ]
        assert all(0 < one.run_s < one.step_s for one in reports)

    asyncio.run(main())


def test_what_fails_is_no_step_that_is_reported() -> None:
    async def main() -> None:
        reports: list[StepReport] = []
        model = StepModel()
        model.fails_with = ValueError("once")
        stepper = stepper_of(model, on_step=reports.append)
        group = group_of()
        stepper.submit(group)
        await ended(group)
        await drained(stepper)
        assert not reports

    asyncio.run(main())


def test_texts_are_whole_whatever_moment_they_are_read_at() -> None:
    """The end of a text is never seen without its last token, nor that without the end."""

    async def main() -> None:
        stepper = stepper_of(StepModel(), capacity=8, news_every_s=-1.0)
        groups = [
            group_of([seed % 11], seed=seed, limit=200, stop=seed % 11, streamed=True, sampling=Sampling(temperature=2))
            for seed in range(40)
        ]
        stepper.submit(*groups)
        wrong = []
        while not all(group.done for group in groups):
            for seed, group in enumerate(groups):
                length, finish = group.sequences[0].so_far()
                last = group.sequences[0].tokens[length - 1 : length]
                if (finish == "stop") != (last == [seed % 11]) or (finish == "length" and length != 200):
                    wrong.append((seed, length, finish))
                if finish and group.runs.count != length:
                    wrong.append((seed, group.runs.count, length))
            await asyncio.sleep(0)
        assert not wrong
        await drained(stepper)

    asyncio.run(main())
