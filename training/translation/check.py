"""What must be true of a translator's graphs before they ship; and what PyTorch answers in their place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.core.checks import (
    require_declared_sizes,
    require_independent_rows,
    require_padding_without_effect,
    require_quantised,
    require_seven_bits,
    require_shapes,
)
from training.core.golden import difference_of
from training.translation.batches import Sources
from training.translation.engine import Arrays, GraphEngine
from training.translation.graph import (
    ATTENTION,
    CANDIDATES,
    DECODER,
    ENCODER,
    LENGTHS,
    LOGPROBS,
    MEMORY,
    NEXT_STATE,
    PRESENT,
    SOURCE_AXIS,
    STATE,
    STEP,
    TOKEN,
    TOKENS,
    candidates_of,
    decoder_shapes,
    encoder_shapes,
)
from training.translation.model import Memory, Translator
from training.translation.search import log_probabilities
from training.translation.tokens import START_TOKEN

logger = logging.getLogger(__name__)

_AGREEMENT = 1e-3
"""Largest difference between PyTorch and ONNX Runtime in float32, in any output, after any number of steps."""

_BATCH_SIZES, _CARRIED_STEPS = (1, 2, 7, 64), 40
_ROWS, _NEIGHBOURS = 64, 24


def check(files: Mapping[str, Path], model: Translator, *, quantised: bool, sizes: Sequence[int], seed: int) -> None:
    """Refuse graphs that are not what a server may rely on.

    Their axes are declared as they are; a row has the same bits alone and in a batch, and to whichever of the sizes its
    sentence is filled up; in float32 they answer as PyTorch does at several batch sizes and lengths over many carried
    steps, and in int8 they multiply no floats with weights, and by seven bits.

    Args:
        files: the graphs, by role.
        model: in PyTorch, on the CPU.
        quantised: whether they are int8.
        sizes: to which sentences are filled up.
        seed: of what they are tried with.

    Raises:
        ValueError: it is not so; the reason names the graph and the tensor.
    """
    sources, lengths = random_sources(len(model.token_bias), _ROWS, sizes, seed)
    encoder, decoder = files[ENCODER], files[DECODER]
    require_shapes(encoder, encoder_shapes(model))
    require_shapes(decoder, decoder_shapes(model))
    written = random_tokens(len(model.token_bias), (_CARRIED_STEPS, _ROWS), seed + 1)
    for path, rows in ((encoder, sources), (decoder, _decoder_rows(model, sources, written[:3]))):
        require_declared_sizes(path, rows, _BATCH_SIZES)
        require_padding_without_effect(path, rows, lengths, axis=SOURCE_AXIS, sizes=sizes, seed=seed)
        require_independent_rows(path, {name: array[:_NEIGHBOURS] for name, array in rows.items()}, seed=seed)
        if quantised:
            require_quantised(path)
            require_seven_bits(path)
    if quantised:
        return
    difference = carried_difference(GraphEngine(encoder, decoder), model, sources, written)
    if not difference <= _AGREEMENT:  # not so either for NaN
        raise ValueError(f"ONNX Runtime differs from PyTorch by {difference:.3g}; allowed is {_AGREEMENT}")
    logger.info(
        "ONNX Runtime and PyTorch agree to %.2g over %d steps at batch %s",
        difference, len(written), ", ".join(map(str, _BATCH_SIZES)),
    )  # fmt: skip


def carried_difference(
    engine: GraphEngine, model: Translator, sources: Mapping[str, NDArray[Any]], written: NDArray[np.int64]
) -> float:
    """The largest difference of an output between PyTorch and the graphs, each carrying its own state.

    Args:
        engine: the graphs.
        model: in PyTorch.
        sources: the encoder's inputs, as many rows as the largest batch that is tried.
        written: tokens that the decoder reads (steps, rows).
    """
    worst = 0.0
    for size in _BATCH_SIZES:
        inputs = {name: array[:size] for name, array in sources.items()}
        found, expected = engine.read(inputs), network_read(model, inputs)
        worst = float(np.maximum(worst, difference_of(found, expected)))  # NaN where there is one
        for tokens in written[:, :size]:
            told, right = engine.decode(tokens, found), network_decode(model, tokens, expected)
            worst = float(np.maximum(worst, difference_of(told, right, STEP.candidates)))
            found[STATE], expected[STATE] = told[NEXT_STATE], right[NEXT_STATE]
    return worst


@torch.no_grad()
def network_read(model: Translator, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """What PyTorch answers in the encoder's place."""
    lengths = torch.from_numpy(inputs[LENGTHS])
    memory, state = model.encode(Sources(torch.from_numpy(inputs[TOKENS]).t().contiguous(), lengths))
    present = ~memory.padding
    return {
        MEMORY: (memory.outputs * present[:, :, None]).numpy(),
        PRESENT: present.numpy(),
        STATE: torch.stack(state, 1).flatten(1).numpy(),
    }


@torch.no_grad()
def network_decode(model: Translator, tokens: NDArray[np.int64], given: Mapping[str, NDArray[Any]]) -> Arrays:
    """What PyTorch answers in the decoder's place."""
    config = model.config
    state = torch.from_numpy(given[STATE]).unflatten(1, (2, config.decoder_layers, config.decoder_hidden))
    memory = Memory(torch.from_numpy(given[MEMORY]), ~torch.from_numpy(given[PRESENT]))
    features, after, attention = model.decode(torch.from_numpy(tokens)[None], memory, (state[:, 0], state[:, 1]))
    best = log_probabilities(model, features[0]).topk(candidates_of(model), dim=1)
    return {
        CANDIDATES: best.indices.numpy(),
        LOGPROBS: best.values.numpy(),
        NEXT_STATE: torch.stack(after, 1).flatten(1).numpy(),
        ATTENTION: attention[:, 0].numpy(),
    }


def random_sources(vocabulary: int, count: int, sizes: Sequence[int], seed: int) -> tuple[Arrays, list[int]]:
    """Sentences of nothing in particular, of every length from 1 on, filled up with more of it.

    Returns:
        the encoder's inputs, of which tokens are (count, the largest of sizes); and the lengths.
    """
    draw = np.random.default_rng(seed)
    lengths = draw.permutation(np.linspace(1, sizes[-1], count).round().astype(np.int64))
    return {TOKENS: random_tokens(vocabulary, (count, sizes[-1]), seed), LENGTHS: lengths}, lengths.tolist()


def random_tokens(vocabulary: int, shape: tuple[int, int], seed: int) -> NDArray[np.int64]:
    """Tokens of nothing in particular."""
    return np.random.default_rng(seed).integers(0, vocabulary, shape)


def _decoder_rows(model: Translator, sources: Arrays, written: NDArray[np.int64]) -> Arrays:
    """The decoder's inputs after some steps (steps, rows), but for the first row, which begins."""
    given = network_read(model, sources)
    begin = given[STATE][0]
    for tokens in written[:-1]:
        given[STATE] = network_decode(model, tokens, given)[NEXT_STATE]
    tokens = written[-1].copy()
    given[STATE][0], tokens[0] = begin, START_TOKEN
    return {TOKEN: tokens, **given}
