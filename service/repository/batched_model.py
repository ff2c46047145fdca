"""Models that answer a request with one run of a graph, which requests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.batching.batcher import INLINE_S, LONG_S, Batcher
from service.batching.policy import LatencyProfile, Limits
from service.batching.records import Answer, BatchReport
from service.errors import RuntimeFailure
from service.metrics import ModelMetrics
from service.repository.bundle import Bundle
from service.repository.model import Model
from service.repository.statistics import VersionStatistics
from service.tasks.base import Task
from service.tensors import Arrays, not_finite
from service.threads import BoundedThreads, step_back

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A request that is checked and decoded: what the task made of it, and the graph's inputs."""

    request: Any
    arrays: Arrays


class GraphModel(Model):
    """One version of one model, whose requests are tensors of a graph; made in the event loop that it serves.

    Args:
        bundle: loaded.
        profile: how long its runs take.
        limits: of its queue.
        decoding: where large inputs are decoded.
        metrics: its series.
        statistics: where its requests and runs are counted.
        inline_below_s: see `Batcher`.
        long_s: likewise.
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
        inline_below_s: float = INLINE_S,
        long_s: float = LONG_S,
    ) -> None:
        super().__init__(
            bundle,
            graph=bundle.session.graph,
            batched=bundle.batched,
            max_batch_rows=limits.max_batch_rows,
            decoding=decoding,
            metrics=metrics,
            statistics=statistics,
        )
        self.preferred_batch_rows = limits.full_rows if bundle.batched else None
        # There is one run in flight at most, in either. A thread that has stepped back can't come forward again.
        self._runs = ThreadPoolExecutor(1, thread_name_prefix=f"run-{self.name}")
        self._long_runs = ThreadPoolExecutor(1, thread_name_prefix=f"long-run-{self.name}", initializer=step_back)
        self._batcher = Batcher(
            bundle.run,
            profile=profile,
            limits=limits,
            run_blocking=partial(asyncio.get_running_loop().run_in_executor, self._runs),
            run_long=self.run_long,
            long_s=long_s,
            clock=time.monotonic,  # the loop's own clock ticks in milliseconds where the loop is uvloop's
            on_batch=self._count_batch,
            inline_below_s=inline_below_s,
            batched=bundle.batched,
            flaw=_flaw if bundle.manifest.not_finite == "refuse" else None,
        )

    def submit(
        self,
        arrays: Arrays,
        deadline: float | None = None,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> asyncio.Future[Answer]:
        """See `Model.submit`; parameters mean nothing here."""
        return self._batcher.submit_nowait(arrays, self._rows(arrays), deadline, priority)

    def start(
        self,
        arrays: Arrays,
        done: Callable[[Answer | BaseException], object],
        deadline: float | None = None,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> Callable[[], object]:
        """See `Model.start`; parameters mean nothing here."""
        batcher = self._batcher
        return partial(batcher.withdraw, batcher.enqueue(arrays, self._rows(arrays), deadline, priority, done))

    def run_long(self, work: Callable[[], T], /) -> asyncio.Future[T]:
        """Start a long run, in a thread that others go before, and return what awaits its result."""
        return asyncio.get_running_loop().run_in_executor(self._long_runs, work)

    @property
    def is_idle(self) -> bool:
        """See `Model.is_idle`."""
        statistics = self._batcher.statistics()
        return statistics.queued_rows == statistics.running_rows == 0

    def queued_rows(self) -> int:
        """See `Model.queued_rows`."""
        return self._batcher.statistics().queued_rows

    async def _close(self, *, at_once: bool) -> None:
        # Also at once: what is queued still runs, and that does not take long.
        await self._batcher.drain()
        self._runs.shutdown(wait=False)
        self._long_runs.shutdown(wait=False)

    def _count_batch(self, report: BatchReport) -> None:
        self.metrics.batch_size.observe(report.rows)
        self.metrics.dispatches[report.cause].inc()
        self.metrics.compute_seconds.observe(report.compute_s)
        if not report.failed:
            self._statistics.count_batch(report)


def _flaw(outputs: Arrays) -> RuntimeFailure | None:
    """What is wrong with an answer in which a number is none, where the manifest refuses that."""
    if wrong := not_finite(outputs):
        return RuntimeFailure(
            f"the model answered with numbers that are not finite, in output {wrong[0]!r}; its manifest refuses them"
        )
    return None


class BatchedModel(GraphModel):
    """One version of one model that decodes a request, runs it, and makes an answer of what comes out.

    Args:
        bundle: loaded.
        task: its task.
        profile: how long its runs take.
        limits: of its queue.
        decoding: where large inputs are decoded.
        metrics: its series.
        statistics: where its requests and runs are counted.
        inline_below_s: see `Batcher`.
    """

    def __init__(
        self,
        bundle: Bundle,
        task: Task[Any],
        *,
        profile: LatencyProfile,
        limits: Limits,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
        statistics: VersionStatistics,
        inline_below_s: float = INLINE_S,
    ) -> None:
        super().__init__(
            bundle,
            profile=profile,
            limits=limits,
            decoding=decoding,
            metrics=metrics,
            statistics=statistics,
            inline_below_s=inline_below_s,
        )
        self._task = task

    async def prepare(self, inputs: object, parameters: Mapping[str, object]) -> Prepared:
        """Check and decode a request of the model's task.

        Raises:
            BadInput: it is wrong.
            Overloaded: too many large inputs are being decoded.
        """
        started = time.perf_counter()
        task = self._task
        if self.is_large(inputs):
            prepared = await self.offload(partial(self._prepare, inputs, parameters))
        else:
            request = task.parse(inputs, parameters)
            encode = partial(task.encode, request)
            prepared = Prepared(request, await self.offload(encode) if task.is_heavy(request) else encode())
        self.metrics.preprocess_seconds.observe(time.perf_counter() - started)
        return prepared

    def prepare_now(self, inputs: object, parameters: Mapping[str, object]) -> Prepared | None:
        """Check and decode a request of the model's task in the event loop; None if that would take long.

        Raises:
            BadInput: it is wrong.
        """
        started = time.perf_counter()
        task = self._task
        request = task.parse(inputs, parameters)
        if task.is_heavy(request):
            return None
        prepared = Prepared(request, task.encode(request))
        self.metrics.preprocess_seconds.observe(time.perf_counter() - started)
        return prepared

    def finish(self, prepared: Prepared, answer: Answer) -> object:
        """Make the task's result, ready for JSON, from what the graph answered."""
        started = time.perf_counter()
        result = self._task.decode(prepared.request, answer.outputs)
        self.metrics.postprocess_seconds.observe(time.perf_counter() - started)
        return result

    def _prepare(self, inputs: object, parameters: Mapping[str, object]) -> Prepared:
        request = self._task.parse(inputs, parameters)
        return Prepared(request, self._task.encode(request))
