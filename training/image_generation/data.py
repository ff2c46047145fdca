"""Real images for the GAN: the data sets of image classification, their bytes as numbers from -1 to 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.core.seeding import generator
from training.image_classification.data import DataConfig, DataSet, load_data
from training.image_generation.model import doublings


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        images: real ones (N, C, H, W), float32, -1..1.
        conditions: of them, and of the images that are drawn beside them (N, classes).
        latents: of those (N, latent).
        other_conditions: of the images by which the generator learns (N, classes).
        other_latents: of those (N, latent).
    """

    images: Tensor
    conditions: Tensor
    latents: Tensor
    other_conditions: Tensor
    other_latents: Tensor


def load_pictures(config: DataConfig) -> DataSet:
    """Load the data set of `config`.

    Raises:
        ValueError: its images have a size that can't be drawn, or see `load_data`.
        OSError: a file can't be read or downloaded.
    """
    data = load_data(config)
    height, width = data.train.pixels.shape[2:]
    if height != width:
        raise ValueError(f"images must be square to be drawn, not {width} x {height}")
    doublings(width)
    return data


def to_images(pixels: Tensor) -> Tensor:
    """Map bytes to float32 from -1 (0) to 1 (255)."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Map -1..1 to the nearest bytes; what is outside is cut off."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def conditions_of(labels: Tensor, classes: int) -> Tensor:
    """Map class numbers (N,) to conditions (N, classes); with a single class the numbers mean nothing."""
    return functional.one_hot(labels if classes > 1 else torch.zeros_like(labels), classes).float()


def draw_latents(count: int, size: int, draw: torch.Generator) -> Tensor:
    """Latents (count, size) from a standard normal distribution."""
    return torch.randn(count, size, generator=draw)


def training_batches(
    data: DataSet, size: int, *, classes: int, latent: int, seed: int, epoch: int, skip: int, device: torch.device
) -> Iterator[Batch]:
    """Yield an epoch's batches after the first `skip`.

    What is yielded is a function of (seed, epoch, step) alone. Classes that are drawn are as frequent as in the
    training part.
    """
    order = torch.randperm(len(data.train), generator=generator(seed, "order", epoch))
    for step in range(skip, len(data.train) // size):
        chosen = order[step * size : (step + 1) * size]
        draw = generator(seed, "drawn", epoch, step)
        others = data.train.labels[torch.randint(len(data.train), (size,), generator=draw)]
        yield Batch(
            images=to_images(data.train.pixels[chosen].to(device)),
            conditions=conditions_of(data.train.labels[chosen], classes).to(device),
            latents=draw_latents(size, latent, draw).to(device),
            other_conditions=conditions_of(others, classes).to(device),
            other_latents=draw_latents(size, latent, draw).to(device),
        )
