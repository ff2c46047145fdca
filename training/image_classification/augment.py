"""Random changes of training images, whole batches at a time: flip, crop, random erasing."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.core.config import ConfigModel


class AugmentConfig(ConfigModel):
    """How much is changed.

    Attributes:
        flip: whether half of the images are mirrored left to right.
        crop_padding: pixels of border added before a crop of the original size is cut out at random; 0 = no crop.
        erase_probability: how often an image loses a rectangle (Zhong et al. 2017, arXiv:1708.04896).
        erase_epochs: epochs after which nothing is erased any more, so that the network ends on whole images.
        erase_area: smallest and largest part of the image's area that is erased.
        erase_aspect: smallest height / width of the rectangle; the largest is its inverse.
    """

    flip: bool = True
    crop_padding: int = 2
    erase_probability: float = 0.5
    erase_epochs: int | None = None
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: float = 0.3


def augment(images: Tensor, config: AugmentConfig, draw: torch.Generator) -> Tensor:
    """Return changed copies of `images` (N, C, H, W), normalised float32; each is changed on its own."""
    if config.flip:
        mirrored = torch.rand(len(images), generator=draw) < 0.5
        images = torch.where(mirrored[:, None, None, None].to(images.device), images.flip(3), images)
    if config.crop_padding:
        images = _crop(images, config.crop_padding, draw)
    if config.erase_probability:
        images = _erase(images, config, draw)
    return images


def _crop(images: Tensor, padding: int, draw: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4, value=float(images.amin()))
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=draw).to(images.device)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[which, channel, rows, columns]


def _erase(images: Tensor, config: AugmentConfig, draw: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    chosen, area, aspect, y, x = torch.rand(5, count, generator=draw)
    smallest, largest = config.erase_area
    area = (smallest + area * (largest - smallest)) * height * width
    aspect = torch.exp((2 * aspect - 1) * math.log(config.erase_aspect))
    high = (area * aspect).sqrt().round().clamp(1, height - 1)
    wide = (area / aspect).sqrt().round().clamp(1, width - 1)
    top, left = (y * (height - high + 1)).floor(), (x * (width - wide + 1)).floor()
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    inside_rows = (rows >= top[:, None, None]) & (rows < (top + high)[:, None, None])
    inside_columns = (columns >= left[:, None, None]) & (columns < (left + wide)[:, None, None])
    erased = inside_rows & inside_columns & (chosen < config.erase_probability)[:, None, None]
    noise = torch.randn(count, channels, height, width, generator=draw)
    return torch.where(erased[:, None].to(images.device), noise.to(images.device), images)
