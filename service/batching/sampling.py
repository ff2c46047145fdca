"""Choosing the next token of many sequences at once, in NumPy, one row of scores a sequence.

Every row is computed by itself: no sum and no order crosses rows, so a sequence gets the same token whoever is beside
it. Its random numbers are a function of its key and its position alone (a counter-based generator, after Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3"), so there is no generator whose state others could move on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3, _TO_53_BITS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a sequence are chosen. What changes the scores comes first, in this order.

    Args:
        repetition_penalty: a token that occurs in the prompt or since is this much less likely (Keskar et al. 2019,
            arXiv:1909.05858): its score is divided by it, or multiplied if below zero. 1 = off.
        frequency_penalty: taken off a token's score for each time that it was generated.
        presence_penalty: taken off once a token was generated.
        temperature: what scores are divided by; 0 = always the best token.
        top_k: so many of the best tokens are left; 0 = all.
        top_p: the fewest best tokens are left that have at least this probability together (Holtzman et al. 2019,
            arXiv:1904.09751); 1 = all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    @property
    def is_penalised(self) -> bool:
        """Whether it matters which tokens there were before."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def is_restricted(self) -> bool:
        """Whether only the best tokens are left to choose from."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)


def key_of(seed: int, prompt: int, choice: int) -> int:
    """What the random numbers of a sequence depend on, as 64 bits: the seed, and the indices of prompt and choice."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def uniforms(keys: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each pair of key and position: SplitMix64 (Steele, Lea and Flood 2014), by its counter."""
    z = keys + (positions + np.uint64(1)) * _GOLDEN_GAMMA
    z = (z ^ (z >> _SHIFT_1)) * _MIX_1
    z = (z ^ (z >> _SHIFT_2)) * _MIX_2
    z ^= z >> _SHIFT_3
    numbers: NDArray[np.float64] = (z >> _TO_53_BITS) * 2.0**-53
    return numbers


def log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """The logarithms of the probabilities of each row of scores, (rows, tokens)."""
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


@dataclass(frozen=True, slots=True)
class Past:
    """What a row's sampler has to know of its sequence.

    Args:
        key: of its random numbers.
        sampling: how its tokens are chosen.
        prompt: its tokens.
        generated: the tokens since.
    """

    key: int
    sampling: Sampling
    prompt: Sequence[int]
    generated: Sequence[int]


_COLDEST = 1e-200
"""Below it a temperature changes nothing but that numbers get too large."""

_AHEAD = np.arange(32, dtype=np.uint64)
"""For so many positions random numbers are made at once: for each alone, calling NumPy would take longer."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """How often each token was generated, (tokens,), and which are in the prompt."""

    past: Past
    generated: NDArray[np.float64]
    in_prompt: NDArray[np.bool_]


_NOBODY = Past(0, Sampling(temperature=0.0), (), ())


class Sampler:
    """Chooses a token for each row; between two calls of `arrange` the rows are the same sequences."""

    def __init__(self) -> None:
        self._pasts: list[Past] = []
        self._generated: NDArray[np.float64] | None = None
        self._in_prompt: NDArray[np.bool_]
        self._counted: dict[int, _Counted] = {}
        self.arrange(())

    def arrange(self, rows: Sequence[Past | None]) -> None:
        """Take in which sequences the rows are.

        Args:
            rows: None where nothing has to be chosen (a prompt is still read): such a row gets any token.
        """
        pasts = [row or _NOBODY for row in rows]
        if self._generated is not None:
            # A prompt may be long: what was counted of sequences that stay need not be counted again.
            self._counted = {
                id(past.generated): _Counted(past, generated, in_prompt)
                for past, generated, in_prompt in zip(self._pasts, self._generated, self._in_prompt, strict=True)
            }
        self._keys = np.array([past.key for past in pasts], np.uint64)
        self._positions = np.array([len(past.generated) for past in pasts], np.uint64)
        self._uniforms = np.empty((len(pasts), 0))
        self._used = 0  # columns of those
        samplings = [past.sampling for past in pasts]
        temperatures = np.array([one.temperature for one in samplings], np.float64)
        self._greedy = temperatures == 0
        self._any_greedy = bool(self._greedy.any())
        self._all_greedy = bool(self._greedy.all())
        self._sharpness = 1 / np.where(self._greedy, 1.0, temperatures.clip(min=_COLDEST))[:, None]
        restricted = [row for row, one in enumerate(samplings) if one.is_restricted]
        self._restricted = np.array(restricted, np.intp)
        self._top_k = np.array([samplings[row].top_k or np.iinfo(np.int64).max for row in restricted], np.int64)
        self._top_p = np.array([one if (one := samplings[row].top_p) < 1 else math.inf for row in restricted])
        self._penalised = np.array([row for row, one in enumerate(samplings) if one.is_penalised], np.intp)
        self._pasts = [pasts[row] for row in self._penalised]
        self._generated = None  # (penalised, tokens), made when their number is known

    def choose(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Choose the next token of each row.

        Args:
            scores: logits (rows, tokens), finite.

        Returns:
            Token ids (rows,).
        """
        if len(self._penalised):
            scores = self._penalise(scores)
        tokens: NDArray[np.int64]
        if self._all_greedy:
            tokens = np.argmax(scores, axis=1)
        else:
            tokens = self._draw(scores)
            if self._any_greedy:
                tokens = np.where(self._greedy, np.argmax(scores, axis=1), tokens)
        if self._generated is not None:
            self._generated[np.arange(len(self._penalised)), tokens[self._penalised]] += 1
        return tokens

    def _draw(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        weights = scores * self._sharpness
        weights -= np.maximum.reduce(weights, axis=1, keepdims=True)
        np.exp(weights, out=weights)
        if len(self._restricted):
            weights[self._restricted] = _only_the_best(weights[self._restricted], self._top_k, self._top_p)
        cumulative = weights.cumsum(axis=1, out=weights)
        drawn = self._numbers() * cumulative[:, -1]
        # Not "<": what has no weight is not drawn, even by a zero.
        tokens: NDArray[np.int64] = np.add.reduce(cumulative <= drawn[:, None], axis=1, dtype=np.int64)
        np.minimum(tokens, scores.shape[1] - 1, out=tokens)  # a number next to 1 may have been rounded up
        return tokens

    def _numbers(self) -> NDArray[np.float64]:
        """The random number of each row at its position; the next call gives those of the next positions."""
        if self._used == self._uniforms.shape[1]:
            self._uniforms = uniforms(self._keys[:, None], self._positions[:, None] + _AHEAD)
            self._positions += np.uint64(len(_AHEAD))
            self._used = 0
        self._used += 1
        return self._uniforms[:, self._used - 1]

    def _penalise(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        if self._generated is None:
            counted = [self._count(past, scores.shape[1]) for past in self._pasts]
            self._generated = np.stack([one.generated for one in counted])
            self._in_prompt = np.stack([one.in_prompt for one in counted])
            samplings = [past.sampling for past in self._pasts]
            self._repetition = np.array([one.repetition_penalty for one in samplings])[:, None]
            self._frequency = np.array([one.frequency_penalty for one in samplings])[:, None]
            self._presence = np.array([one.presence_penalty for one in samplings])[:, None]
        changed = scores.astype(np.float64)
        rows = changed[self._penalised]
        there = self._generated > 0
        lowered = np.where(rows > 0, rows / self._repetition, rows * self._repetition)
        rows = np.where(there | self._in_prompt, lowered, rows)
        rows -= self._frequency * self._generated + self._presence * there
        changed[self._penalised] = rows
        return changed

    def _count(self, past: Past, size: int) -> _Counted:
        known = self._counted.get(id(past.generated))
        if (
            known
            and known.past.generated is past.generated
            and known.past.prompt is past.prompt
            and known.generated.sum() == len(past.generated)
        ):
            return known
        return _Counted(past, _counts(past.generated, size), _counts(past.prompt, size) > 0)


def _counts(tokens: Sequence[int], size: int) -> NDArray[np.float64]:
    """How often each token occurs."""
    return np.bincount(np.array(tokens, np.int64), minlength=size).astype(np.float64)


def _only_the_best(
    weights: NDArray[np.float64], top_k: NDArray[np.int64], top_p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take all weight from what is not among the best of its row; of equals the first come first."""
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    ranked[np.arange(weights.shape[1]) >= top_k[:, None]] = 0
    before = np.zeros_like(ranked)
    ranked[:, :-1].cumsum(axis=1, out=before[:, 1:])
    enough = top_p * (before[:, -1] + ranked[:, -1])
    ranked[before >= enough[:, None]] = 0
    left = np.empty_like(weights)
    np.put_along_axis(left, order, ranked, axis=1)
    return left
