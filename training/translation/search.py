"""Search for a translation: the most likely token after token, or a beam of several beginnings at a time.

A translation's score is its log-likelihood over the length penalty of Wu et al. 2016 (arXiv:1609.08144, section 7). A
search ends when none of its beginnings would be better than what is finished if it ended with its next token; it
depends on no other sentence's, but for the rounding of sums in a batch. Whatever computes the network, PyTorch or the
graphs of a bundle, is searched by the same code: an `Engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from training.core.config import ConfigModel
from training.translation.batches import source_batch
from training.translation.model import Memory, State, Translator
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN

LENGTH_FACTOR, LENGTH_OFFSET = 2, 10
"""Of which length a translation is cut off, by that of its sentence: see `longest_translation`."""

_SENTENCES = 64


class SearchConfig(ConfigModel):
    """How a translation is searched for.

    Attributes:
        beam: beginnings that are kept; 1 takes the most likely token after token.
        length_penalty: the exponent, 0 for none; the larger, the longer translations get. With a beam of 1 there is
            nothing to compare, and it is not used.
    """

    beam: int = Field(default=5, ge=1, le=64)
    length_penalty: float = Field(default=1.0, ge=0)


def longest_translation(tokens: int) -> int:
    """Tokens after which the translation of a sentence of `tokens` is cut off, the end token of each not counted."""
    return LENGTH_FACTOR * tokens + LENGTH_OFFSET


def length_penalty(tokens: int, exponent: float) -> float:
    """That by which the log-likelihood of a translation of `tokens`, the end token included, is divided."""
    return float(((5 + tokens) / 6) ** exponent)


class Beginnings(Protocol):
    """Translations as far as they are written, a row each."""

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read the last token of each.

        Returns:
            The likeliest tokens to follow each (rows, candidates), int64, and the natural logarithms of their
            probabilities (rows, candidates). Padding and the start token are none of them.
        """
        ...

    def keep(self, rows: Tensor, *, fewer: bool) -> None:
        """Go on with the beginnings `rows` (any,), in that order.

        Args:
            rows: which, int64.
            fewer: whether sentences are left out. If not, the sentence of each row stays what it was.
        """
        ...


class Engine(Protocol):
    """A network, however it is computed."""

    def begin(self, sources: Sequence[Sequence[int]], beam: int, candidates: int) -> Beginnings:
        """Read sentences, and begin `beam` translations of each, side by side.

        Args:
            sources: tokens without special ones.
            beam: rows for each.
            candidates: how many are needed of each row, if there are so many.
        """
        ...


class NetworkEngine:
    """A network in PyTorch.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Translator) -> None:
        self._model = model

    @torch.no_grad()
    def begin(self, sources: Sequence[Sequence[int]], beam: int, candidates: int) -> Beginnings:
        """See `Engine`."""
        device = self._model.token_bias.device
        memory, (hidden, cell) = self._model.encode(source_batch(sources).to(device))
        rows = torch.arange(len(sources), device=device).repeat_interleave(beam)
        return _NetworkBeginnings(self._model, memory.rows(rows), (hidden[rows], cell[rows]), candidates)


class _NetworkBeginnings:
    def __init__(self, model: Translator, memory: Memory, state: State, candidates: int) -> None:
        self._model, self._memory, self._state, self._candidates = model, memory, state, candidates

    @torch.no_grad()
    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        features, self._state, _ = self._model.decode(
            tokens.to(self._memory.outputs.device)[None], self._memory, self._state
        )
        likely = log_probabilities(self._model, features[0])
        best = likely.topk(min(self._candidates, likely.shape[1]), dim=1)
        return best.indices.cpu(), best.values.cpu()

    def keep(self, rows: Tensor, *, fewer: bool) -> None:
        rows = rows.to(self._memory.outputs.device)
        self._state = (self._state[0][rows], self._state[1][rows])
        if fewer:
            self._memory = self._memory.rows(rows)


def log_probabilities(model: Translator, features: Tensor) -> Tensor:
    """Natural logarithms of the probabilities of the tokens that follow `features` (..., embedding), in float32."""
    logits = model.score(features).float()
    logits[..., [PAD_TOKEN, START_TOKEN]] = float("-inf")
    return torch.log_softmax(logits, -1)


def translate(engine: Engine, sources: Sequence[Sequence[int]], config: SearchConfig) -> list[list[int]]:
    """Translate `sources`, each without special tokens, as the answers are.

    Args:
        engine: the network.
        sources: tokens of sentences.
        config: how to search.
    """
    found: list[list[int]] = [[] for _ in sources]
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    for begin in range(0, len(order), _SENTENCES):
        places = order[begin : begin + _SENTENCES]
        search = _Search(engine, [sources[place] for place in places], config)
        for place, translation in zip(places, search.run(), strict=True):
            found[place] = translation
    return found


class _Search:
    """Some sentences side by side, `beam` rows for each that is not finished.

    Args:
        engine: the network.
        sources: tokens of sentences.
        config: how to search.
    """

    def __init__(self, engine: Engine, sources: Sequence[Sequence[int]], config: SearchConfig) -> None:
        self._beam = config.beam
        self._exponent = config.length_penalty if config.beam > 1 else 0.0
        beam, count = config.beam, len(sources)
        self._beginnings = engine.begin(sources, beam, 2 * beam)
        self._limits = [longest_translation(len(source)) for source in sources]
        self._finished: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
        self._sentences = list(range(count))  # that are searched on
        self._written = torch.full((count, beam, 1), START_TOKEN)
        self._scores = torch.full((count, beam), float("-inf"))
        self._scores[:, 0] = 0.0  # all rows are the same at first: one of them goes on

    def run(self) -> list[list[int]]:
        """The best translation of each sentence."""
        while self._sentences:
            self._step()
        return [max(found, key=lambda one: one[0])[1] for found in self._finished]

    def _step(self) -> None:
        beam = self._beam
        candidates, tokens, origins = self._candidates()
        length = self._written.shape[2]  # of a translation that ends now, the end token included
        ended = tokens == END_TOKEN
        # What ends among the best `beam` is finished; of the rest the best `beam` go on: of twice as many candidates,
        # at most `beam` end, each row only once.
        for number, rank in (ended & candidates.isfinite())[:, :beam].nonzero().tolist():
            score = float(candidates[number, rank]) / length_penalty(length, self._exponent)
            translation = self._written[number, origins[number, rank], 1:].tolist()
            self._finished[self._sentences[number]].append((score, translation))
        kept = ended.int().argsort(dim=1, stable=True)[:, :beam]
        origins, tokens = origins.gather(1, kept), tokens.gather(1, kept)
        self._scores = candidates.gather(1, kept)
        before = self._written.gather(1, origins[:, :, None].expand(-1, -1, length))
        self._written = torch.cat([before, tokens[:, :, None]], 2)
        self._cut_off(length)
        going_on = [number for number in range(len(self._sentences)) if not self._is_done(number, length)]
        self._keep(going_on, origins)

    def _is_done(self, number: int, length: int) -> bool:
        sentence = self._sentences[number]
        if length >= self._limits[sentence]:
            return True
        best = max((score for score, _ in self._finished[sentence]), default=float("-inf"))
        return best >= float(self._scores[number, 0]) / length_penalty(length + 1, self._exponent)

    def _candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """The best continuations of each sentence, twice as many as the beam has rows: score, token, row."""
        count, beam = self._scores.shape
        tokens, likely = self._beginnings.step(self._written[:, :, -1].flatten())
        scores = (self._scores[:, :, None] + likely.view(count, beam, -1)).flatten(1)
        best = scores.topk(2 * beam, dim=1)
        return best.values, tokens.view(count, -1).gather(1, best.indices), best.indices // tokens.shape[1]

    def _cut_off(self, length: int) -> None:
        """Finish what has come to its limit without an end."""
        for number, sentence in enumerate(self._sentences):
            if length >= self._limits[sentence] and not self._finished[sentence]:
                score = float(self._scores[number, 0]) / length_penalty(length, self._exponent)
                self._finished[sentence].append((score, self._written[number, 0, 1:].tolist()))

    def _keep(self, numbers: list[int], origins: Tensor) -> None:
        """Go on with some of the sentences, each row with the state of the row that it comes from."""
        chosen = torch.tensor(numbers, dtype=torch.int64)
        fewer = len(numbers) < len(self._sentences)
        self._beginnings.keep((chosen[:, None] * self._beam + origins[chosen]).flatten(), fewer=fewer)
        if fewer:
            self._written, self._scores = self._written[chosen], self._scores[chosen]
            self._sentences = [self._sentences[number] for number in numbers]
