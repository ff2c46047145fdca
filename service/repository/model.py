"""A loaded version of a model as the protocols see it: tensors or task requests in, answers out, all of it measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.batching.batcher import Batcher
from service.batching.policy import LatencyProfile, Limits
from service.batching.records import Answer, BatchReport
from service.errors import InferdError
from service.manifest import Graph
from service.metrics import ModelMetrics
from service.repository.bundle import Bundle
from service.repository.statistics import VersionStatistics
from service.tensors import Arrays
from service.threads import BoundedThreads

T = TypeVar("T")

_INLINE_INPUT = 8 * 1024
"""Bytes or characters up to which an input is parsed in the event loop."""


@dataclass(frozen=True)
class Prepared:
    """A request that is checked and decoded: what the task made of it, and the graph's inputs."""

    request: Any
    arrays: Arrays


class Model:
    """One version of one model; made in the event loop that it serves.

    Args:
        bundle: loaded.
        profile: how long its runs take.
        limits: of its queue.
        decoding: where large inputs are decoded.
        metrics: its series.
        statistics: where its requests and runs are counted.

    Attributes:
        graph: its tensors.
        batched: whether requests share runs; else each runs alone and has no batch axis.
        max_batch_rows: the largest request, in rows; 1 where requests don't share runs.
        labels: what the classes are called, if they are called anything.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        profile: LatencyProfile,
        limits: Limits,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
        statistics: VersionStatistics,
    ) -> None:
        self.bundle = bundle
        self.name = bundle.folder.name
        self.version = bundle.folder.version
        self.graph: Graph = bundle.session.graph
        self.batched = bundle.batched
        self.max_batch_rows = limits.max_batch_rows
        self.labels: tuple[str, ...] | None = getattr(bundle.task, "labels", None)
        self._decoding = decoding
        self._metrics = metrics
        self._statistics = statistics
        self._begun = 0
        self._nothing_begun = asyncio.Event()
        self._nothing_begun.set()
        # There is one run in flight at most.
        self._runs = ThreadPoolExecutor(1, thread_name_prefix=f"run-{self.name}")
        self._batcher = Batcher(
            bundle.session.run,
            profile=profile,
            limits=limits,
            run_blocking=partial(asyncio.get_running_loop().run_in_executor, self._runs),
            clock=time.monotonic,  # the loop's own clock ticks in milliseconds where the loop is uvloop's
            on_batch=self._count_batch,
            batched=bundle.batched,
        )

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the whole of a request: its duration, its being in flight, and the reason if it fails.

        Until it ends the model is not let go, whatever takes its place.
        """
        started = time.perf_counter()
        self._begun += 1
        self._nothing_begun.clear()
        self._metrics.inflight.inc()
        outcome = self._statistics.fail
        try:
            yield
            outcome = self._statistics.success
        except InferdError as error:
            self._metrics.failures[error.reason].inc()
            raise
        except asyncio.CancelledError:
            self._metrics.failures["cancelled"].inc()
            raise
        except Exception:
            self._metrics.failures["runtime"].inc()
            raise
        finally:
            seconds = time.perf_counter() - started
            outcome.add(seconds)
            self._metrics.inflight.dec()
            self._metrics.request_seconds.observe(seconds)
            self._begun -= 1
            if not self._begun:
                self._nothing_begun.set()

    async def prepare(self, inputs: object, parameters: Mapping[str, object]) -> Prepared:
        """Check and decode a request of the model's task.

        Raises:
            BadInput: it is wrong.
            Overloaded: too many large inputs are being decoded.
        """
        started = time.perf_counter()
        task = self.bundle.task
        if self.is_large(inputs):
            prepared = await self.offload(partial(self._prepare, inputs, parameters))
        else:
            request = task.parse(inputs, parameters)
            encode = partial(task.encode, request)
            prepared = Prepared(request, await self.offload(encode) if task.is_heavy(request) else encode())
        self._metrics.preprocess_seconds.observe(time.perf_counter() - started)
        return prepared

    def is_large(self, inputs: object) -> bool:
        """Whether even parsing `inputs` belongs in a thread: small files can hold large things, but not very large."""
        return isinstance(inputs, bytes | str) and len(inputs) > _INLINE_INPUT

    async def offload(self, work: Callable[[], T]) -> T:
        """Do `work` on a request outside the event loop.

        Raises:
            Overloaded: too much of it waits.
        """
        return await self._decoding.run(work)

    def submit(self, arrays: Arrays, deadline: float | None = None, priority: int = 0) -> asyncio.Future[Answer]:
        """Queue tensors for the graph; cancelling the future withdraws them.

        Args:
            arrays: the graph's inputs, of its dtypes and shapes.
            deadline: on the clock of `time.monotonic`.
            priority: 1 is the highest; 0 stands for the default.

        Raises:
            BadInput: there are no rows, or more than one batch may have.
            Overloaded: the queue is full.
        """
        return self._batcher.submit_nowait(arrays, self._rows(arrays), deadline, priority)

    def finish(self, prepared: Prepared, answer: Answer) -> object:
        """Make the task's result, ready for JSON, from what the graph answered."""
        started = time.perf_counter()
        result = self.bundle.task.decode(prepared.request, answer.outputs)
        self._metrics.postprocess_seconds.observe(time.perf_counter() - started)
        return result

    def observe(self, answer: Answer) -> None:
        """Count an answered request: its rows, how long it waited, what its batch took."""
        self._metrics.queue_seconds.observe(answer.queue_s)
        self._statistics.count_answer(answer, self._rows(answer.outputs))

    @property
    def is_idle(self) -> bool:
        """Whether a request submitted now would run at once."""
        statistics = self._batcher.statistics()
        return statistics.queued_rows == statistics.running_rows == 0

    def queued_rows(self) -> int:
        """How many rows wait."""
        return self._batcher.statistics().queued_rows

    async def finish_begun(self, timeout_s: float) -> bool:
        """Go on until every request that has begun is answered, then end; nobody may find the model any more.

        Args:
            timeout_s: when to end in any case: what is queued then still runs, what would be queued later is refused.

        Returns:
            Whether every request was answered.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._nothing_begun.wait(), timeout_s)
        await self._batcher.drain()
        self._runs.shutdown(wait=False)
        return not self._begun

    async def drain(self) -> None:
        """Finish what was accepted and take nothing more."""
        self._metrics.ready.set(0)
        await self._batcher.drain()
        self._runs.shutdown(wait=False)

    def _rows(self, arrays: Arrays) -> int:
        return next(iter(arrays.values())).shape[0] if self.batched else 1

    def _prepare(self, inputs: object, parameters: Mapping[str, object]) -> Prepared:
        request = self.bundle.task.parse(inputs, parameters)
        return Prepared(request, self.bundle.task.encode(request))

    def _count_batch(self, report: BatchReport) -> None:
        self._metrics.batch_size.observe(report.rows)
        self._metrics.dispatches[report.cause].inc()
        self._metrics.compute_seconds.observe(report.compute_s)
        if not report.failed:
            self._statistics.count_batch(report)
