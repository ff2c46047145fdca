"""A loaded version of a model as the protocols see it: tensors in, tensors out, whatever becomes of them in between."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from service.batching.records import Answer, BatchReport, StepReport
from service.errors import InferdError
from service.manifest import Graph
from service.metrics import ModelMetrics
from service.repository.bundle import Bundle
from service.repository.statistics import VersionStatistics
from service.tensors import Arrays
from service.threads import BoundedThreads
from service.tracing import current

T = TypeVar("T")

_INLINE_INPUT = 8 * 1024
"""Bytes or characters up to which an input is parsed in the event loop."""


class Measured:
    """A request as a whole: its duration, its being in flight, and the reason if it fails.

    Args:
        model: that answers it.
        statistics: of the model.
    """

    __slots__ = ("_model", "_started", "_statistics")

    def __init__(self, model: Model, statistics: VersionStatistics) -> None:
        self._model = model
        self._statistics = statistics
        self._started = 0.0

    def __enter__(self) -> Measured:
        self.begin()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.end(error)

    def begin(self) -> None:
        """The request is being answered."""
        if (traced := current.get()) is not None:
            traced.addresses(self._model.name, self._model.version)
        self._started = time.perf_counter()
        self._model.begin_request()

    def end(self, error: BaseException | None = None) -> None:
        """It is answered, or has failed."""
        seconds = time.perf_counter() - self._started
        metrics = self._model.metrics
        if error is None:
            self._statistics.success.add(seconds)
        else:
            self._statistics.fail.add(seconds)
            if isinstance(error, Exception | asyncio.CancelledError):
                metrics.failures[_reason(error)].inc()
        metrics.request_seconds.observe(seconds)
        self._model.end_request()

    def abandon(self) -> None:
        """It is not answered here, and counts for nothing."""
        self._model.end_request()


class Model(ABC):
    """One version of one model; made in the event loop that it serves.

    Args:
        bundle: loaded.
        graph: the tensors that requests have and answers.
        batched: whether they have a batch axis; else each request runs alone.
        max_batch_rows: the largest request, in rows; 1 where there is no batch axis.
        decoding: where large inputs are decoded.
        metrics: its series.
        statistics: where its requests and runs are counted.

    Attributes:
        created: when it was loaded, in seconds since the epoch.
        labels: what the classes are called, if they are called anything.
        preferred_batch_rows: up to so many rows requests are gathered to share a run, if they are.
    """

    preferred_batch_rows: int | None = None

    def __init__(
        self,
        bundle: Bundle,
        *,
        graph: Graph,
        batched: bool,
        max_batch_rows: int,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
        statistics: VersionStatistics,
    ) -> None:
        self.bundle = bundle
        self.name = bundle.folder.name
        self.version = bundle.folder.version
        self.graph = graph
        self.batched = batched
        self.max_batch_rows = max_batch_rows
        self.created = int(time.time())
        self.labels: Sequence[str] | None = getattr(bundle.task, "labels", None)
        self.metrics = metrics
        self._decoding = decoding
        self._statistics = statistics
        self._begun = 0
        metrics.inflight.set_function(lambda: self._begun)
        self._nothing_begun = asyncio.Event()
        self._nothing_begun.set()

    def measured(self) -> Measured:
        """What is put around the whole of a request."""
        return Measured(self, self._statistics)

    def begin_request(self) -> None:
        """A request is being answered: until it ends the model is not let go, whatever takes its place."""
        self._begun += 1
        self._nothing_begun.clear()

    def end_request(self) -> None:
        """One that had begun has ended."""
        self._begun -= 1
        if not self._begun:
            self._nothing_begun.set()

    def is_large(self, inputs: object) -> bool:
        """Whether even parsing `inputs` belongs in a thread: small files can hold large things, but not very large."""
        return isinstance(inputs, bytes | str) and len(inputs) > _INLINE_INPUT

    async def offload(self, work: Callable[[], T]) -> T:
        """Do `work` on a request outside the event loop.

        Raises:
            Overloaded: too much of it waits.
        """
        return await self._decoding.run(work)

    @abstractmethod
    def submit(
        self,
        arrays: Arrays,
        deadline: float | None = None,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> asyncio.Future[Answer]:
        """Queue tensors; cancelling the future withdraws them.

        Args:
            arrays: the inputs of `graph`, of its dtypes and shapes.
            deadline: on the clock of `time.monotonic`.
            priority: 1 is the highest; 0 stands for the default.
            parameters: what else a request said, where the model has a use for it.

        Raises:
            BadInput: there are no rows, or too many; or a parameter makes no sense.
            Overloaded: the queue is full.
        """

    def start(
        self,
        arrays: Arrays,
        done: Callable[[Answer | BaseException], object],
        deadline: float | None = None,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> Callable[[], object]:
        """Queue tensors as `submit` does.

        Args:
            arrays: see `submit`, as of the others.
            done: called with what became of them, unless they were withdrawn; it may not raise.
            deadline: see `submit`.
            priority: see `submit`.
            parameters: see `submit`.

        Returns:
            What withdraws them.

        Raises:
            InferdError: see `submit`.
        """
        future = self.submit(arrays, deadline, priority, parameters)
        future.add_done_callback(partial(_tell, done))
        return future.cancel

    def observe(self, answer: Answer) -> None:
        """Count an answered request: its rows, how long it waited, what its batch took."""
        self._count_answer(answer, self._rows(answer.outputs))

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether a request submitted now would run at once, and soon be answered."""

    @abstractmethod
    def queued_rows(self) -> int:
        """How many rows wait."""

    async def finish_begun(self, timeout_s: float) -> bool:
        """Go on until every request that has begun is answered, then end; nobody may find the model any more.

        Args:
            timeout_s: when to end in any case; what becomes then of what is not answered is the model's to say.

        Returns:
            Whether every request was answered.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._nothing_begun.wait(), timeout_s)
        finished = not self._begun
        await self._close(at_once=not finished)
        return not self._begun

    async def drain(self) -> None:
        """Finish what was accepted and take nothing more."""
        self.metrics.ready.set(0)
        await self._close(at_once=False)

    @abstractmethod
    async def _close(self, *, at_once: bool) -> None:
        """Take nothing more, and end when what was accepted is finished; `at_once`: it has had its time."""

    def _count_answer(self, answer: Answer, rows: int) -> None:
        self.metrics.queue_seconds.observe(answer.queue_s)
        self._statistics.count_answer(answer, rows)
        if (traced := current.get()) is not None:
            joined_at = answer.queued_at + answer.queue_s
            traced.answered(
                queued_at=answer.queued_at,
                joined_at=joined_at,
                ended_at=joined_at + answer.compute_s if answer.ended_at is None else answer.ended_at,
                run_s=answer.infer_s,
                rows=answer.batch_rows,
            )

    def _count_step(self, step: StepReport) -> None:
        """Count a run of a graph that is run once a token."""
        self.metrics.batch_size.observe(step.rows)
        self.metrics.dispatches["full" if step.full else "idle"].inc()
        self.metrics.compute_seconds.observe(step.run_s)
        overhead_s = step.step_s - step.run_s
        self._statistics.count_batch(
            BatchReport("idle", step.rows, step.rows, step.step_s, False, 0.0, step.run_s, overhead_s)
        )

    def _rows(self, arrays: Arrays) -> int:
        return next(iter(arrays.values())).shape[0] if self.batched else 1


def _tell(done: Callable[[Answer | BaseException], object], future: asyncio.Future[Answer]) -> None:
    if not future.cancelled():
        done(future.exception() or future.result())


def _reason(error: BaseException) -> str:
    """What metrics call a failure."""
    if isinstance(error, InferdError):
        return error.reason
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "runtime"
