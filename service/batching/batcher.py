"""The queue and the one run in flight of a stateless graph: the thin, acting half of batching.

`policy` decides; this module keeps what waits and starts runs, and `batch` is what runs and is answered. There is no
timer that holds a request back: requests that arrive in one pass of the event loop share a batch, and while a run is in
flight the next batch forms. The batcher is passive: it is driven by arrivals and by the end of runs, so there is no
background task that someone must own, or that could die unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from service.batching.arrays import layout, misfit
from service.batching.batch import Batch, Done, Flaw, Outcome, Ran, Request, Run, Runner, failure_of
from service.batching.overload import Overload
from service.batching.policy import (
    PRIORITY_LEVELS,
    LatencyProfile,
    Limits,
    Waiting,
    adapted,
    admit,
    give_up_at,
    level_of,
    next_batch,
    overloaded_wait_s,
)
from service.batching.records import Answer, BatcherStatistics, BatchReport
from service.errors import BadInput, DeadlineExceeded, InferdError, NotReady, Overloaded
from service.tensors import Arrays

T = TypeVar("T")

INLINE_S = 0.001
"""What is predicted to run for less costs less in the event loop than a thread would."""

LONG_S = 0.005
"""What is predicted to run for longer is long: others need not wait for it to end."""

_FAR_TOO_LONG_S = 0.02
"""A run in the event loop that took so long has shown that its prediction can't be relied on."""

_BATCHES_APART = 100
"""How many batches then run in a thread before the event loop is trusted with one again."""


class RunBlocking(Protocol):
    """A way to run a blocking function outside the event loop, such as `partial(loop.run_in_executor, executor)`."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Start `work` at once and return what awaits its result."""


class Batcher:
    """Runs requests together; made in the event loop that it serves, and called only from there.

    Args:
        run: the model: arrays in, arrays out.
        profile: the measured times of `run`.
        limits: how much may run at once and wait; without a batch axis one row at once.
        run_blocking: where runs go that would hold up the event loop,
        run_long: and those of them that are predicted to take longer than `long_s`; None = there too.
        clock: the clock of deadlines and measurements; the loop's by default.
        on_batch: told of each finished batch, before its callers go on.
        inline_below_s: a run predicted to be shorter than this runs in the event loop. After
            one that takes far longer (its graph may loop as often as the inputs say) the next ones are kept out of it.
        batched: whether the first axis of every array is the batch. If not, arrays have whatever shape they have, and
            every request runs alone, as one row.
        flaw: of an answer that is not given; those that shared its run are.

    Raises:
        ValueError: a model without a batch axis should run more than one row at once.
    """

    def __init__(
        self,
        run: Run,
        *,
        profile: LatencyProfile,
        limits: Limits,
        run_blocking: RunBlocking,
        clock: Callable[[], float] | None = None,
        on_batch: Callable[[BatchReport], object] | None = None,
        inline_below_s: float = INLINE_S,
        run_long: RunBlocking | None = None,
        long_s: float = LONG_S,
        batched: bool = True,
        flaw: Flaw | None = None,
    ) -> None:
        if not batched and limits.max_batch_rows != 1:
            raise ValueError(f"a model without a batch axis runs 1 row at once, not {limits.max_batch_rows}")
        self._profile = profile
        self._limits = limits
        self._run_blocking = run_blocking
        self._run_long = run_long or run_blocking
        self._long_s = long_s
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._on_batch = on_batch
        self._inline_below_s = inline_below_s
        self._batches_apart = 0  # so many more go to a thread, however short they are predicted to be
        self._batched = batched
        self._runner = Runner(run, clock=self._clock, batched=batched, flaw=flaw)

        self._queues: tuple[dict[Request, None], ...] = tuple({} for _ in range(PRIORITY_LEVELS))  # oldest first
        self._queued_rows = [0] * PRIORITY_LEVELS
        self._running: Batch | None = None
        self._in_flight: asyncio.Future[Outcome] | None = None  # held, as the loop holds tasks only weakly
        self._idle = asyncio.Event()  # set: no run in flight, no dispatch scheduled
        self._idle.set()
        self._draining = False
        self._batches = self._failed_batches = self._rows = 0
        self._slowdown = 1.0
        full_s = profile.seconds(limits.full_rows)
        self._row_s = full_s / limits.full_rows
        self._overload = Overload(self._clock(), batch_rows=limits.full_rows, batch_s=full_s)
        self._last: Batch | None = None  # that was followed by what waited for its end

    async def submit(self, inputs: Arrays, rows: int, deadline: float | None = None, priority: int = 0) -> Answer:
        """Wait for the answer of `submit_nowait`; cancelling withdraws the request."""
        return await self.submit_nowait(inputs, rows, deadline, priority)

    def submit_nowait(
        self, inputs: Arrays, rows: int, deadline: float | None = None, priority: int = 0
    ) -> asyncio.Future[Answer]:
        """Queue a request; see `enqueue`.

        Returns:
            A future of the answer, or of DeadlineExceeded or RuntimeFailure. Cancelling it withdraws the request.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        request = self.enqueue(inputs, rows, deadline, priority, partial(_resolve, future))
        request.future = future
        future.add_done_callback(partial(self._withdraw_cancelled, request))
        return future

    def enqueue(self, inputs: Arrays, rows: int, deadline: float | None, priority: int, done: Done) -> Request:
        """Queue a request.

        Args:
            inputs: arrays by input name, each with `rows` rows; they must not change until the answer.
            rows: how many rows the request has; 1 if the model has no batch axis.
            deadline: when the answer becomes worthless, on the batcher's clock.
            priority: 1 = the highest level, `PRIORITY_LEVELS` the lowest; 0, and any other number, the default one.
            done: told the answer, or DeadlineExceeded or RuntimeFailure.

        Returns:
            By which it can be withdrawn.

        Raises:
            NotReady: the batcher is draining.
            BadInput: the arrays haven't `rows` rows (or, as TooLarge, too many).
            Overloaded: the queue is full.
        """
        if self._draining:
            raise NotReady("the model is being stopped and takes no new requests")
        if self._batched and (wrong := misfit(inputs, rows)):
            raise BadInput(f"input {wrong}")
        now = self._clock()
        level = level_of(priority)
        self._admit(rows, level, now)

        waiting = Waiting(rows, now, deadline, layout(inputs) if self._batched else None)
        request = Request(inputs, waiting, level, done)
        if deadline is not None:
            patience_s = give_up_at(rows, deadline, self._profile) - now
            request.timer = self._loop.call_later(patience_s, self._expire, request)
        self._queues[level - 1][request] = None
        self._queued_rows[level - 1] += rows
        if self._idle.is_set():
            self._idle.clear()
            self._loop.call_soon(self._dispatch)
        return request

    def _admit(self, rows: int, level: int, now: float) -> None:
        """Let a request in, or refuse it."""
        overload, profile, limits, slowdown = self._overload, self._profile, self._limits, self._slowdown
        queued_rows = sum(self._queued_rows)
        overload.arrive(rows, now, slowdown * queued_rows * self._row_s)
        running_s_left = max(0.0, self._running.predicted_end - now) if self._running else 0.0
        rows_behind = sum(self._queued_rows[level:])
        longest_wait_s = overloaded_wait_s(profile, limits, slowdown) if overload.is_on else None
        try:
            admit(rows, queued_rows, running_s_left, profile, limits, rows_behind, slowdown, longest_wait_s)
        except Overloaded:
            overload.refuse(now)
            raise

    def withdraw(self, request: Request) -> None:
        """Nobody wants its answer any more: if it has not begun to run it does not, and it is not told of anything."""
        request.is_over = True
        self._dequeue(request)

    async def drain(self) -> None:
        """Refuse new requests, and return when all that were accepted are finished."""
        self._draining = True
        await self._idle.wait()

    def statistics(self) -> BatcherStatistics:
        """Return a snapshot of queue, run and counters."""
        return BatcherStatistics(
            queued_requests=sum(len(queue) for queue in self._queues),
            queued_rows=sum(self._queued_rows),
            running_rows=self._running.rows if self._running else 0,
            batches=self._batches,
            failed_batches=self._failed_batches,
            rows=self._rows,
        )

    def _withdraw_cancelled(self, request: Request, future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            self.withdraw(request)

    def _dequeue(self, request: Request) -> None:
        """Take a request out of the queue, for whatever reason, if it is still there."""
        queue = self._queues[request.level - 1]
        if request in queue:
            del queue[request]
            self._queued_rows[request.level - 1] -= request.waiting.rows
            if request.timer:
                request.timer.cancel()

    def _expire(self, request: Request) -> None:
        self._dequeue(request)
        request.tell(DeadlineExceeded("the deadline would come before the model could answer; it did not run"))

    def _in_order(self, seen: list[Request]) -> Iterator[Waiting]:
        """Yield what waits in the order in which it is to be served, and note in `seen` whose each one is."""
        for queue in self._queues:
            for request in queue:
                if request.future is None or not request.future.done():  # one cancelled in this pass is still here
                    seen.append(request)
                    yield request.waiting

    def _dispatch(self) -> None:
        """Start the next batch; rest if nothing waits."""
        now = self._clock()
        if (last := self._last) and any(self._queued_rows):
            self._slowdown = adapted(self._slowdown, last.predicted_s, now - last.started_at)
        self._last = None
        seen: list[Request] = []
        decision = next_batch(self._in_order(seen), now, self._profile, self._limits)
        for index in decision.expired:
            self._expire(seen[index])
        if not decision.take:
            self._idle.set()
            return

        requests = [seen[index] for index in decision.take]
        for request in requests:
            self._dequeue(request)
        rows = sum(request.waiting.rows for request in requests)
        self._overload.leave(rows)
        predicted_s = self._profile.seconds(rows)
        batch = self._running = Batch(requests, rows, decision.cause, now, now + predicted_s)
        if self._may_run_inline(predicted_s):
            self._finish(batch, outcome := self._runner.run(batch))
            batch.hand_out(outcome)
            self._loop.call_soon(self._dispatch)  # not at once: the loop serves others between runs
        else:
            self._in_flight = self._start(batch, self._run_long if predicted_s > self._long_s else self._run_blocking)
            self._in_flight.add_done_callback(partial(self._collect, batch))

    def _may_run_inline(self, predicted_s: float) -> bool:
        if predicted_s >= self._inline_below_s:
            return False
        if self._batches_apart:
            self._batches_apart -= 1
            return False
        return True

    def _start(self, batch: Batch, run_blocking: RunBlocking) -> asyncio.Future[Outcome]:
        try:
            return asyncio.ensure_future(run_blocking(partial(self._runner.run, batch)))
        except Exception as error:  # an executor that was shut down refuses at once
            refused: asyncio.Future[Outcome] = self._loop.create_future()
            refused.set_result(failure_of(error))
            return refused

    def _collect(self, batch: Batch, run: asyncio.Future[Outcome]) -> None:
        self._in_flight = None
        try:
            outcome = run.result()
        except (Exception, asyncio.CancelledError) as error:
            outcome = failure_of(error)
        self._finish(batch, outcome)
        self._loop.call_soon(batch.hand_out, outcome)
        self._dispatch()  # at once: the next run need not wait until these answers are sent

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        """Take note of what a run gave."""
        self._running, self._last = None, batch
        compute_s = batch.compute_s = self._clock() - batch.started_at
        if batch.predicted_s < self._inline_below_s and compute_s > _FAR_TOO_LONG_S:
            self._batches_apart = _BATCHES_APART
        self._batches += 1
        self._rows += batch.rows
        if not isinstance(outcome, Ran):
            self._failed_batches += 1
            self._report(BatchReport(batch.cause, batch.rows, len(batch.requests), compute_s, failed=True))
            return
        times = (outcome.input_s, outcome.infer_s, outcome.output_s)
        self._report(BatchReport(batch.cause, batch.rows, len(batch.requests), compute_s, False, *times))

    def _report(self, report: BatchReport) -> None:
        if self._on_batch:
            self._loop.call_soon(self._on_batch, report)  # by the loop, so that its failure stays its own


def _resolve(future: asyncio.Future[Answer], outcome: Answer | InferdError) -> None:
    if future.done():
        return
    if isinstance(outcome, InferdError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
