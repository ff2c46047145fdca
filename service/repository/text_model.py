"""A model that continues texts: its graph is run once a token, for all texts that grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from service.batching.policy import LatencyProfile, Limits
from service.batching.records import Answer, StepReport
from service.batching.sampling import key_of
from service.batching.stepper import Stepper
from service.errors import NotReady, TooLarge
from service.manifest import BATCH, Graph, Tensor
from service.metrics import ModelMetrics, TextMetrics
from service.repository.bundle import Bundle
from service.repository.generation import Generation, Timings, text_slots
from service.repository.model import Model
from service.repository.statistics import VersionStatistics
from service.tasks.stops import StopWatch, Untold
from service.tasks.text_generation import TextGeneration, TextRequest
from service.tensors import Arrays
from service.threads import BoundedThreads

TEXT_INPUT = "text_input"
TEXT_OUTPUT = "text_output"


class TextModel(Model):
    """One version of one model; made in the event loop that it serves.

    As tensors it takes prompts, BYTES (batch,), and answers what follows each.

    Args:
        bundle: loaded.
        task: its task.
        profile: how long a step takes, by its number of rows.
        limits: of its slots (`max_batch_rows`) and its queue.
        decoding: where large inputs are read.
        metrics: its series.
        bind_text: makes its other series, told how many slots are live.
        statistics: where its requests and steps are counted.
    """

    def __init__(
        self,
        bundle: Bundle,
        task: TextGeneration,
        *,
        profile: LatencyProfile,
        limits: Limits,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
        bind_text: Callable[[Callable[[], float]], TextMetrics],
        statistics: VersionStatistics,
    ) -> None:
        step = bundle.session.graph
        super().__init__(
            bundle,
            graph=texts_as_tensors(step.file),
            batched=True,
            max_batch_rows=limits.max_batch_rows,
            decoding=decoding,
            metrics=metrics,
            statistics=statistics,
        )
        self.task = task
        self._limits = limits
        self._stepper = Stepper(
            text_slots(bundle.session.run, step, capacity=limits.max_batch_rows),
            profile=profile,
            limits=limits,
            name=f"step-{self.name}",
            on_step=self._count_step,
        )
        self._text_metrics = bind_text(lambda: self._stepper.statistics().live)
        self._largest_group = max(1, limits.max_batch_rows // 4)

    def generate(self, request: TextRequest, *, deadline: float | None = None, streamed: bool = False) -> Generation:
        """Begin to answer a request.

        Args:
            request: checked by the task.
            deadline: on the clock of `time.monotonic`.
            streamed: whether its parts are wanted as they come.

        Raises:
            TooLarge: it asks for more sequences than may wait.
            Overloaded: the queue is full.
        """
        sequences = len(request.prompts) * request.best_of
        if sequences > self._limits.max_queue_rows:
            raise TooLarge(
                f"a request may have at most {self._limits.max_queue_rows} texts (INFERD_MAX_QUEUE_ROWS); "
                f"this one has {sequences}"
            )
        pieces, stops = self.task.characters.pieces, request.stops
        return Generation(
            request,
            self._stepper,
            untold=partial(Untold, pieces, stops),
            is_complete=partial(StopWatch, pieces, stops) if stops else _never,
            key_of=partial(key_of, request.seed),
            largest_group=self._largest_group,
            streamed=streamed,
            deadline=deadline,
        )

    def submit(
        self,
        arrays: Arrays,
        deadline: float | None = None,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> asyncio.Future[Answer]:
        """See `Model.submit`; texts are continued as the parameters say, in their order whatever the priority."""
        request = self.task.parse_tensors(arrays[TEXT_INPUT].tolist(), parameters or {})
        generation = self.generate(request, deadline=deadline)
        answer = asyncio.ensure_future(self._answer(generation))
        answer.add_done_callback(lambda _: generation.cancel())  # it may be cancelled before it has begun to wait
        return answer

    def count(self, generation: Generation) -> Timings:
        """Count an answered request, one row for each of its texts."""
        timings = self._count_first_token(generation)
        self._count_answer(answer_of(timings, {}), generation.texts)
        return timings

    @property
    def is_idle(self) -> bool:
        """See `Model.is_idle`: an answer always takes long enough for a client to go away."""
        return False

    def queued_rows(self) -> int:
        """See `Model.queued_rows`."""
        return self._stepper.statistics().queued

    async def _answer(self, generation: Generation) -> Answer:
        choices = await generation.answer()
        texts = np.array([choice.text for (choice,) in choices], object)
        return answer_of(self._count_first_token(generation), {TEXT_OUTPUT: texts})  # `observe` counts the rest

    def _count_first_token(self, generation: Generation) -> Timings:
        timings = generation.timings()
        if timings.first_token_s is not None:
            self._text_metrics.first_token_seconds.observe(timings.first_token_s)
        return timings

    async def _close(self, *, at_once: bool) -> None:
        if at_once:
            self._stepper.abort(NotReady(f"model {self.name!r} version {self.version} serves no longer"))
        await self._stepper.drain()

    def _count_step(self, step: StepReport) -> None:
        super()._count_step(step)
        self._text_metrics.inter_token_seconds.observe(step.step_s)
        self._text_metrics.tokens.inc(step.tokens)


def texts_as_tensors(file: str) -> Graph:
    """What requests of tensors have and answers, where texts go in and come out: BYTES (batch,) both."""
    return Graph(
        file=file,
        inputs=(Tensor(name=TEXT_INPUT, datatype="BYTES", shape=(BATCH,)),),
        outputs=(Tensor(name=TEXT_OUTPUT, datatype="BYTES", shape=(BATCH,)),),
    )


def answer_of(timings: Timings, outputs: Arrays) -> Answer:
    """An answer with the time that it took: all runs that it was part of, and how many texts shared them."""
    return Answer(
        outputs,
        timings.queue_s,
        timings.run_s,
        round(timings.rows),
        infer_s=timings.run_s,
        queued_at=timings.queued_at,
        ended_at=timings.ended_at,
    )


def _never() -> None:
    """A choice that ends with its length alone."""
