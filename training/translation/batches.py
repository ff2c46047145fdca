"""Batches of pairs of about one length, so that little is padding, and of about as many tokens each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.core.seeding import generator
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN

TokenPair = tuple[Sequence[int], Sequence[int]]
"""The tokens of a source and of its translation, without special ones."""


@dataclass(frozen=True)
class Sources:
    """Source sentences side by side.

    Attributes:
        tokens: each with the end token, then padding (steps, batch), int64.
        lengths: number of tokens of each, the end token included (batch,), int64.
    """

    tokens: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> Sources:
        """The same on `device`."""
        return Sources(self.tokens.to(device), self.lengths.to(device))


@dataclass(frozen=True)
class Batch:
    """What is learnt from in one step.

    Attributes:
        sources: to be translated.
        given: the start token and the translation, then padding (steps, batch), int64.
        wanted: the token after each of them, padding where there is none.
    """

    sources: Sources
    given: Tensor
    wanted: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(self.sources.to(device), self.given.to(device), self.wanted.to(device))


def source_batch(sources: Sequence[Sequence[int]]) -> Sources:
    """Put source sentences side by side."""
    ended = [[*source, END_TOKEN] for source in sources]
    return Sources(_padded(ended), torch.tensor([len(source) for source in ended]))


def batch_of(pairs: Sequence[TokenPair]) -> Batch:
    """Put pairs side by side."""
    return Batch(
        sources=source_batch([source for source, _ in pairs]),
        given=_padded([[START_TOKEN, *target] for _, target in pairs]),
        wanted=_padded([[*target, END_TOKEN] for _, target in pairs]),
    )


class Bucketing:
    """Cuts pairs into batches, others each epoch: pairs of one length change places, and batches come in any order.

    Args:
        pairs: to learn from; those with a side of more than `longest` tokens are left out.
        tokens: how many a batch may have, source and translation and padding together; a longer pair is a batch alone.
        longest: see `pairs`.

    Raises:
        ValueError: no pair is left.
    """

    def __init__(self, pairs: Sequence[TokenPair], tokens: int, longest: int) -> None:
        self._pairs = [pair for pair in pairs if all(len(side) < longest for side in pair)]
        if not self._pairs:
            raise ValueError(f"none of {len(pairs)} pairs has fewer than {longest} tokens on both sides")
        self._sizes = np.array([(len(source) + 1, len(target) + 1) for source, target in self._pairs])
        # What is at a place of this order changes with the epoch, but not how long it is: batches are cut once.
        ordered = self._sizes[np.lexsort((self._sizes[:, 0], self._sizes[:, 1]))]
        self._cuts = [0]
        widest = np.zeros(2, np.int64)
        for place, size in enumerate(ordered):
            widest = np.maximum(widest, size)
            if place > self._cuts[-1] and (place + 1 - self._cuts[-1]) * widest.sum() > tokens:
                self._cuts.append(place)
                widest = size
        self._cuts.append(len(ordered))

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._cuts) - 1

    @property
    def pairs(self) -> int:
        """How many pairs an epoch has."""
        return len(self._pairs)

    def batches(self, seed: int, epoch: int, skip: int) -> Iterator[Batch]:
        """Yield an epoch's batches after the first `skip`: a function of (seed, epoch) alone."""
        draw = generator(seed, "batches", epoch)
        shuffled = torch.randperm(len(self._pairs), generator=draw).numpy()
        sizes = self._sizes[shuffled]
        order = shuffled[np.lexsort((sizes[:, 0], sizes[:, 1]))]
        for number in torch.randperm(len(self), generator=draw)[skip:].tolist():
            yield batch_of([self._pairs[place] for place in order[self._cuts[number] : self._cuts[number + 1]]])


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD_TOKEN] * (longest - len(row))] for row in rows]).t().contiguous()
