"""The queue and the one run in flight of a stateless graph: the thin, acting half of batching.

`policy` decides; this module keeps what waits, starts runs and hands out answers. There is no timer that holds a
request back: requests that arrive in one pass of the event loop share a batch, and while a run is in flight the next
batch forms. The batcher is passive: it is driven by arrivals and by the end of runs, so there is no background task
that someone must own, or that could die unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from service.batching.arrays import gather, layout, misfit, scatter
from service.batching.policy import Cause, LatencyProfile, Limits, Waiting, admit, next_batch
from service.batching.records import Answer, BatcherStatistics, BatchReport
from service.errors import BadInput, DeadlineExceeded, InferdError, NotReady, RuntimeFailure
from service.tensors import Arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
Run: TypeAlias = Callable[[Arrays], Arrays]
Outcome: TypeAlias = Arrays | InferdError


class RunBlocking(Protocol):
    """A way to run a blocking function outside the event loop, such as `partial(loop.run_in_executor, executor)`."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Start `work` at once and return what awaits its result."""


@dataclass(frozen=True, slots=True)
class _Request:
    inputs: Arrays
    waiting: Waiting
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None


@dataclass(frozen=True, slots=True)
class _Batch:
    requests: Sequence[_Request]
    rows: int
    cause: Cause
    started_at: float
    predicted_end: float


class Batcher:
    """Runs requests together; made in the event loop that it serves, and called only from there.

    Args:
        run: the model: arrays in, arrays out, all with a leading batch axis.
        profile: the measured times of `run`.
        limits: how much may run at once and wait.
        run_blocking: where runs go that would hold up the event loop.
        clock: the clock of deadlines and measurements; the loop's by default.
        on_batch: told of each finished batch, before its callers go on.
        inline_below_s: a run predicted to be shorter than this runs in the event loop: a thread would cost more.
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
    ) -> None:
        self._run = run
        self._profile = profile
        self._limits = limits
        self._run_blocking = run_blocking
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._on_batch = on_batch
        self._inline_below_s = inline_below_s

        self._waiting: dict[asyncio.Future[Answer], _Request] = {}  # oldest first
        self._queued_rows = 0
        self._running: _Batch | None = None
        self._in_flight: asyncio.Future[Outcome] | None = None  # held, as the loop holds tasks only weakly
        self._idle = asyncio.Event()  # set: no run in flight, no dispatch scheduled
        self._idle.set()
        self._draining = False
        self._batches = self._failed_batches = self._rows = 0

    async def submit(self, inputs: Arrays, rows: int, deadline: float | None = None) -> Answer:
        """Wait for the answer of `submit_nowait`; cancelling withdraws the request."""
        return await self.submit_nowait(inputs, rows, deadline)

    def submit_nowait(self, inputs: Arrays, rows: int, deadline: float | None = None) -> asyncio.Future[Answer]:
        """Queue a request.

        Args:
            inputs: arrays by input name, each with `rows` rows; they must not change until the answer.
            rows: how many rows the request has.
            deadline: when the answer becomes worthless, on the batcher's clock.

        Returns:
            A future of the answer, or of DeadlineExceeded or RuntimeFailure. Cancelling it withdraws the request.

        Raises:
            NotReady: the batcher is draining.
            BadInput: the arrays haven't `rows` rows (or, as TooLarge, too many).
            Overloaded: the queue is full.
        """
        if self._draining:
            raise NotReady("the model is being stopped and takes no new requests")
        if wrong := misfit(inputs, rows):
            raise BadInput(f"input {wrong}")
        now = self._clock()
        running_s_left = max(0.0, self._running.predicted_end - now) if self._running else 0.0
        admit(rows, self._queued_rows, running_s_left, self._profile, self._limits)

        future: asyncio.Future[Answer] = self._loop.create_future()
        timer = None if deadline is None else self._loop.call_later(deadline - now, self._expire, future)
        self._waiting[future] = _Request(inputs, Waiting(rows, now, deadline, layout(inputs)), future, timer)
        self._queued_rows += rows
        future.add_done_callback(self._dequeue)  # for a caller who cancels
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
            queued_requests=len(self._waiting),
            queued_rows=self._queued_rows,
            running_rows=self._running.rows if self._running else 0,
            batches=self._batches,
            failed_batches=self._failed_batches,
            rows=self._rows,
        )

    def _dequeue(self, future: asyncio.Future[Answer]) -> None:
        """Take a request out of the queue, for whatever reason, if it is still there."""
        if request := self._waiting.pop(future, None):
            self._queued_rows -= request.waiting.rows
            if request.timer:
                request.timer.cancel()

    def _expire(self, future: asyncio.Future[Answer]) -> None:
        self._dequeue(future)
        if not future.done():
            future.set_exception(DeadlineExceeded("the deadline came before the model could answer; it did not run"))

    def _dispatch(self) -> None:
        """Start the next batch; rest if nothing waits."""
        now = self._clock()
        # A future cancelled in this pass is still queued: its callback comes in the next one.
        queue = [request for request in self._waiting.values() if not request.future.done()]
        decision = next_batch([request.waiting for request in queue], now, self._profile, self._limits)
        for index in decision.expired:
            self._expire(queue[index].future)
        if not decision.take:
            self._idle.set()
            return

        requests = [queue[index] for index in decision.take]
        for request in requests:
            self._dequeue(request.future)
        rows = sum(request.waiting.rows for request in requests)
        predicted_s = self._profile.seconds(rows)
        batch = self._running = _Batch(requests, rows, decision.cause, now, now + predicted_s)
        attempt = partial(_attempt, self._run, [request.inputs for request in requests], rows)
        if predicted_s < self._inline_below_s:
            self._finish(batch, attempt())
            self._loop.call_soon(self._dispatch)  # not at once: the loop serves others between runs
        else:
            self._in_flight = self._start(attempt)
            self._in_flight.add_done_callback(partial(self._collect, batch))

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
        self._running = None
        compute_s = self._clock() - batch.started_at
        failed = isinstance(outcome, InferdError)
        self._batches += 1
        self._failed_batches += failed
        self._rows += batch.rows
        if self._on_batch:  # by the loop, so that its failure stays its own
            report = BatchReport(batch.cause, batch.rows, len(batch.requests), compute_s, failed)
            self._loop.call_soon(self._on_batch, report)

        if isinstance(outcome, InferdError):
            for request in batch.requests:
                if not request.future.done():
                    request.future.set_exception(outcome)
            return
        shares = scatter(outcome, [request.waiting.rows for request in batch.requests])
        for request, outputs in zip(batch.requests, shares, strict=True):
            if not request.future.done():
                queue_s = batch.started_at - request.waiting.enqueued_at
                request.future.set_result(Answer(outputs, queue_s, compute_s, batch.rows))


def _attempt(run: Run, inputs: Sequence[Arrays], rows: int) -> Outcome:
    """Run a batch; an error is returned, not raised, so that a run ends alike in the loop and in a thread."""
    try:
        outputs = run(gather(inputs))
        if wrong := misfit(outputs, rows):
            raise RuntimeFailure(f"the model is at fault: output {wrong}")
    except Exception as error:
        return _failure(error)
    return outputs


def _failure(error: BaseException) -> InferdError:
    """Keep an error of our own; wrap a foreign one, as its cause."""
    if isinstance(error, InferdError):
        return error
    failure = RuntimeFailure(f"the model failed: {error!r}")
    failure.__cause__ = error
    return failure
