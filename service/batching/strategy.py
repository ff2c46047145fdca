"""How a sequence goes on from what a graph answers: the part of continuous batching that differs by task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.batching.groups import Group
from service.tensors import Arrays


class Row(NamedTuple):
    """Who has a slot: a member of a group, as its strategy knows it; or None while the group's prompt is read."""

    group: Group
    member: object | None


class Growth(NamedTuple):
    """What became of the rows in a step.

    Attributes:
        tokens: what each row reads next (rows,), int64; any where a prompt is read.
        places: from which row each goes on (rows,); None = each from itself.
        rows: who has the slots now; None = whoever had them, in the same order.
        news: groups whose first token came, and that is news, or whose end.
    """

    tokens: NDArray[np.int64]
    places: NDArray[np.intp] | None
    rows: Sequence[Row] | None
    news: Sequence[Group]


class Strategy(Protocol):
    """Chooses tokens for all slots at once; no sum and no order crosses groups.

    Attributes:
        scores: the graph's output by which it chooses; a row in which a number is not finite fails its group.
    """

    scores: str

    def seat(self, rows: Sequence[Row]) -> None:
        """Take in who has the slots from now on."""

    def read(self, group: Group, answers: Arrays, place: int) -> None:
        """Take note of what the graph answers at row `place` to a token of a prompt, the last one included."""

    def begin(self, group: Group) -> Sequence[object]:
        """The members of a group whose prompt is read: each gets a slot and goes on from what the prompt came to."""

    def grow(self, answers: Arrays, finish: Callable[[Group], None], clock: Callable[[], float]) -> Growth:
        """Choose the next token of each row.

        Args:
            answers: the graph's outputs but for states, a row each.
            finish: to be told of a group that has ended, before its last token can be seen.
            clock: for measurements.
        """
