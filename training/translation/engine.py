"""The two graphs of a translator in ONNX Runtime: what a search runs on, and where the decoder looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.core.export import open_session
from training.translation.batches import source_batch
from training.translation.graph import (
    ATTENTION,
    CANDIDATES,
    LENGTHS,
    LOGPROBS,
    MEMORY,
    NEXT_STATE,
    PRESENT,
    STATE,
    TOKEN,
    TOKENS,
)
from training.translation.search import Beginnings
from training.translation.tokens import PAD_TOKEN, START_TOKEN

Arrays = dict[str, NDArray[Any]]


def encoder_inputs(sources: Sequence[Sequence[int]]) -> Arrays:
    """The encoder's inputs of sentences, each of tokens without special ones, filled up to a multiple of eight."""
    batch = source_batch(sources)
    tokens = batch.tokens.t().numpy()
    return {
        TOKENS: np.pad(tokens, ((0, 0), (0, -tokens.shape[1] % 8)), constant_values=PAD_TOKEN),
        LENGTHS: batch.lengths.numpy(),
    }


class GraphEngine:
    """An encoder and a decoder in ONNX files, on one thread.

    Args:
        encoder: path of the graph.
        decoder: path of the graph.
    """

    def __init__(self, encoder: Path, decoder: Path) -> None:
        self._encoder, self._decoder = open_session(encoder, threads=1), open_session(decoder, threads=1)
        (self._most,) = (one.shape[1] for one in self._decoder.get_outputs() if one.name == CANDIDATES)

    def begin(self, sources: Sequence[Sequence[int]], beam: int, candidates: int) -> Beginnings:
        """See `Engine`.

        Raises:
            ValueError: the decoder gives fewer candidates than are needed.
        """
        if candidates > self._most:
            raise ValueError(f"the decoder gives {self._most} candidates, and a beam of {beam} needs {candidates}")
        rows = np.repeat(np.arange(len(sources)), beam)
        return _GraphBeginnings(self, {name: array[rows] for name, array in self.encode(sources).items()})

    def encode(self, sources: Sequence[Sequence[int]]) -> Arrays:
        """What the decoder is given of sentences, each of tokens without special ones."""
        return self.read(encoder_inputs(sources))

    def read(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """The encoder's outputs by name."""
        names = (MEMORY, PRESENT, STATE)
        return dict(zip(names, self._encoder.run(names, dict(inputs)), strict=True))

    def decode(self, tokens: NDArray[np.int64], given: Mapping[str, NDArray[Any]]) -> Arrays:
        """The decoder's outputs by name, of `tokens` (rows,) and what else it is given."""
        names = (CANDIDATES, LOGPROBS, NEXT_STATE, ATTENTION)
        return dict(zip(names, self._decoder.run(names, {TOKEN: tokens, **given}), strict=True))

    def attention(self, source: Sequence[int], translation: Sequence[int]) -> NDArray[np.float32]:
        """Where the decoder looks as it writes `translation` and ends it (len(translation) + 1, len(source) + 1).

        Args:
            source: tokens without special ones.
            translation: the same.
        """
        given, looked = self.encode([source]), []
        for token in (START_TOKEN, *translation):
            outputs = self.decode(np.array([token]), given)
            given[STATE] = outputs[NEXT_STATE]
            looked.append(outputs[ATTENTION][0, : len(source) + 1])
        return np.stack(looked)


class _GraphBeginnings:
    def __init__(self, engine: GraphEngine, given: Arrays) -> None:
        self._engine, self._given = engine, given

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._engine.decode(tokens.numpy(), self._given)
        self._given[STATE] = outputs[NEXT_STATE]
        return torch.from_numpy(outputs[CANDIDATES]), torch.from_numpy(outputs[LOGPROBS])

    def keep(self, rows: Tensor, *, fewer: bool) -> None:
        moved = (STATE, MEMORY, PRESENT) if fewer else (STATE,)
        for name in moved:
            self._given[name] = self._given[name][rows.numpy()]
