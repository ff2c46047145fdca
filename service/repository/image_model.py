"""A model that draws pictures: its generator is run as any graph is that requests share, after texts were read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from service.batching.policy import LatencyProfile, Limits
from service.batching.records import Answer
from service.metrics import ModelMetrics
from service.repository.batched_model import GraphModel
from service.repository.bundle import Bundle
from service.repository.drawing import sketch_of
from service.repository.statistics import VersionStatistics
from service.tasks.image_generation import ImageGeneration
from service.tasks.image_graphs import TEXT
from service.tasks.image_requests import Drawings, ImageRequest
from service.threads import BoundedThreads, Lanes

_INLINE_S = 0.001
"""A text encoder that takes no longer for a few rows is run in the event loop, if they are short."""

T = TypeVar("T")


class ImageModel(GraphModel):
    """One version of one model; made in the event loop that it serves.

    A request of n pictures is n rows of its generator. A text is read alone, at its own length, so that its neighbours
    change no bit of what it says. As tensors it takes latents and conditions, and answers bytes.

    Pictures are a lot of work, with which the worker's other models share its cores. So every run of the generator that
    leaves the event loop is a long one, and what is drawn, read and written in threads takes no more cores than one of
    them alone would.

    Args:
        bundle: loaded.
        task: its task.
        profile: how long a run of the generator takes.
        text_profile: how long a run of the text encoder takes, if there is one; None = not known.
        limits: of its queue.
        decoding: where long texts are read, and large pictures made.
        metrics: its series.
        statistics: where its requests and runs are counted.
    """

    def __init__(
        self,
        bundle: Bundle,
        task: ImageGeneration,
        *,
        profile: LatencyProfile,
        text_profile: LatencyProfile | None,
        limits: Limits,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
        statistics: VersionStatistics,
    ) -> None:
        super().__init__(
            bundle,
            profile=profile,
            limits=limits,
            decoding=decoding,
            metrics=metrics,
            statistics=statistics,
            long_s=0.0,
        )
        self._lanes = Lanes(decoding.threads)
        self.task = task
        self.labels = None  # what the generator answers are pixels, and no scores of classes
        self._read = bundle.sessions[TEXT].run if TEXT in bundle.sessions else None
        # What is not known to be quick may be slow.
        self._reads_slowly = text_profile is None or text_profile.seconds(1) > _INLINE_S

    def run_long(self, work: Callable[[], T], /) -> asyncio.Future[T]:
        """See `GraphModel.run_long`."""
        return super().run_long(partial(self._lanes.do, work))

    async def offload(self, work: Callable[[], T]) -> T:
        """See `Model.offload`."""
        return await super().offload(partial(self._lanes.do, work))

    async def draw(self, request: ImageRequest, *, deadline: float | None = None) -> tuple[Drawings, Answer]:
        """Draw the pictures of a request, and count it but for their writing; cancelling withdraws it.

        Args:
            request: checked by the task.
            deadline: on the clock of `time.monotonic`.

        Returns:
            The pictures, and the time that the generator took.

        Raises:
            BadInput: a text means nothing that can be drawn; or (as TooLarge) there are more pictures than rows.
            NotReady: the model is draining.
            Overloaded: the queue is full, or too many long texts are being read.
            DeadlineExceeded, RuntimeFailure: as they say.
        """
        started = time.perf_counter()
        task = self.task
        sketching = partial(sketch_of, request, task, self._read)
        apart = task.is_heavy(request) or (self._reads_slowly and request.texts)
        sketch = await self.offload(sketching) if apart else sketching()
        self.metrics.preprocess_seconds.observe(time.perf_counter() - started)
        answer = await self.submit(task.inputs(sketch), deadline)
        self.observe(answer)
        finishing = partial(task.finish, request, sketch, answer.outputs)
        return await self.offload(finishing) if task.is_large(request) else finishing(), answer
