"""What a stepper works on: sequences that grow token by token, in groups that share a prompt.

They belong to the stepper's thread while they live. The event loop may read them at any time: lists only grow, and a
token comes after all that belongs to it: its scores, and if it is the last, why and what the group took. `done` is set
last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.batching.sampling import Past, Sampling
from service.errors import InferdError

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


class Runs(msgspec.Struct, frozen=True):
    """Some runs of a step graph, added up.

    Attributes:
        count: how many.
        rows: of all of them.
        tokens: that came of them.
        seconds: that they took.
    """

    count: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def since(self, earlier: Runs) -> Runs:
        """Those that came after `earlier`."""
        return Runs(
            self.count - earlier.count,
            self.rows - earlier.rows,
            self.tokens - earlier.tokens,
            self.seconds - earlier.seconds,
        )


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


class Group:
    """Sequences that follow one prompt: it is read once, in one slot, and then each of them has a slot.

    Args:
        prompt: token ids, at least one.
        sequences: at least one.
        changed: set in the event loop when there is something new to read. Groups may share it.
        streamed: whether each token is news; else only the end is.
        top_scores: so many of the likeliest tokens go with each token's own score; None = no scores at all.
        scores_prompt: whether the prompt's tokens get scores too, as if they had been generated.
        deadline: when it becomes worthless, on the stepper's clock.

    Attributes:
        prompt_scores: of the prompt's tokens but the first, which nothing predicts.
        fed: how much of the prompt was read.
        enqueued_at: when the stepper took it in, on its clock.
        joined_at: when it got its slots.
        first_token_at: when its first token was there; None as long as it is not.
        ended_at: when the last sequence ended.
        left: how many sequences go on.
        runs: the runs that it was part of: at first those before it, from its end on its own.
        error: what it failed with.
        done: whether nothing will change any more.
    """

    __slots__ = (
        "changed",
        "deadline",
        "done",
        "ended_at",
        "enqueued_at",
        "error",
        "fed",
        "first_token_at",
        "joined_at",
        "left",
        "prompt",
        "prompt_scores",
        "runs",
        "scores_prompt",
        "sequences",
        "streamed",
        "top_scores",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        sequences: Sequence[Continuation],
        *,
        changed: asyncio.Event,
        streamed: bool = False,
        top_scores: int | None = None,
        scores_prompt: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.prompt = prompt
        self.sequences = sequences
        self.changed = changed
        self.streamed = streamed
        self.top_scores = top_scores
        self.scores_prompt = scores_prompt
        self.deadline = deadline
        self.prompt_scores: list[TokenScores] = []
        self.fed = 0
        self.left = sum(one.finish is None for one in sequences)
        self.enqueued_at = self.joined_at = self.ended_at = 0.0
        self.first_token_at: float | None = None
        self.runs = Runs()
        self.error: InferdError | None = None
        self.done = False

    @property
    def width(self) -> int:
        """How many slots it takes."""
        return len(self.sequences)

    @property
    def row_steps_left(self) -> int:
        """How many row-steps it may take at most from now on."""
        return len(self.prompt) - self.fed + sum(one.limit - len(one.tokens) for one in self.sequences)

    def past(self, sequence: Continuation) -> Past:
        """What the sampler has to know of one of the sequences."""
        return Past(sequence.key, sequence.sampling, self.prompt, sequence.tokens)
