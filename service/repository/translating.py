"""One sentence's search: how it is read, its group, and its slots, in a model that serves and without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

from numpy.typing import NDArray

from service.batching.arrays import misfit
from service.batching.beams import BeamGroup, BeamStrategy, Hypothesis
from service.batching.groups import Group
from service.batching.reading import ReadingSlots
from service.batching.slots import Slots
from service.errors import RuntimeFailure
from service.manifest import Graph, Step
from service.tasks.translation import Translation
from service.tasks.translation_requests import TranslationRequest
from service.tensors import Arrays

Run = Callable[[Arrays], Arrays]


_MOST_AT_ONCE = 32
"""Sentences in a run of the encoder: with more of them none gets cheaper."""


_RUN = 2
"""A run of the encoder takes as long as if it had so many sentences more."""


class SentenceGroup(BeamGroup):
    """The search for a sentence's translation.

    Args:
        sentence: its tokens, the end token included.
        search: what any `BeamGroup` takes.

    Attributes:
        read_s: how long the run took in which it was read.
    """

    __slots__ = ("read_s", "sentence")

    def __init__(self, sentence: Sequence[int], **search: Any) -> None:
        super().__init__(**search)
        self.sentence = sentence
        self.read_s = 0.0


class Reader:
    """Reads sentences: what the encoder answers under the name of a decoder's state or context is that.

    Args:
        run: the encoder.
        task: its task.
        decoder: the graph that writes.
        clock: for measurements.

    Attributes:
        sentences: so many were read.

    Raises:
        ValueError: the decoder is no step.
    """

    def __init__(
        self, run: Run, task: Translation, decoder: Graph, clock: Callable[[], float] = time.monotonic
    ) -> None:
        step = _step(decoder)
        self.sentences = 0
        self._run = run
        self._task = task
        self._clock = clock
        self._states = [pair.input for pair in step.states]
        self._context = step.context

    def __call__(self, groups: Sequence[Group]) -> None:
        """Read sentences, those of one size together; what a run can't read has its error."""
        for several in self._batches(cast("Sequence[SentenceGroup]", groups)):
            try:
                self._read(several)
            except RuntimeFailure as error:
                for group in several:
                    group.error = error

    def _batches(self, groups: Sequence[SentenceGroup]) -> Iterator[Sequence[SentenceGroup]]:
        """Those that share a run: of one size, and a few smaller ones if filling them up costs less than a run."""

        def size_of(group: SentenceGroup) -> int:
            return self._task.size_of(group.sentence)

        batch: list[SentenceGroup] = []
        smaller = 0
        for size, alike in groupby(sorted(groups, key=size_of), size_of):
            if len(batch) * (size - smaller) > _RUN * smaller:
                yield from _at_most(batch)
                batch = []
            batch.extend(alike)
            smaller = size
        yield from _at_most(batch)

    def _read(self, groups: Sequence[SentenceGroup]) -> None:
        started = self._clock()
        read = self._run(self._task.encode(*(group.sentence for group in groups)))
        if wrong := misfit(read, len(groups)):
            raise RuntimeFailure(f"the model is at fault: output {wrong}")
        seconds = self._clock() - started
        self.sentences += len(groups)
        for row, group in enumerate(groups):
            size = self._task.size_of(group.sentence)
            group.read_s = seconds
            group.start = {name: read[name][row : row + 1] for name in self._states if name in read}
            group.context = {name: _own(read[name][row : row + 1], size) for name in self._context}


def beam_slots(run: Run, graph: Graph, task: Translation, *, reader: Reader, capacity: int) -> Slots:
    """The slots of a decoder in which beginnings are searched on.

    Raises:
        ValueError: the graph is no step, or picks no candidates.
    """
    return ReadingSlots(run, graph, BeamStrategy(_step(graph), task.end), read=reader, capacity=capacity)


def group_of(
    request: TranslationRequest, number: int, *, task: Translation, deadline: float | None = None
) -> SentenceGroup:
    """The search for a sentence's translation.

    Args:
        request: checked by the task.
        number: of the sentence in it.
        task: its task.
        deadline: on the stepper's clock.
    """
    sentence = request.sentences[number]
    return SentenceGroup(
        sentence,
        prompt=(task.start,),
        beams=request.beams,
        limit=request.limits[number],
        likely=len(sentence),
        length_penalty=request.length_penalty,
        wanted=request.hypotheses,
        attentive=request.alignment,
        changed=asyncio.Event(),
        deadline=deadline,
    )


def found(group: BeamGroup) -> Sequence[Hypothesis]:
    """What a search that has ended came to.

    Raises:
        InferdError: what it failed with.
    """
    if group.error:
        raise group.error
    if not group.finished:
        raise RuntimeFailure("the model found no translation")
    return group.finished


def translate_alone(
    request: TranslationRequest, task: Translation, encode: Run, decode: Run, decoder: Graph
) -> list[Sequence[Hypothesis]]:
    """Translate the sentences of `request` one after the other, with no stepper.

    Raises:
        RuntimeFailure: a graph failed, or answered with no numbers.
    """
    slots = beam_slots(decode, decoder, task, reader=Reader(encode, task, decoder), capacity=request.beams)
    translated = []
    for number in range(len(request.sentences)):
        group = group_of(request, number, task=task)
        slots.join([group])
        while slots.live:
            slots.step()
        translated.append(found(group))
    return translated


def _at_most(groups: Sequence[SentenceGroup]) -> Iterator[Sequence[SentenceGroup]]:
    """All of them, as many as may be at once."""
    for start in range(0, len(groups), _MOST_AT_ONCE):
        yield groups[start : start + _MOST_AT_ONCE]


def _own(context: NDArray[Any], size: int) -> NDArray[Any]:
    """What is a sentence's own of a context that is filled up to others (1, source, ...)."""
    return context[:, :size] if context.ndim > 1 else context


def _step(graph: Graph) -> Step:
    if graph.step is None:
        raise ValueError(f"{graph.file} is no graph that is run once a token")
    return graph.step
