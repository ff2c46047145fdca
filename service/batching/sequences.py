"""Texts that grow: sequences whose tokens are drawn, in groups that follow one prompt.

The event loop may read them while they grow: lists only get longer, and a token comes after all that belongs to it: its
scores, and if it is the last, why and what the group took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.batching.groups import Group
from service.batching.sampling import Past, Sampler, Sampling, log_softmax
from service.batching.strategy import Growth, Row
from service.manifest import Step
from service.tensors import Arrays

Finish = Literal["length", "stop"]
"""Why a sequence ended: it is as long as it may be, or it has reached what it should stop at."""


class TokenScores(msgspec.Struct, frozen=True):
    """How likely the model held a token, before anything (temperature, penalties) changed its scores.

    Attributes:
        logprob: the natural logarithm of its probability.
        top: the likeliest tokens in its place with theirs, the best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def likeliest(logprobs: NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens of a place with their log-probabilities (tokens,), the best first."""
    best = np.argsort(-logprobs, kind="stable")[:count]
    return tuple(zip(best.tolist(), logprobs[best].tolist(), strict=True))


class Continuation:
    """One sequence: what follows a prompt.

    Args:
        key: of its random numbers; see `sampling.key_of`.
        sampling: how its tokens are chosen.
        limit: of its length, in tokens.
        is_complete: told of each token, says whether the sequence ends with it.

    Attributes:
        tokens: so far.
        scores: of each token, if the group asks for them.
        finish: why it ends, known a moment before its last token is there; None while it goes on.
    """

    __slots__ = ("_length", "finish", "is_complete", "key", "limit", "sampling", "scores", "tokens")

    def __init__(
        self, key: int, sampling: Sampling, *, limit: int, is_complete: Callable[[int], bool] | None = None
    ) -> None:
        self.key = key
        self.sampling = sampling
        self.limit = limit
        self.is_complete = is_complete
        self.tokens: list[int] = []
        self.scores: list[TokenScores] = []
        self.finish: Finish | None = None if limit else "length"
        self._length = -1 if limit else 0  # in the end, once that is known

    def ends_with(self, token: int) -> bool:
        """Whether the sequence ends with `token`, which the caller then adds to `tokens`, after all else."""
        length = len(self.tokens) + 1
        if self.is_complete is not None and self.is_complete(token):
            self.finish = "stop"
        elif length >= self.limit:
            self.finish = "length"
        else:
            return False
        self._length = length
        return True

    def so_far(self) -> tuple[int, Finish | None]:
        """How many tokens there are, and why there will be no more, if so: from any thread."""
        count = len(self.tokens)
        return count, self.finish if count == self._length else None


class SampledGroup(Group):
    """Sequences that follow one prompt, each by random numbers of its own.

    Args:
        prompt: token ids, at least one.
        sequences: at least one.
        changed: as of any `Group`; so are the others that are not named here.
        top_scores: so many of the likeliest tokens go with each token's own score; None = no scores at all.
        scores_prompt: whether the prompt's tokens get scores too, as if they had been generated.

    Attributes:
        prompt_scores: of the prompt's tokens but the first, which nothing predicts.
    """

    __slots__ = ("prompt_scores", "scores_prompt", "sequences", "top_scores")

    def __init__(
        self,
        prompt: Sequence[int],
        sequences: Sequence[Continuation],
        *,
        changed: asyncio.Event,
        streamed: bool = False,
        deadline: float | None = None,
        top_scores: int | None = None,
        scores_prompt: bool = False,
    ) -> None:
        left = sum(one.finish is None for one in sequences)
        super().__init__(prompt, left=left, changed=changed, streamed=streamed, deadline=deadline)
        self.sequences = sequences
        self.top_scores = top_scores
        self.scores_prompt = scores_prompt
        self.prompt_scores: list[TokenScores] = []

    @property
    def width(self) -> int:
        """See `Group`."""
        return len(self.sequences)

    @property
    def row_steps_left(self) -> int:
        """See `Group`."""
        return len(self.prompt) - self.fed + sum(one.limit - len(one.tokens) for one in self.sequences)

    def past(self, sequence: Continuation) -> Past:
        """What the sampler has to know of one of the sequences."""
        return Past(sequence.key, sequence.sampling, self.prompt, sequence.tokens)


class SamplingStrategy:
    """Has every sequence go on by itself, with a token that is drawn by the graph's logits.

    Args:
        step: of the graph.

    Raises:
        ValueError: it has no logits.
    """

    def __init__(self, step: Step) -> None:
        if step.logits is None:
            raise ValueError("tokens can't be drawn without logits")
        self.scores = step.logits
        self._sampler = Sampler()
        self.seat(())

    def seat(self, rows: Sequence[Row]) -> None:
        """See `Strategy`."""
        self._rows = cast("Sequence[tuple[SampledGroup, Continuation | None]]", rows)
        self._scored = any(group.top_scores is not None for group, _ in self._rows)
        self._sampler.arrange([group.past(one) if one else None for group, one in self._rows])

    def read(self, group: Group, answers: Arrays, place: int) -> None:
        """See `Strategy`: score the prompt's next token, where that is wanted."""
        assert isinstance(group, SampledGroup)  # noqa: S101 - nobody else is given this strategy
        if group.scores_prompt and group.fed < len(group.prompt):
            logprobs = log_softmax(answers[self.scores][place : place + 1])[0]
            logprob = float(logprobs[group.prompt[group.fed]])
            group.prompt_scores.append(TokenScores(logprob, likeliest(logprobs, group.top_scores or 0)))

    def begin(self, group: Group) -> Sequence[Continuation]:
        """See `Strategy`."""
        return [one for one in cast(SampledGroup, group).sequences if one.finish is None]

    def grow(self, answers: Arrays, finish: Callable[[Group], None], clock: Callable[[], float]) -> Growth:
        """See `Strategy`: choose a token for each sequence; let those go that end with it."""
        scores = answers[self.scores]
        tokens = self._sampler.choose(scores)
        scored = self._score(scores, tokens) if self._scored else None
        news: list[Group] = []
        ended = False
        for place, ((group, sequence), token) in enumerate(zip(self._rows, tokens.tolist(), strict=True)):
            if sequence is None:
                continue
            if scored is not None and group.top_scores is not None:
                sequence.scores.append(scored[place])
            if group.first_token_at is None:
                group.first_token_at = clock()
                news.append(group)
            if sequence.ends_with(token):
                ended = True
                group.left -= 1
                if not group.left:
                    finish(group)
                    if news[-1:] != [group]:
                        news.append(group)
            sequence.tokens.append(token)
        if not ended:
            return Growth(tokens, None, None, news)
        stay = [place for place, (_, one) in enumerate(self._rows) if one is None or one.finish is None]
        places = np.array(stay, np.intp)
        return Growth(tokens[places], places, [Row(*self._rows[place]) for place in stay], news)

    def _score(self, scores: NDArray[np.float32], tokens: NDArray[np.int64]) -> list[TokenScores]:
        """How likely each row's token was, with the likeliest others where somebody wants to know."""
        logprobs = log_softmax(scores)
        return [
            TokenScores(logprob, likeliest(logprobs[place], group.top_scores) if group.top_scores else ())
            for place, ((group, _), logprob) in enumerate(
                zip(self._rows, logprobs[np.arange(len(tokens)), tokens].tolist(), strict=True)
            )
        ]
