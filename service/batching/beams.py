"""Beam search in slots: a group's sequences are the likeliest beginnings of one answer, and change places.

A beginning's candidates are picked by the graph. What an answer is worth is its log-likelihood over the length penalty
of Wu et al. 2016 (arXiv:1609.08144, section 7). A search ends when none of its beginnings would be better than what is
finished if it ended with its next token. No sum and no order crosses groups.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.batching.groups import Group
from service.batching.strategy import Growth, Row
from service.manifest import Step
from service.tensors import Arrays


class Hypothesis(msgspec.Struct, frozen=True):
    """A finished answer.

    Attributes:
        tokens: without start and end token.
        score: its log-likelihood over the length penalty.
        logprob: the natural logarithm of its probability, the end token included if it came to it.
        attention: where it looked, if that was asked for: (tokens, context length), a row for each token, and one for
            the end token if it came to it.
    """

    tokens: tuple[int, ...]
    score: float
    logprob: float
    attention: NDArray[np.float32] | None = None


class _Extension(NamedTuple):
    """A step of a group: which row each row went on from, with which token, and where those before it looked."""

    origins: NDArray[np.intp]
    tokens: NDArray[np.int64]
    attention: NDArray[np.float32] | None


class BeamGroup(Group):
    """One search.

    Args:
        prompt: token ids with which the answer begins, at least one.
        beams: beginnings that are kept; 1 takes the likeliest token after token.
        limit: tokens after which the answer is cut off, an end token among them.
        likely: how long it will be, as far as anybody can tell: by this it is judged how long others wait.
        length_penalty: the exponent, 0 for none; with one beam there is nothing to compare, and it is not used.
        wanted: so many finished answers, at most as many as beams.
        attentive: whether it is kept where they looked.
        changed: as of any `Group`; so are the others that are not named here.

    Attributes:
        finished: the best so far, the very best first.
    """

    __slots__ = (
        "attentive",
        "beams",
        "exponent",
        "extensions",
        "finished",
        "likely",
        "limit",
        "scores",
        "wanted",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        beams: int,
        limit: int,
        likely: int | None = None,
        length_penalty: float,
        wanted: int = 1,
        attentive: bool = False,
        changed: asyncio.Event,
        deadline: float | None = None,
        start: Arrays | None = None,
        context: Arrays | None = None,
    ) -> None:
        super().__init__(prompt, left=beams, changed=changed, deadline=deadline, start=start, context=context)
        self.beams = beams
        self.limit = limit
        self.likely = min(limit, likely or limit)
        self.exponent = length_penalty if beams > 1 else 0.0
        self.wanted = wanted
        self.attentive = attentive
        self.finished: list[Hypothesis] = []
        self.scores = np.full(beams, -math.inf)  # of the beginnings: their log-likelihoods
        self.scores[0] = 0.0  # all are the same at first: one of them goes on
        self.extensions: list[_Extension] = []

    @property
    def width(self) -> int:
        """See `Group`."""
        return self.beams

    @property
    def length(self) -> int:
        """How many tokens each beginning has."""
        return len(self.extensions)

    @property
    def row_steps_left(self) -> int:
        """See `Group`: as many as are likely."""
        return len(self.prompt) - self.fed + self.beams * max(1, self.likely - self.length)

    @property
    def bar(self) -> float:
        """What an answer has to be better than to be among the wanted ones."""
        return self.finished[-1].score if len(self.finished) == self.wanted else -math.inf

    def finish(self, row: int, logprob: float, length: int, last: NDArray[np.float32] | None = None) -> None:
        """Take in an answer, if it is among the best.

        Args:
            row: the beginning that is it.
            logprob: its log-likelihood.
            length: in tokens, the end token included.
            last: where the beginning looked for its end, if it came to one and that is told.
        """
        score = logprob / _penalty_of(length, self.exponent)
        if score <= self.bar:
            return
        tokens, attention = self._trace(row, last)
        self.finished.append(Hypothesis(tuple(tokens), score, logprob, attention))
        self.finished.sort(key=lambda one: -one.score)
        del self.finished[self.wanted :]

    def _trace(self, row: int, last: NDArray[np.float32] | None) -> tuple[list[int], NDArray[np.float32] | None]:
        """The tokens of a beginning, and where each and what comes after them (`last`, if it is told) looked."""
        tokens: list[int] = []
        looked = [] if last is None else [last]
        for extension in reversed(self.extensions):
            tokens.append(int(extension.tokens[row]))
            row = int(extension.origins[row])
            if extension.attention is not None:
                looked.append(extension.attention[row])
        tokens.reverse()
        return tokens, self._attention(looked[::-1]) if self.attentive else None

    def _attention(self, looked: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """What was told in steps whose contexts were filled up to several lengths, in this group's own."""
        own = min(array.shape[1] for array in self.context.values() if array.ndim > 1)
        return np.stack([one[:own] for one in looked]) if looked else np.zeros((0, own), np.float32)


class BeamStrategy:
    """Extends the beginnings of every group by the best of their candidates.

    Args:
        step: of the graph.
        end: the token with which an answer ends.

    Raises:
        ValueError: the graph picks no candidates.
    """

    def __init__(self, step: Step, end: int) -> None:
        if step.candidates is None:
            raise ValueError("a beam needs a graph that picks candidates")
        self.scores = step.candidates.logprobs
        self._tokens = step.candidates.tokens
        self._attention = step.attention
        self._end = end
        self._rows: Sequence[Row] = ()
        self._cohorts: Sequence[_Cohort] | None = ()

    def seat(self, rows: Sequence[Row]) -> None:
        """See `Strategy`; the rows of a group lie side by side."""
        for cohort in self._cohorts or ():
            cohort.leave()
        self._rows = rows
        self._cohorts = None

    def read(self, group: Group, answers: Arrays, place: int) -> None:
        """See `Strategy`."""

    def begin(self, group: Group) -> Sequence[int]:
        """See `Strategy`: its beginnings."""
        return range(group.left)

    def grow(self, answers: Arrays, finish: Callable[[Group], None], clock: Callable[[], float]) -> Growth:
        """See `Strategy`."""
        tokens = np.zeros(len(self._rows), np.int64)
        places = np.arange(len(self._rows))
        attention = answers[self._attention] if self._attention else None
        ended: dict[Group, None] = {}
        if self._cohorts is None:
            self._cohorts = self._seated()
        for cohort in self._cohorts:
            for group in cohort.extend(answers[self.scores], answers[self._tokens], attention, self._end):
                group.left = 0
                finish(group)
                ended[group] = None
            tokens[cohort.places] = cohort.tokens
            places[cohort.places] = cohort.origins
        if not ended:
            return Growth(tokens, places, None, ())
        stay = _closed_up([row.group for row in self._rows], ended)
        return Growth(tokens[stay], places[stay], [self._rows[place] for place in stay], list(ended))

    def _seated(self) -> Sequence[_Cohort]:
        """The groups that have begun, by their number of beams."""
        places: dict[int, dict[BeamGroup, int]] = {}
        place = 0
        while place < len(self._rows):
            group, member = self._rows[place]
            if member is None:
                place += 1
                continue
            assert isinstance(group, BeamGroup)  # noqa: S101 - nobody else is given this strategy
            places.setdefault(group.beams, {})[group] = place
            place += group.beams
        return [_Cohort(list(first), list(first.values())) for first in places.values()]


def _closed_up(groups: Sequence[Group], ended: Collection[Group]) -> list[int]:
    """The places of rows that stay, in an order in which as few as can be have another place than before.

    Where a group has ended the last one that is as wide goes: what rows look at is large, and stays where it is.

    Args:
        groups: of each row; those of a group lie side by side.
        ended: those that don't stay.
    """
    parts = [[place for place, _ in rows] for _, rows in groupby(enumerate(groups), lambda row: id(row[1]))]
    last: dict[int, list[int]] = {}  # those that stay, by their width
    for number, part in enumerate(parts):
        if groups[part[0]] not in ended:
            last.setdefault(len(part), []).append(number)
    stay: list[list[int]] = []
    moved: set[int] = set()
    for number, part in enumerate(parts):
        if groups[part[0]] not in ended:
            if number not in moved:
                stay.append(part)
        elif (as_wide := last.get(len(part))) and as_wide[-1] > number:
            moved.add(as_wide[-1])
            stay.append(parts[as_wide.pop()])
    return [place for part in stay for place in part]


class _Cohort:
    """Groups with equally many beams, whose numbers lie side by side: G groups of B beams.

    Args:
        groups: of one width.
        first: the place of the first row of each.

    Attributes:
        places: of their rows (G, B).
        tokens: with which each row goes on after a step (G, B).
        origins: the place of the row that each goes on from (G, B).
    """

    def __init__(self, groups: Sequence[BeamGroup], first: Sequence[int]) -> None:
        self._groups = groups
        self._beams = groups[0].beams
        self._first = np.array(first, np.intp)[:, None]
        self._scores = np.stack([group.scores for group in groups])
        self._lengths = np.array([group.length for group in groups])
        self._limits = np.array([group.limit for group in groups])
        self._exponents = np.array([group.exponent for group in groups])
        self._bars = np.array([group.bar for group in groups])
        self.places = self._first + np.arange(self._beams)
        self.tokens: NDArray[np.int64]
        self.origins: NDArray[np.intp]

    def leave(self) -> None:
        """Hand what belongs to each group back to it."""
        for group, scores in zip(self._groups, self._scores, strict=True):
            group.scores = scores

    def extend(
        self, logprobs: NDArray[Any], candidates: NDArray[np.int64], attention: NDArray[np.float32] | None, end: int
    ) -> list[BeamGroup]:
        """Extend every beginning; return the groups that are done with it.

        Args:
            logprobs: of each row's candidates, the best first (rows, candidates).
            candidates: which those are (rows, candidates).
            attention: where each row looked (rows, context length).
            end: the token that ends an answer.
        """
        beams, count = self._beams, len(self._groups)
        # What ends among the best `beams` is finished; of the rest the best `beams` go on. Twice as many candidates of
        # each row are enough: at most one ends it.
        scores = self._scores[:, :, None] + logprobs[self.places, : 2 * beams]
        width = scores.shape[2]
        scores = scores.reshape(count, -1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : 2 * beams]
        scores = np.take_along_axis(scores, best, axis=1)
        origins = best // width
        tokens = np.take_along_axis(candidates[self.places, :width].reshape(count, -1), best, axis=1)
        ended = tokens == end
        self._lengths += 1
        finished = (ended & np.isfinite(scores))[:, :beams]
        for number, rank in np.argwhere(finished).tolist():
            self._finish(number, int(origins[number, rank]), float(scores[number, rank]), attention)
        if ended.any():
            kept = np.argsort(ended, axis=1, kind="stable")[:, :beams]
            scores, origins, tokens = (np.take_along_axis(one, kept, axis=1) for one in (scores, origins, tokens))
        else:
            scores, origins, tokens = scores[:, :beams], origins[:, :beams], tokens[:, :beams]
        self._scores, self.tokens = scores, tokens
        self.origins = self._first + origins
        for number, group in enumerate(self._groups):
            looked = None
            if attention is not None and group.attentive:
                looked = attention[self.places[number]]
            group.extensions.append(_Extension(origins[number], tokens[number], looked))
        cut_off = self._lengths >= self._limits
        for number in np.flatnonzero(cut_off).tolist():
            self._cut_off(number)
        next_best = scores[:, 0] / _penalty(self._lengths + 1, self._exponents)
        return [self._groups[number] for number in np.flatnonzero(cut_off | (self._bars >= next_best)).tolist()]

    def _finish(self, number: int, row: int, logprob: float, attention: NDArray[np.float32] | None) -> None:
        """A beginning has ended; it has not been extended yet."""
        group = self._groups[number]
        last = attention[self.places[number, row]] if attention is not None and group.attentive else None
        group.finish(row, logprob, int(self._lengths[number]), last)
        self._bars[number] = group.bar

    def _cut_off(self, number: int) -> None:
        """A group has come to its limit: where answers are missing, its beginnings have to do."""
        group = self._groups[number]
        for row in range(min(group.wanted - len(group.finished), self._beams)):
            logprob = float(self._scores[number, row])
            if math.isfinite(logprob):
                group.finish(row, logprob, int(self._lengths[number]))


@lru_cache(4096)
def _penalty_of(length: int, exponent: float) -> float:
    """The same of one answer: many have the same length."""
    return float(_penalty(length, exponent))


def _penalty(length: int | NDArray[np.int64], exponent: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """That by which the log-likelihood of an answer of `length`, the end token included, is divided."""
    return np.asarray(((5.0 + np.asarray(length)) / 6.0) ** exponent)
