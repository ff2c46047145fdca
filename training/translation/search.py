"""Search for a translation: the most likely token after token, or a beam of several beginnings at a time.

A translation's score is its log-likelihood over the length penalty of Wu et al. 2016 (arXiv:1609.08144, section 7). A
search ends when none of its beginnings would be better than what is finished if it ended with its next token; it
depends on no other sentence's, but for the rounding of sums in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from training.core.config import ConfigModel
from training.translation.batches import source_batch
from training.translation.model import Memory, State, Translator
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN

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
    return 2 * tokens + 10


def length_penalty(tokens: int, exponent: float) -> float:
    """That by which the log-likelihood of a translation of `tokens`, the end token included, is divided."""
    return float(((5 + tokens) / 6) ** exponent)


@torch.no_grad()
def translate(model: Translator, sources: Sequence[Sequence[int]], config: SearchConfig) -> list[list[int]]:
    """Translate `sources`, each without special tokens, as the answers are.

    Args:
        model: in evaluation mode.
        sources: tokens of sentences.
        config: how to search.
    """
    found: list[list[int]] = [[] for _ in sources]
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    for begin in range(0, len(order), _SENTENCES):
        places = order[begin : begin + _SENTENCES]
        search = _Search(model, [sources[place] for place in places], config)
        for place, translation in zip(places, search.run(), strict=True):
            found[place] = translation
    return found


class _Search:
    """Some sentences side by side, `beam` rows for each that is not finished.

    Args:
        model: in evaluation mode.
        sources: tokens of sentences.
        config: how to search.
    """

    def __init__(self, model: Translator, sources: Sequence[Sequence[int]], config: SearchConfig) -> None:
        self._model, self._beam = model, config.beam
        self._exponent = config.length_penalty if config.beam > 1 else 0.0
        device = model.token_bias.device
        beam, count = config.beam, len(sources)
        memory, state = model.encode(source_batch(sources).to(device))
        rows = torch.arange(count, device=device).repeat_interleave(beam)
        self._memory: Memory = memory.rows(rows)
        self._state: State = (state[0][rows], state[1][rows])
        self._limits = [longest_translation(len(source)) for source in sources]
        self._finished: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
        self._sentences = list(range(count))  # that are searched on
        self._written = torch.full((count, beam, 1), START_TOKEN, device=device)
        self._scores = torch.full((count, beam), float("-inf"), device=device)
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
        model, beam = self._model, self._beam
        last = self._written[:, :, -1].reshape(1, -1)
        features, self._state, _ = model.decode(last, self._memory, self._state)
        logits = model.score(features[0]).float()
        logits[:, [PAD_TOKEN, START_TOKEN]] = float("-inf")
        vocabulary = logits.shape[1]
        likelihoods = torch.log_softmax(logits, 1).view(-1, beam, vocabulary)
        best = (self._scores[:, :, None] + likelihoods).flatten(1).topk(2 * beam, dim=1)
        return best.values, best.indices % vocabulary, best.indices // vocabulary

    def _cut_off(self, length: int) -> None:
        """Finish what has come to its limit without an end."""
        for number, sentence in enumerate(self._sentences):
            if length >= self._limits[sentence] and not self._finished[sentence]:
                score = float(self._scores[number, 0]) / length_penalty(length, self._exponent)
                self._finished[sentence].append((score, self._written[number, 0, 1:].tolist()))

    def _keep(self, numbers: list[int], origins: Tensor) -> None:
        """Go on with some of the sentences, each row with the state of the row that it comes from."""
        chosen = torch.tensor(numbers, dtype=torch.int64, device=origins.device)
        rows = (chosen[:, None] * self._beam + origins[chosen]).flatten()
        self._state = (self._state[0][rows], self._state[1][rows])
        if len(numbers) < len(self._sentences):
            self._memory = self._memory.rows(rows)
            self._written, self._scores = self._written[chosen], self._scores[chosen]
            self._sentences = [self._sentences[number] for number in numbers]
