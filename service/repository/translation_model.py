"""A model that translates: one graph reads a sentence as a whole, another writes its translation token by token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np

from service.batching.beams import Hypothesis
from service.batching.groups import Runs
from service.batching.policy import LatencyProfile, Limits
from service.batching.records import Answer, StepReport
from service.batching.stepper import Stepper
from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.metrics import ModelMetrics, TextMetrics
from service.repository.bundle import Bundle
from service.repository.model import Model
from service.repository.statistics import VersionStatistics
from service.repository.text_model import TEXT_INPUT, TEXT_OUTPUT, texts_as_tensors
from service.repository.translating import Reader, SentenceGroup, beam_slots, found, group_of
from service.tasks.translation import Translation
from service.tasks.translation_requests import TranslationRequest
from service.tensors import Arrays
from service.threads import BoundedThreads

_SENTENCES_AT_ONCE = 64
"""Of one request: a long text does not fill the queue, and others come in between."""

_TOGETHER = 0.25
"""Of the sentences that are being written: while fewer wait, they wait for others to be read with, which is cheaper."""

_SHARE = 0.5
"""Of the stepper's queue: so much may be full for a sentence that can wait. The rest is for requests that can't."""


@dataclass(frozen=True)
class _Sentence:
    """One sentence's translations, and where the time went."""

    hypotheses: Sequence[Hypothesis]
    queued_at: float
    ended_at: float
    queue_s: float
    read_s: float
    runs: Runs


@dataclass(frozen=True)
class Translations:
    """What was found for a request.

    Attributes:
        found: the best translations of each sentence, the very best first.
        answer: the time that it took, with no outputs.
    """

    found: Sequence[Sequence[Hypothesis]]
    answer: Answer


class TranslationModel(Model):
    """One version of one model; made in the event loop that it serves.

    A sentence is read when it gets its slots, together with others that get theirs: as many as its search keeps
    beginnings. As tensors it takes texts, BYTES (batch,), and answers their translations.

    Args:
        bundle: loaded.
        task: its task.
        profile: how long a step of the decoder takes, by its number of rows.
        limits: of what is translated at once and of the queue, in sentences.
        decoding: where large inputs are read.
        metrics: its series.
        bind_text: makes its other series, told how many slots are live.
        statistics: where its requests and steps are counted.
    """

    def __init__(
        self,
        bundle: Bundle,
        task: Translation,
        *,
        profile: LatencyProfile,
        limits: Limits,
        decoding: BoundedThreads,
        metrics: ModelMetrics,
        bind_text: Callable[[Callable[[], float]], TextMetrics],
        statistics: VersionStatistics,
    ) -> None:
        decoder = bundle.session.graph
        super().__init__(
            bundle,
            graph=texts_as_tensors(decoder.file),
            batched=True,
            max_batch_rows=limits.max_batch_rows,
            decoding=decoding,
            metrics=metrics,
            statistics=statistics,
        )
        self.task = task
        self._reader = Reader(bundle.sessions[task.graphs[0]].run, task, decoder)
        self._stepper = Stepper(
            beam_slots(bundle.session.run, decoder, task, reader=self._reader, capacity=bundle.most_rows),
            profile=profile,
            limits=Limits(bundle.most_rows, limits.max_queue_rows * task.slots_a_row, limits.max_queue_s),
            name=f"step-{self.name}",
            on_step=self._count_step,
            together=_TOGETHER,
        )
        self._text_metrics = bind_text(lambda: self._stepper.statistics().live)
        self._line = asyncio.Lock()
        self._room = asyncio.Event()
        self._draining = False
        self._translating = 0
        self._nothing_translating = asyncio.Event()
        self._nothing_translating.set()

    async def translate(self, request: TranslationRequest, *, deadline: float | None = None) -> Translations:
        """Translate the sentences of a request; cancelling lets go of what is not done.

        Args:
            request: checked by the task.
            deadline: on the clock of `time.monotonic`.

        Raises:
            NotReady: the model is draining.
            Overloaded: the queue is full.
            TooLarge: it asks for more beginnings than there are slots.
            DeadlineExceeded, RuntimeFailure: as they say.
        """
        if self._draining:
            raise NotReady("the model is being stopped and takes no new requests")
        self._translating += 1
        self._nothing_translating.clear()
        try:
            sentences = await self._translate_all(request, deadline)
        finally:
            self._translating -= 1
            if not self._translating:
                self._nothing_translating.set()
        self._text_metrics.tokens.inc(sum(len(one.hypotheses[0].tokens) for one in sentences))
        return Translations([one.hypotheses for one in sentences], _answer_of(sentences))

    def count(self, translations: Translations, texts: int) -> None:
        """Count an answered request, one row for each of its texts."""
        self._count_answer(translations.answer, texts)

    def submit(
        self,
        arrays: Arrays,
        deadline: float | None = None,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> asyncio.Future[Answer]:
        """See `Model.submit`; the parameters are the task's, and the order is that of arrival whatever the priority.

        The future tells what is wrong with a request: long texts are looked at in a thread.
        """
        return asyncio.ensure_future(self._answer(arrays[TEXT_INPUT].tolist(), parameters or {}, deadline))

    @property
    def is_idle(self) -> bool:
        """See `Model.is_idle`: an answer always takes long enough for a client to go away."""
        return False

    def queued_rows(self) -> int:
        """See `Model.queued_rows`: sentences that wait for slots."""
        return self._stepper.statistics().queued // self.task.slots_a_row

    async def _translate_all(self, request: TranslationRequest, deadline: float | None) -> Sequence[_Sentence]:
        if len(request.sentences) == 1:  # as most have
            group = group_of(request, 0, task=self.task, deadline=deadline)
            self._stepper.submit(group)
            return [await self._end_of(group)]
        if request.sentences:
            self._stepper.admit(request.beams)
        window = asyncio.Semaphore(_SENTENCES_AT_ONCE)
        tasks = [
            asyncio.ensure_future(self._translate(window, request, number, deadline))
            for number in range(len(request.sentences))
        ]
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                return await asyncio.gather(*tasks)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline came before every sentence was translated") from error
        finally:
            unfinished = [task for task in tasks if not task.done()]
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.gather(*unfinished, return_exceptions=True)

    async def _translate(
        self, window: asyncio.Semaphore, request: TranslationRequest, number: int, deadline: float | None
    ) -> _Sentence:
        """Translate a sentence when its turn has come: the first is taken in or refused, the others wait for room."""
        async with window:
            group = group_of(request, number, task=self.task, deadline=deadline)
            if number:
                await self._once_there_is_room(partial(self._stepper.submit, group, share=_SHARE))
            else:
                self._stepper.submit(group)
            return await self._end_of(group)

    async def _once_there_is_room(self, submit: Callable[[], None]) -> None:
        """Submit when that is not refused any more; who comes later waits behind."""
        async with self._line:
            while True:
                self._room.clear()
                try:
                    submit()
                    return
                except Overloaded as error:
                    with suppress(TimeoutError):  # what is cancelled makes room a little later than it says
                        async with asyncio.timeout(error.retry_after_s):
                            await self._room.wait()

    async def _end_of(self, group: SentenceGroup) -> _Sentence:
        """Wait for the end of a search, or see to it if nobody waits any more."""
        try:
            while not group.done:
                await group.changed.wait()
                group.changed.clear()
        finally:
            if not group.done:
                self._stepper.cancel(group)
            self._room.set()
        queued_at = group.enqueued_at
        return _Sentence(found(group), queued_at, group.ended_at, group.joined_at - queued_at, group.read_s, group.runs)

    async def _answer(self, texts: Sequence[str], parameters: Mapping[str, Any], deadline: float | None) -> Answer:
        is_heavy = self.task.is_heavy(texts)
        parse = partial(self.task.parse_tensors, texts, parameters)
        request = await self.offload(parse) if is_heavy else parse()
        translations = await self.translate(request, deadline=deadline)
        finish = partial(self.task.put_together, request, translations.found)
        translated = await self.offload(finish) if is_heavy else finish()
        outputs: Arrays = {TEXT_OUTPUT: np.array([one.text for one in translated], object)}
        return msgspec.structs.replace(translations.answer, outputs=outputs)

    async def _close(self, *, at_once: bool) -> None:
        self._draining = True
        if at_once:
            self._stepper.abort(NotReady(f"model {self.name!r} version {self.version} serves no longer"))
            self._room.set()
        await self._nothing_translating.wait()
        await self._stepper.drain()

    def _count_step(self, step: StepReport) -> None:
        super()._count_step(step)
        self._text_metrics.inter_token_seconds.observe(step.step_s)


def _answer_of(sentences: Sequence[_Sentence]) -> Answer:
    """The time of the sentence that waited least, and of the one that took longest."""
    if not sentences:
        return Answer({}, 0.0, 0.0, 0, queued_at=time.monotonic())
    total = Runs()
    for one in sentences:
        total = total.and_also(one.runs)
    compute_s = max(one.read_s + one.runs.seconds for one in sentences)
    rows = total.rows / max(1, total.count)
    return Answer(
        {},
        min(one.queue_s for one in sentences),
        compute_s,
        round(rows),
        infer_s=compute_s,
        queued_at=min(one.queued_at for one in sentences),
        ended_at=max(one.ended_at for one in sentences),
    )
