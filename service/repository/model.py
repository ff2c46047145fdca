"""A loaded version of a model as the protocols see it: tensors or task requests in, answers out, all of it measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.batching.batcher import Batcher
from service.batching.policy import LatencyProfile, Limits
from service.batching.records import Answer, BatchReport
from service.errors import InferdError
from service.metrics import ModelMetrics
from service.repository.bundle import Bundle
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
        runs: where its runs happen.
        decoding: where large inputs are decoded.
        metrics: its series.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        profile: LatencyProfile,
        limits: Limits,
        runs: Executor,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
    ) -> None:
        self.bundle = bundle
        self.name = bundle.folder.name
        self.version = bundle.folder.version
        self._decoding = decoding
        self._metrics = metrics
        self._batcher = Batcher(
            bundle.session.run,
            profile=profile,
            limits=limits,
            run_blocking=partial(asyncio.get_running_loop().run_in_executor, runs),
            clock=time.monotonic,  # the loop's own clock ticks in milliseconds where the loop is uvloop's
            on_batch=self._count_batch,
        )

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the whole of a request: its duration, its being in flight, and the reason if it fails."""
        started = time.perf_counter()
        self._metrics.inflight.inc()
        try:
            yield
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
            self._metrics.inflight.dec()
            self._metrics.request_seconds.observe(time.perf_counter() - started)

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

    def submit(self, arrays: Arrays, deadline: float | None = None) -> asyncio.Future[Answer]:
        """Queue tensors for the graph; cancelling the future withdraws them.

        Args:
            arrays: the graph's inputs, of its dtypes and shapes.
            deadline: on the clock of `time.monotonic`.

        Raises:
            BadInput: there are no rows, or more than one batch may have.
            Overloaded: the queue is full.
        """
        rows = next(iter(arrays.values())).shape[0]
        return self._batcher.submit_nowait(arrays, rows, deadline)

    def finish(self, prepared: Prepared, answer: Answer) -> object:
        """Make the task's result, ready for JSON, from what the graph answered."""
        started = time.perf_counter()
        result = self.bundle.task.decode(prepared.request, answer.outputs)
        self._metrics.postprocess_seconds.observe(time.perf_counter() - started)
        return result

    def observe(self, answer: Answer) -> None:
        """Count how long an answered request waited."""
        self._metrics.queue_seconds.observe(answer.queue_s)

    @property
    def is_idle(self) -> bool:
        """Whether a request submitted now would run at once."""
        statistics = self._batcher.statistics()
        return statistics.queued_rows == statistics.running_rows == 0

    def queued_rows(self) -> int:
        """How many rows wait."""
        return self._batcher.statistics().queued_rows

    async def drain(self) -> None:
        """Finish what was accepted and take nothing more."""
        self._metrics.ready.set(0)
        await self._batcher.drain()

    def _prepare(self, inputs: object, parameters: Mapping[str, object]) -> Prepared:
        request = self.bundle.task.parse(inputs, parameters)
        return Prepared(request, self.bundle.task.encode(request))

    def _count_batch(self, report: BatchReport) -> None:
        self._metrics.batch_size.observe(report.rows)
        self._metrics.dispatches[report.cause].inc()
        self._metrics.compute_seconds.observe(report.compute_s)
