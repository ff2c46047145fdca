"""What must be true of a generator's and a text encoder's graphs before they ship."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.latents import latents_of
from service.ngrams import PAD
from training.core.checks import Feed, require_declared_sizes, require_independent_rows, require_shapes
from training.core.export import open_session, tensors_of
from training.image_generation.captions import MOST_NGRAMS, token_ids
from training.image_generation.data import to_pixels
from training.image_generation.graph import (
    CONDITION,
    CONDITIONS,
    DRAWN,
    IMAGE,
    LATENT,
    MEANT,
    TOKENS,
    TextGraph,
    generator_shapes,
    text_shapes,
    with_drawn,
)
from training.image_generation.model import Generator
from training.image_generation.text import TextEncoder, padded

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 7, 64)

_IMAGE_AGREEMENT = 1e-4
"""Largest difference between PyTorch and ONNX Runtime in an image's numbers, -1..1: an eightieth of a byte."""

_READING_AGREEMENT = 1e-5
"""Largest difference of a text's reading, 0..1, between PyTorch and ONNX Runtime, and between lengths."""

_LENGTHS = (1, 2, 3, 17, 200, MOST_NGRAMS)


def check_generator(path: Path, network: Generator, seed: int) -> None:
    """Refuse a generator's graph that is not what a server may rely on.

    Its axes are declared as they are; it draws what PyTorch draws at several batch sizes, and its bytes are the nearest
    to that; and a row has the same bits alone and in any batch. This is asked of the numbers before they become bytes:
    where those differ in their last digits only, a byte will differ one day.

    Args:
        path: of the graph.
        network: in PyTorch, on the CPU.
        seed: of what it is tried with.

    Raises:
        ValueError: it is not so; the reason names the graph and the tensor.
    """
    inputs = generator_rows(network, max(BATCH_SIZES), seed)
    require_shapes(path, generator_shapes(network))
    (image,) = tensors_of(path)[1]
    if image.datatype != "UINT8":
        raise ValueError(f"{path.name}: {IMAGE!r} is {image.datatype}, not UINT8")
    require_declared_sizes(path, inputs, BATCH_SIZES)
    with tempfile.TemporaryDirectory() as folder:
        telling = Path(folder) / path.name
        with_drawn(path, telling)
        _require_what_pytorch_draws(path, telling, network, inputs)
        require_independent_rows(telling, inputs, seed=seed)


def generator_rows(network: Generator, count: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Inputs to try a generator with: of each class, of mixtures, and of sums with weights below zero."""
    draw = np.random.default_rng(seed)
    latents = latents_of(seed, count, network.latent)
    if network.classes == 1:
        return {LATENT: latents}
    classes = np.eye(network.classes, dtype=np.float32)
    conditions = classes[np.arange(count) % network.classes]
    kinds = np.arange(count) % 4
    mixed, summed = kinds == 2, kinds == 3
    conditions[mixed] = draw.dirichlet(np.ones(network.classes), mixed.sum())
    plus, minus = (draw.integers(0, network.classes, summed.sum()) for _ in range(2))
    conditions[summed] += classes[plus] - classes[minus]
    return {LATENT: latents, CONDITION: conditions}


def check_text(path: Path, encoder: TextEncoder, texts: Sequence[str], seed: int) -> None:
    """Refuse a text encoder's graph that is not what a server may rely on.

    Its axes are declared as they are; it reads as PyTorch does at several batch sizes and lengths, and a text alike at
    its own length and filled up.

    Args:
        path: of the graph.
        encoder: in PyTorch, on the CPU.
        texts: that it is tried with, beside rows drawn at random.
        seed: of those.

    Raises:
        ValueError: it is not so; the reason names the graph.
    """
    require_shapes(path, text_shapes(encoder))
    buckets, draw = encoder.embed.num_embeddings, np.random.default_rng(seed)
    rows = [token_ids(text, buckets) for text in texts]
    rows += [draw.integers(PAD + 1, buckets, length).tolist() for length in _LENGTHS]
    rows = [rows[place % len(rows)] for place in range(max(len(rows), *BATCH_SIZES))]
    everything = padded(rows).numpy()
    require_declared_sizes(path, {TOKENS: everything}, BATCH_SIZES)
    session, graph = open_session(path), TextGraph(encoder)

    def answers(tokens: NDArray[np.int64]) -> list[NDArray[Any]]:
        return list(session.run([CONDITIONS, MEANT], {TOKENS: tokens}))

    @torch.no_grad()
    def expected(tokens: NDArray[np.int64]) -> list[NDArray[Any]]:
        return [one.numpy() for one in graph(torch.from_numpy(tokens))]

    alone = [np.concatenate(some) for some in zip(*(answers(np.array([row])) for row in rows), strict=True)]
    beside = [*answers(everything)]
    apart = _largest(alone, beside)
    if not apart <= _READING_AGREEMENT:  # not so either for NaN
        raise ValueError(
            f"{path.name} reads a text filled up otherwise than alone, by {apart:.3g}; allowed is {_READING_AGREEMENT}"
        )
    batches = [padded(rows[-size:]).numpy() for size in BATCH_SIZES] + [np.array([row]) for row in rows]
    difference = float(np.max([_largest(answers(batch), expected(batch)) for batch in batches]))
    if not difference <= _READING_AGREEMENT:
        raise ValueError(
            f"{path.name}: ONNX Runtime differs from PyTorch by {difference:.3g}; allowed is {_READING_AGREEMENT}"
        )
    logger.info("texts: ONNX Runtime and PyTorch agree to %.2g, a text alone and filled up to %.2g", difference, apart)


@torch.no_grad()
def _require_what_pytorch_draws(path: Path, telling: Path, network: Generator, inputs: Feed) -> None:
    """Compare a graph with PyTorch; `telling` is the same graph with the image before it becomes bytes."""
    session, watched = open_session(path), open_session(telling)
    worst, other_bytes, all_bytes = 0.0, 0, 0
    for size in BATCH_SIZES:
        feed = {name: array[:size] for name, array in inputs.items()}
        (pixels,) = session.run([IMAGE], feed)
        (drawn,) = watched.run([DRAWN], feed)
        latents, conditions = (torch.from_numpy(feed.get(name, np.ones((size, 1), np.float32))) for name in _GIVEN)
        expected = network(latents, conditions)
        worst = float(np.maximum(worst, np.abs(drawn - expected.numpy()).max()))  # NaN where there is one
        if not worst <= _IMAGE_AGREEMENT:
            raise ValueError(
                f"{path.name}: ONNX Runtime differs from PyTorch by {worst:.3g}; allowed is {_IMAGE_AGREEMENT}"
            )
        if not np.array_equal(pixels, _bytes_of(torch.from_numpy(drawn))):
            raise ValueError(f"{path.name}: {IMAGE!r} is not the bytes nearest to {DRAWN!r}")
        other_bytes += int((pixels != _bytes_of(expected)).sum())
        all_bytes += pixels.size
    logger.info(
        "images: ONNX Runtime and PyTorch agree to %.2g at batch %s; %d of %d bytes differ, by one",
        worst, ", ".join(map(str, BATCH_SIZES)), other_bytes, all_bytes,
    )  # fmt: skip


_GIVEN = (LATENT, CONDITION)


def _bytes_of(drawn: torch.Tensor) -> NDArray[np.uint8]:
    return to_pixels(drawn).permute(0, 2, 3, 1).numpy()


def _largest(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """The largest difference of an output; NaN where there is one."""
    return float(np.max([np.abs(one - other).max() for one, other in zip(found, expected, strict=True)]))
