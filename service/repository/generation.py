"""A request for text while it is answered: its groups in the stepper, and what may be told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from service.batching.groups import Runs
from service.batching.sampling import key_of
from service.batching.sequences import Continuation, Finish, SampledGroup, SamplingStrategy, TokenScores
from service.batching.slots import Slots
from service.batching.stepper import Stepper
from service.manifest import Graph
from service.tasks.stops import StopWatch, Untold
from service.tasks.text_generation import TextRequest
from service.tensors import Arrays


class Part(msgspec.Struct, frozen=True):
    """What is new of one choice.

    Attributes:
        prompt: index of the prompt.
        choice: index of the choice among those of its prompt.
        tokens: ids.
        texts: of each token; the last may be cut short by a stop string.
        scores: of each token, if the request asks for them.
        finish: why the choice ended, in its last part.
        count: how many tokens were generated so far, those included that are not told.
    """

    prompt: int
    choice: int
    tokens: list[int]
    texts: list[str]
    scores: list[TokenScores]
    finish: Finish | None
    count: int

    @property
    def text(self) -> str:
        """All that is new."""
        return "".join(self.texts)


@dataclass(frozen=True)
class Timings:
    """Where the time of an answer went.

    Attributes:
        queued_at: when it was queued, on the stepper's clock.
        ended_at: when the last of its sequences ended.
        queue_s: until the first of its sequences had a slot.
        run_s: in the runs that it was part of.
        runs: how many those were.
        rows: how many slots were in use in them, on average.
        first_token_s: from its arrival to its first token, if it has one.
    """

    queued_at: float
    ended_at: float
    queue_s: float
    run_s: float
    runs: int
    rows: float
    first_token_s: float | None


class _Choice:
    """What is told of one sequence."""

    def __init__(self, prompt: int, index: int, group: SampledGroup, sequence: Continuation, untold: Untold) -> None:
        self.prompt = prompt
        self.index = index
        self.group = group
        self.sequence = sequence
        self.ended = False
        self._untold = untold
        self._seen = 0
        self._told = 0

    def news(self) -> Part | None:
        """What has come since the last call and may be told, if there is anything."""
        count, finish = self.sequence.so_far()
        if count == self._seen and finish is None:
            return None
        if not self.sequence.limit and (self.group.error or not self.group.done):
            return None  # it has no end but that of its prompt
        fresh = self.sequence.tokens[self._seen : count]
        told = self._untold.tell(fresh, stopped=finish == "stop", ended=finish is not None)
        self._seen = count
        if not told.tokens and finish is None:
            return None
        begun, self._told = self._told, self._told + len(told.tokens)
        self.ended = finish is not None
        return Part(
            self.prompt, self.index, told.tokens, told.texts, self.sequence.scores[begun : self._told], finish, count
        )


class Generation:
    """One request; it begins when it is made.

    Args:
        request: what is asked for.
        stepper: where it is made.
        untold: makes what holds back the text of one choice.
        is_complete: makes what ends one choice, or None.
        largest_group: how many sequences may share the reading of their prompt.
        key_of: the key of a choice's random numbers, by the indices of prompt and choice.
        streamed: whether parts are wanted as they come.
        deadline: on the stepper's clock.

    Raises:
        InferdError: the stepper does not take it.
    """

    def __init__(
        self,
        request: TextRequest,
        stepper: Stepper,
        *,
        untold: Callable[[], Untold],
        is_complete: Callable[[], Callable[[int], bool] | None],
        key_of: Callable[[int, int], int],
        largest_group: int,
        streamed: bool,
        deadline: float | None,
    ) -> None:
        self.request = request
        self._stepper = stepper
        self._changed = asyncio.Event()
        self._choices: list[_Choice] = []
        self._groups: list[SampledGroup] = []
        self._first_groups: list[SampledGroup] = []  # of each prompt: its scores are there
        ranked = request.best_of > request.choices
        top_scores = 0 if request.top_scores is None and ranked else request.top_scores
        for prompt, tokens in enumerate(request.prompts):
            for begin in range(0, request.best_of, largest_group):
                indices = range(begin, min(begin + largest_group, request.best_of))
                sequences = [
                    Continuation(
                        key_of(prompt, index),
                        request.sampling,
                        limit=request.max_tokens,
                        is_complete=is_complete(),
                    )
                    for index in indices
                ]
                group = SampledGroup(
                    tokens,
                    sequences,
                    changed=self._changed,
                    streamed=streamed,
                    top_scores=top_scores,
                    scores_prompt=request.scores_prompt and not begin,
                    deadline=deadline,
                )
                self._groups.append(group)
                if not begin:
                    self._first_groups.append(group)
                self._choices += [
                    _Choice(prompt, index, group, one, untold()) for index, one in zip(indices, sequences, strict=True)
                ]
        stepper.submit(*self._groups)

    async def parts(self) -> AsyncGenerator[list[Part], None]:
        """What is new, whenever something is, until every choice has ended; leaving the loop cancels the rest.

        Raises:
            InferdError: what a group failed with; its deadline among it.
        """
        open_choices = self._choices
        try:
            while open_choices:
                await self._changed.wait()
                self._changed.clear()
                failed = next((group.error for group in self._groups if group.error), None)
                parts = [part for choice in open_choices if (part := choice.news())]
                open_choices = [choice for choice in open_choices if not choice.ended]
                if parts:
                    yield parts
                if failed:
                    raise failed
            while not all(group.done for group in self._groups):  # it may be told a moment later
                await self._changed.wait()
                self._changed.clear()
        finally:
            self.cancel()

    async def answer(self) -> list[list[Part]]:
        """Wait for all of it: the choices of each prompt, the likeliest first where more were made than are wanted.

        Raises:
            InferdError: as `parts`.
        """
        found: dict[tuple[int, int], Part] = {}
        async for parts in self.parts():
            for part in parts:
                before = found.get((part.prompt, part.choice))
                found[part.prompt, part.choice] = part if before is None else _joined(before, part)
        wanted: list[list[Part]] = []
        for prompt in range(len(self.request.prompts)):
            choices = [found[prompt, choice] for choice in range(self.request.best_of)]
            if len(choices) > self.request.choices:
                choices.sort(key=_likelihood, reverse=True)
            wanted.append(choices[: self.request.choices])
        return wanted

    @property
    def texts(self) -> int:
        """How many texts are made."""
        return len(self._choices)

    def prompt_scores(self, prompt: int) -> Sequence[TokenScores]:
        """The scores of a prompt's tokens but the first, once it was read."""
        return self._first_groups[prompt].prompt_scores

    def cancel(self) -> None:
        """Let go of what is not done."""
        for group in self._groups:
            if not group.done:
                self._stepper.cancel(group)

    def timings(self) -> Timings:
        """Where the time went, once it is answered."""
        groups = self._groups
        total = Runs()
        for group in groups:
            total = total.and_also(group.runs)
        first = [group.first_token_at - group.enqueued_at for group in groups if group.first_token_at is not None]
        longest = max(groups, key=lambda group: group.runs.count)
        return Timings(
            queued_at=min(group.enqueued_at for group in groups),
            ended_at=max(group.ended_at for group in groups),
            queue_s=min(group.joined_at - group.enqueued_at for group in groups),
            run_s=longest.runs.seconds,
            runs=longest.runs.count,
            rows=total.rows / max(1, total.count),
            first_token_s=min(first, default=None),
        )


def text_slots(run: Callable[[Arrays], Arrays], graph: Graph, *, capacity: int) -> Slots:
    """The slots of a graph whose texts are sampled.

    Raises:
        ValueError: the graph is no step, or has no logits.
    """
    if graph.step is None:
        raise ValueError(f"{graph.file} is no graph that is run once a token")
    return Slots(run, graph, SamplingStrategy(graph.step), capacity=capacity)


def grow_alone(request: TextRequest, slots: Slots, pieces: Sequence[str]) -> Iterator[str]:
    """Continue the first prompt of `request`, with no stepper: its text as it comes.

    Args:
        request: of which nothing but the prompt, the sampling, the length, the seed and the stops is looked at.
        slots: of which nobody else uses one.
        pieces: the text of each token, by its id.

    Raises:
        RuntimeFailure: the graph failed, or answered with no numbers.
    """
    watch = StopWatch(pieces, request.stops) if request.stops else None
    sequence = Continuation(key_of(request.seed, 0, 0), request.sampling, limit=request.max_tokens, is_complete=watch)
    group = SampledGroup(request.prompts[0], [sequence], changed=asyncio.Event())
    slots.join([group])
    untold = Untold(pieces, request.stops)
    told = 0
    while sequence.finish is None:
        slots.step()
        if group.error:
            raise group.error
        fresh = sequence.tokens[told:]
        told = len(sequence.tokens)
        yield "".join(untold.tell(fresh, stopped=sequence.finish == "stop", ended=sequence.finish is not None).texts)


def _joined(before: Part, part: Part) -> Part:
    return Part(
        part.prompt,
        part.choice,
        before.tokens + part.tokens,
        before.texts + part.texts,
        before.scores + part.scores,
        part.finish,
        part.count,
    )


def _likelihood(part: Part) -> float:
    """How likely the model held a choice, a token."""
    return sum(score.logprob for score in part.scores) / max(1, len(part.scores))
