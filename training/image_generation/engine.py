"""The exported graphs, run as the server runs them: images in batches, each text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.latents import latents_of
from training.core.export import open_session
from training.image_generation.captions import token_ids
from training.image_generation.graph import CONDITION, GENERATOR, IMAGE, LATENT, TEXT, TOKENS
from training.image_generation.text import Reading
from training.image_generation.train import painted

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """What an image is drawn from: a latent (numbers,) and a condition (classes,)."""

    latent: Floats
    condition: Floats


class GraphEngine:
    """Runs the graphs of a bundle.

    Args:
        files: of the graphs, by role.
        buckets: numbers that n-grams are hashed to.
        labels: names of the classes.

    Attributes:
        latent: numbers of a latent.
        classes: numbers of a condition; 1 where there are no classes.
        labels: names of the classes.
        reads: whether there is a text encoder.
    """

    def __init__(self, files: Mapping[str, Path], buckets: int, labels: Sequence[str]) -> None:
        self._generator = open_session(files[GENERATOR])
        self._text = open_session(files[TEXT]) if TEXT in files else None
        self._buckets = buckets
        self._widths = {one.name: one.shape[1] for one in self._generator.get_inputs()}
        self.latent: int = self._widths[LATENT]
        self.classes: int = self._widths.get(CONDITION, 1)
        self.labels = labels
        self.reads = self._text is not None

    def paint(self, latents: Floats, conditions: Floats) -> Pixels:
        """Draw images (N, height, width, channels) from latents (N, numbers) and conditions (N, classes)."""
        feed = {LATENT: latents, CONDITION: conditions}
        (pixels,) = self._generator.run([IMAGE], {name: feed[name] for name in self._widths})
        return np.asarray(pixels, np.uint8)

    def draw_pixels(self, labels: Tensor, draw: torch.Generator, truncation: float) -> Tensor:
        """What `train.draw_pixels` does, drawn by the graph: bytes (N, channels, height, width)."""

        def paint(latents: Tensor, conditions: Tensor) -> Tensor:
            return torch.from_numpy(self.paint(latents.numpy(), conditions.numpy()).transpose(0, 3, 1, 2).copy())

        return painted(paint, labels, draw, latent=self.latent, classes=self.classes, truncation=truncation)

    def read(self, texts: Sequence[str]) -> Reading:
        """Read `texts`, each alone and at its own length."""
        if self._text is None:
            raise ValueError("these graphs read no texts")
        answers: list[list[Any]] = [
            self._text.run(None, {TOKENS: np.array([token_ids(text, self._buckets)])}) for text in texts
        ]
        conditions, meant = (torch.from_numpy(np.concatenate(some)) for some in zip(*answers, strict=True))
        return Reading(conditions, meant)

    def condition(self, label: str) -> Floats:
        """The condition of a class (classes,)."""
        condition: Floats = np.eye(self.classes, dtype=np.float32)[self.labels.index(label)]
        return condition

    def of_seed(self, seed: int, truncation: float, number: int = 0) -> Floats:
        """The latent (numbers,) of a seed's image, as the server draws it."""
        latent: Floats = latents_of(seed, number + 1, self.latent)[number] * np.float32(truncation)
        return latent
