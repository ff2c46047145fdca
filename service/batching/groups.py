"""What has slots of a step graph: groups of sequences that begin with one prompt and live together.

They belong to the stepper's thread while they live. The event loop may read them at any time; `done` is set last.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from service.errors import InferdError
from service.tensors import Arrays


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

    def and_also(self, others: Runs) -> Runs:
        """These and `others`."""
        return Runs(
            self.count + others.count,
            self.rows + others.rows,
            self.tokens + others.tokens,
            self.seconds + others.seconds,
        )


class Group(ABC):
    """Sequences that begin with one prompt: it is read once, in one slot, and then each of them has a slot.

    Args:
        prompt: token ids, at least one.
        left: how many slots they need once the prompt is read.
        changed: set in the event loop when there is something new to read. Groups may share it.
        streamed: whether each token is news; else only the end is.
        deadline: when it becomes worthless, on the stepper's clock.
        start: the states to begin with, (1, ...) each; those that are not there are zeros.
        context: what the graph looks at in every step, (1, ...) each.

    Attributes:
        fed: how much of the prompt was read.
        enqueued_at: when the stepper took it in, on its clock.
        joined_at: when it got its slots.
        first_token_at: when its first token was there; None as long as it is not, or if nobody asks.
        ended_at: when the last sequence ended.
        left: how many sequences go on.
        runs: the runs that it was part of: at first those before it, from its end on its own.
        error: what it failed with.
        done: whether nothing will change any more.
    """

    __slots__ = (
        "changed",
        "context",
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
        "runs",
        "start",
        "streamed",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        left: int,
        changed: asyncio.Event,
        streamed: bool = False,
        deadline: float | None = None,
        start: Arrays | None = None,
        context: Arrays | None = None,
    ) -> None:
        self.prompt = prompt
        self.left = left
        self.changed = changed
        self.streamed = streamed
        self.deadline = deadline
        self.start: Arrays = start or _NOTHING
        self.context: Arrays = context or _NOTHING
        self.fed = 0
        self.enqueued_at = self.joined_at = self.ended_at = 0.0
        self.first_token_at: float | None = None
        self.runs = Runs()
        self.error: InferdError | None = None
        self.done = False

    @property
    @abstractmethod
    def width(self) -> int:
        """How many sequences it has, which is how many slots it takes at most."""

    @property
    @abstractmethod
    def row_steps_left(self) -> int:
        """How many row-steps it may take from now on, or is likely to where that can be told: from any thread."""


_NOTHING: Arrays = {}
