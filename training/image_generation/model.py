"""Generators and discriminators: a plain DCGAN, and the class-conditional pair that the recipe trains.

Both generators are one class. From a latent and a condition a linear layer makes a small image of many channels, which
transposed convolutions double until it has the size wanted; the layers at full size are thin, for they cost the most.
A condition is a weight for each class, so classes can be mixed; an unconditional network is one of a single class.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from training.core.config import ConfigModel

_BASES, _LARGEST = (5, 6, 7, 8), 64
_SLOPE = 0.2


class ModelConfig(ConfigModel):
    """Which networks.

    Attributes:
        recipe: `dcgan` (Radford et al. 2015, arXiv:1511.06434: batch normalisation, no condition), or `projection`
            (Miyato and Koyama 2018, arXiv:1802.05637: class-conditional normalisation, spectral norm, projection).
        conditional: whether the class says what is drawn; otherwise all images are of one class.
        latent: numbers of a latent, each from a standard normal distribution.
        generator: channels at full size; twice as many at each smaller size, up to `widest`.
        discriminator: channels at half the size; twice as many at each smaller size, up to `widest`.
        widest: most channels of a layer.
    """

    recipe: Literal["projection", "dcgan"] = "projection"
    conditional: bool = True
    latent: int = Field(default=64, ge=1)
    generator: int = Field(default=32, ge=1)
    discriminator: int = Field(default=64, ge=1)
    widest: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _dcgan_has_no_condition(self) -> Self:
        if self.recipe == "dcgan" and self.conditional:
            raise ValueError("the recipe dcgan has no condition: set model.conditional = false")
        return self


def doublings(size: int) -> int:
    """How often an image of 5 to 8 pixels a side is doubled to one of `size`.

    Raises:
        ValueError: no such image can be doubled to `size`, or `size` is over 64.
    """
    base, count = size, 0
    while base > _BASES[-1] and base % 2 == 0:
        base, count = base // 2, count + 1
    if base not in _BASES or not count or size > _LARGEST:
        raise ValueError(
            f"images of {size} x {size} can't be drawn: the size must be 5, 6, 7 or 8 times a power of two, "
            f"and {_LARGEST} at most"
        )
    return count


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift are the condition's (Dumoulin et al. 2016, arXiv:1610.07629).

    In evaluation mode it is a fixed scale and shift for each channel and class: a row does not depend on the others.

    Args:
        channels: of the image.
        classes: numbers of a condition.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(classes, channels, bias=False)
        self.shift = nn.Linear(classes, channels, bias=False)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise (N, channels, H, W) by conditions (N, classes)."""
        scale, shift = (one(condition)[:, :, None, None] for one in (self.scale, self.shift))
        y: Tensor = self.norm(x) * scale + shift
        return y


class UpBlock(nn.Module):
    """Double the size of an image; `refine` adds a convolution at the new size."""

    def __init__(self, channels_in: int, channels: int, classes: int, *, refine: bool) -> None:
        super().__init__()
        self.norm = ConditionalNorm(channels_in, classes)
        self.grow = nn.ConvTranspose2d(channels_in, channels, 4, 2, 1, bias=False)
        self.refine_norm = ConditionalNorm(channels, classes) if refine else None
        self.refine = nn.Conv2d(channels, channels, 3, padding=1, bias=False) if refine else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels, 2 H, 2 W)."""
        y: Tensor = self.grow(functional.relu(self.norm(x, condition)))
        if self.refine is not None and self.refine_norm is not None:
            y = self.refine(functional.relu(self.refine_norm(y, condition)))
        return y


class Generator(nn.Module):
    """Draws images.

    Args:
        config: see `ModelConfig`.
        size: pixels a side.
        channels: of an image, 1 or 3.
        classes: numbers of a condition.

    Raises:
        ValueError: images of that size can't be drawn.
    """

    def __init__(self, config: ModelConfig, *, size: int, channels: int, classes: int) -> None:
        super().__init__()
        count = doublings(size)
        widths = [min(config.widest, config.generator * 2**level) for level in range(count, -1, -1)]
        self.latent, self.classes, self.base = config.latent, classes, size // 2**count
        self.start = nn.Linear(config.latent + classes, widths[0] * self.base**2, bias=False)
        self.blocks = nn.ModuleList(
            UpBlock(before, after, classes, refine=config.recipe == "projection" and level < count - 1)
            for level, (before, after) in enumerate(pairwise(widths))
        )
        self.norm = ConditionalNorm(widths[-1], classes)
        self.draw = nn.Conv2d(widths[-1], channels, 3, padding=1)
        _initialise(self)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Map latents (N, latent) and conditions (N, classes) to images (N, channels, size, size), -1..1."""
        x = self.start(torch.cat([latent, condition], 1)).unflatten(1, (-1, self.base, self.base))
        for block in self.blocks:
            x = block(x, condition)
        image: Tensor = self.draw(functional.relu(self.norm(x, condition))).tanh()
        return image


class Discriminator(nn.Module):
    """Tells real images from drawn ones.

    By the recipe `projection` the answer is linear in the features and has a term for the class; every layer has the
    spectral norm 1 (Miyato et al. 2018, arXiv:1802.05957). By the recipe `dcgan` all layers but the first are batch
    normalised instead, and the class is not looked at.

    Args:
        config: see `ModelConfig`.
        size: pixels a side.
        channels: of an image, 1 or 3.
        classes: numbers of a condition.

    Raises:
        ValueError: images of that size can't be drawn.
    """

    def __init__(self, config: ModelConfig, *, size: int, channels: int, classes: int) -> None:
        super().__init__()
        plain = config.recipe == "dcgan"
        count = doublings(size)
        widths = [channels, *(min(config.widest, config.discriminator * 2**level) for level in range(count))]
        layers: list[nn.Module] = []
        for level, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=not plain or not level)]
            if plain and level:
                layers += [nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(_SLOPE)]
            if not plain:
                layers += [nn.Conv2d(after, after, 3, padding=1), nn.LeakyReLU(_SLOPE)]
        self.features = nn.Sequential(*layers)
        base = size // 2**count
        self.answer = nn.Linear(widths[-1] * base**2 if plain else widths[-1], 1)
        self.projection = None if plain else nn.Linear(classes, widths[-1], bias=False)
        _initialise(self)
        if not plain:
            for module in list(self.modules()):
                if isinstance(module, nn.Conv2d | nn.Linear):
                    spectral_norm(module)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Map images (N, channels, size, size) and conditions (N, classes) to answers (N,): real is above zero."""
        x = self.features(image)
        answer: Tensor
        if self.projection is None:
            answer = self.answer(x.flatten(1))[:, 0]
            return answer
        x = x.float().sum((2, 3))
        answer = self.answer(x)[:, 0] + (self.projection(condition) * x).sum(1)
        return answer


def count_parameters(model: nn.Module) -> int:
    """How many numbers of `model` are learnt."""
    return sum(parameter.numel() for parameter in model.parameters())


def _initialise(model: nn.Module) -> None:
    """Normal weights of deviation 0.02, as in DCGAN's paper, in all convolutions and in the first linear layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
    if isinstance(model, Generator):
        nn.init.normal_(model.start.weight, std=0.02)
