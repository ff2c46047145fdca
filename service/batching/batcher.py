"""The queue and the one run in flight of a stateless graph: the thin, acting half of batching.

`policy` decides; this module keeps what waits, starts runs and hands out answers. There is no timer that holds a
request back: requests that arrive in one pass of the event loop share a batch, and while a run is in flight the next
batch forms. The batcher is passive: it is driven by arrivals and by the end of runs, so there is no background task
that someone must own, or that could die unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from service.batching.arrays import gather, layout, misfit, scatter
from service.batching.policy import (
    PRIORITY_LEVELS,
    Cause,
    LatencyProfile,
    Limits,
    Waiting,
    adapted,
    admit,
    give_up_at,
    level_of,
    next_batch,
)
from service.batching.records import Answer, BatcherStatistics, BatchReport
from service.errors import BadInput, DeadlineExceeded, InferdError, NotReady, RuntimeFailure
from service.tensors import Arrays

T = TypeVar("T")
Run: TypeAlias = Callable[[Arrays], Arrays]

_FAR_LONGER = 20
"""So many times longer than what may run in the event loop, a run has shown that its prediction can't be relied on."""

_BATCHES_APART = 100
"""How many batches then run in a thread before the event loop is trusted with one again."""


class RunBlocking(Protocol):
    """A way to run a blocking function outside the event loop, such as `partial(loop.run_in_executor, executor)`."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Start `work` at once and return what awaits its result."""


@dataclass(slots=True, eq=False)
class _Request:
    """What waits; itself alone equal to itself, so that it is its own key."""

    inputs: Arrays
    waiting: Waiting
    level: int
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None = None


class _Batch(msgspec.Struct, frozen=True):
    requests: Sequence[_Request]
    rows: int
    cause: Cause
    started_at: float
    predicted_end: float


class _Result(msgspec.Struct, frozen=True):
    """What a run gave: the outputs of each request in order, and where the time went."""

    shares: Sequence[Arrays]
    input_s: float
    infer_s: float
    output_s: float


class _Apart(msgspec.Struct, frozen=True):
    """What became of each request of a batch that failed, when it was run alone."""

    outcomes: Sequence[_Result | InferdError]


Outcome: TypeAlias = _Result | _Apart | InferdError


class Batcher:
    """Runs requests together; made in the event loop that it serves, and called only from there.

    Args:
        run: the model: arrays in, arrays out.
        profile: the measured times of `run`.
        limits: how much may run at once and wait; without a batch axis one row at once.
        run_blocking: where runs go that would hold up the event loop.
        clock: the clock of deadlines and measurements; the loop's by default.
        on_batch: told of each finished batch, before its callers go on.
        inline_below_s: a run predicted to be shorter than this runs in the event loop: a thread would cost more. After
            one that takes far longer (its graph may loop as often as the inputs say) the next ones are kept out of it.
        batched: whether the first axis of every array is the batch. If not, arrays have whatever shape they have, and
            every request runs alone, as one row.

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
        inline_below_s: float = 0.001,
        batched: bool = True,
    ) -> None:
        if not batched and limits.max_batch_rows != 1:
            raise ValueError(f"a model without a batch axis runs 1 row at once, not {limits.max_batch_rows}")
        self._run = run
        self._profile = profile
        self._limits = limits
        self._run_blocking = run_blocking
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._on_batch = on_batch
        self._inline_below_s = inline_below_s
        self._batches_apart = 0  # so many more go to a thread, however short they are predicted to be
        self._batched = batched

        self._queues: tuple[dict[_Request, None], ...] = tuple({} for _ in range(PRIORITY_LEVELS))  # oldest first
        self._queued_rows = [0] * PRIORITY_LEVELS
        self._running: _Batch | None = None
        self._in_flight: asyncio.Future[Outcome] | None = None  # held, as the loop holds tasks only weakly
        self._idle = asyncio.Event()  # set: no run in flight, no dispatch scheduled
        self._idle.set()
        self._draining = False
        self._batches = self._failed_batches = self._rows = 0
        self._slowdown = 1.0
        self._last: _Batch | None = None  # that was followed by what waited for its end

    async def submit(self, inputs: Arrays, rows: int, deadline: float | None = None, priority: int = 0) -> Answer:
        """Wait for the answer of `submit_nowait`; cancelling withdraws the request."""
        return await self.submit_nowait(inputs, rows, deadline, priority)

    def submit_nowait(
        self, inputs: Arrays, rows: int, deadline: float | None = None, priority: int = 0
    ) -> asyncio.Future[Answer]:
        """Queue a request.

        Args:
            inputs: arrays by input name, each with `rows` rows; they must not change until the answer.
            rows: how many rows the request has; 1 if the model has no batch axis.
            deadline: when the answer becomes worthless, on the batcher's clock.
            priority: 1 = the highest level, `PRIORITY_LEVELS` the lowest; 0, and any other number, the default one.

        Returns:
            A future of the answer, or of DeadlineExceeded or RuntimeFailure. Cancelling it withdraws the request.

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
        running_s_left = max(0.0, self._running.predicted_end - now) if self._running else 0.0
        rows_behind = sum(self._queued_rows[level:])
        queued_rows = sum(self._queued_rows)
        admit(rows, queued_rows, running_s_left, self._profile, self._limits, rows_behind, self._slowdown)

        future: asyncio.Future[Answer] = self._loop.create_future()
        waiting = Waiting(rows, now, deadline, layout(inputs) if self._batched else None)
        request = _Request(inputs, waiting, level, future)
        if deadline is not None:
            patience_s = give_up_at(rows, deadline, self._profile) - now
            request.timer = self._loop.call_later(patience_s, self._expire, request)
        self._queues[level - 1][request] = None
        self._queued_rows[level - 1] += rows
        future.add_done_callback(partial(self._dequeue, request))  # for a caller who cancels
        if self._idle.is_set():
            self._idle.clear()
            self._loop.call_soon(self._dispatch)
        return future

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

    def _dequeue(self, request: _Request, _: asyncio.Future[Answer] | None = None) -> None:
        """Take a request out of the queue, for whatever reason, if it is still there."""
        queue = self._queues[request.level - 1]
        if request in queue:
            del queue[request]
            self._queued_rows[request.level - 1] -= request.waiting.rows
            if request.timer:
                request.timer.cancel()

    def _expire(self, request: _Request) -> None:
        self._dequeue(request)
        if not request.future.done():
            request.future.set_exception(
                DeadlineExceeded("the deadline would come before the model could answer; it did not run")
            )

    def _in_order(self, seen: list[_Request]) -> Iterator[Waiting]:
        """Yield what waits in the order in which it is to be served, and note in `seen` whose each one is."""
        for queue in self._queues:
            for request in queue:
                if not request.future.done():  # one cancelled in this pass is queued until the next
                    seen.append(request)
                    yield request.waiting

    def _dispatch(self) -> None:
        """Start the next batch; rest if nothing waits."""
        now = self._clock()
        if (last := self._last) and any(self._queued_rows):
            self._slowdown = adapted(self._slowdown, last.predicted_end - last.started_at, now - last.started_at)
        self._last = None
        seen: list[_Request] = []
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
        predicted_s = self._profile.seconds(rows)
        batch = self._running = _Batch(requests, rows, decision.cause, now, now + predicted_s)
        attempt = partial(self._attempt, requests, rows)
        if self._may_run_inline(predicted_s):
            self._finish(batch, attempt())
            self._loop.call_soon(self._dispatch)  # not at once: the loop serves others between runs
        else:
            self._in_flight = self._start(attempt)
            self._in_flight.add_done_callback(partial(self._collect, batch))

    def _may_run_inline(self, predicted_s: float) -> bool:
        if predicted_s >= self._inline_below_s:
            return False
        if self._batches_apart:
            self._batches_apart -= 1
            return False
        return True

    def _attempt(self, requests: Sequence[_Request], rows: int) -> Outcome:
        """Run a batch, and where it fails each request alone, so that only those fail that are at fault."""
        outcome = self._attempt_once(requests, rows)
        if isinstance(outcome, InferdError) and len(requests) > 1:
            return _Apart([self._attempt_once([one], one.waiting.rows) for one in requests])
        return outcome

    def _attempt_once(self, requests: Sequence[_Request], rows: int) -> _Result | InferdError:
        """Run a batch; an error is returned, not raised, so that a run ends alike in the loop and in a thread."""
        clock = self._clock
        try:
            started = clock()
            inputs = gather([request.inputs for request in requests])
            joined = clock()
            outputs = self._run(inputs)
            ran = clock()
            if self._batched and (wrong := misfit(outputs, rows)):
                raise RuntimeFailure(f"the model is at fault: output {wrong}")
            shares = list(scatter(outputs, [request.waiting.rows for request in requests]))
            return _Result(shares, joined - started, ran - joined, clock() - ran)
        except Exception as error:
            return _failure(error)

    def _start(self, attempt: Callable[[], Outcome]) -> asyncio.Future[Outcome]:
        try:
            return asyncio.ensure_future(self._run_blocking(attempt))
        except Exception as error:  # an executor that was shut down refuses at once
            refused: asyncio.Future[Outcome] = self._loop.create_future()
            refused.set_result(_failure(error))
            return refused

    def _collect(self, batch: _Batch, run: asyncio.Future[Outcome]) -> None:
        self._in_flight = None
        try:
            outcome = run.result()
        except (Exception, asyncio.CancelledError) as error:
            outcome = _failure(error)
        self._finish(batch, outcome)
        self._dispatch()  # at once: the next run need not wait until these answers are sent

    def _finish(self, batch: _Batch, outcome: Outcome) -> None:
        """Answer those of the batch who still listen."""
        self._running, self._last = None, batch
        compute_s = self._clock() - batch.started_at
        predicted_s = batch.predicted_end - batch.started_at
        if predicted_s < self._inline_below_s and compute_s > _FAR_LONGER * self._inline_below_s:
            self._batches_apart = _BATCHES_APART
        self._batches += 1
        self._rows += batch.rows
        if not isinstance(outcome, _Result):
            self._failed_batches += 1
            self._report(BatchReport(batch.cause, batch.rows, len(batch.requests), compute_s, failed=True))
            outcomes = outcome.outcomes if isinstance(outcome, _Apart) else [outcome] * len(batch.requests)
            for request, own in zip(batch.requests, outcomes, strict=True):
                self._answer_alone(request, own, batch, compute_s)
            return
        times = (outcome.input_s, outcome.infer_s, outcome.output_s)
        self._report(BatchReport(batch.cause, batch.rows, len(batch.requests), compute_s, False, *times))
        for request, outputs in zip(batch.requests, outcome.shares, strict=True):
            if not request.future.done():
                queued_at = request.waiting.enqueued_at
                queue_s = batch.started_at - queued_at
                request.future.set_result(Answer(outputs, queue_s, compute_s, batch.rows, *times, queued_at))

    def _answer_alone(self, request: _Request, outcome: _Result | InferdError, batch: _Batch, compute_s: float) -> None:
        """Answer a request whose batch failed."""
        if request.future.done():
            return
        if isinstance(outcome, InferdError):
            request.future.set_exception(outcome)
            return
        queued_at = request.waiting.enqueued_at
        queue_s = batch.started_at - queued_at
        times = (outcome.input_s, outcome.infer_s, outcome.output_s)
        answer = Answer(outcome.shares[0], queue_s, compute_s, request.waiting.rows, *times, queued_at)
        request.future.set_result(answer)

    def _report(self, report: BatchReport) -> None:
        if self._on_batch:
            self._loop.call_soon(self._on_batch, report)  # by the loop, so that its failure stays its own


def _failure(error: BaseException) -> InferdError:
    """Keep an error of our own; wrap a foreign one, as its cause."""
    if isinstance(error, InferdError):
        return error
    failure = RuntimeFailure(f"the model failed: {error!r}")
    failure.__cause__ = error
    return failure
