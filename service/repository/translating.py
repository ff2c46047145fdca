"""One sentence's search: its group, and the slots that it has, in a model that serves and without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from service.batching.beams import BeamGroup, BeamStrategy, Hypothesis
from service.batching.slots import Slots
from service.errors import RuntimeFailure
from service.manifest import Graph, Step
from service.tasks.translation import Translation, TranslationRequest
from service.tensors import Arrays

Run = Callable[[Arrays], Arrays]


def beam_slots(run: Run, graph: Graph, task: Translation, *, capacity: int) -> Slots:
    """The slots of a decoder in which beginnings are searched on.

    Raises:
        ValueError: the graph is no step, or picks no candidates.
    """
    return Slots(run, graph, BeamStrategy(_step(graph), task.end), capacity=capacity)


def group_of(
    request: TranslationRequest,
    number: int,
    read: Arrays,
    *,
    decoder: Graph,
    task: Translation,
    deadline: float | None = None,
) -> BeamGroup:
    """The search for a sentence's translation.

    Args:
        request: checked by the task.
        number: of the sentence in it.
        read: what the encoder answered to it (1, ...): what it calls as the decoder calls a state or a context is that.
        decoder: the graph that writes.
        task: its task.
        deadline: on the stepper's clock.
    """
    step = _step(decoder)
    return BeamGroup(
        (task.start,),
        beams=request.beams,
        limit=request.limits[number],
        likely=len(request.sentences[number]),
        length_penalty=request.length_penalty,
        wanted=request.hypotheses,
        attentive=request.alignment,
        changed=asyncio.Event(),
        deadline=deadline,
        start={pair.input: read[pair.input] for pair in step.states if pair.input in read},
        context={name: read[name] for name in step.context},
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
    slots = beam_slots(decode, decoder, task, capacity=request.beams)
    translated = []
    for number, sentence in enumerate(request.sentences):
        group = group_of(request, number, encode(task.encode(sentence)), decoder=decoder, task=task)
        slots.join([group])
        while slots.live:
            slots.step()
        translated.append(found(group))
    return translated


def _step(graph: Graph) -> Step:
    if graph.step is None:
        raise ValueError(f"{graph.file} is no graph that is run once a token")
    return graph.step
