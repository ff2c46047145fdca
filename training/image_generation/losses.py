"""What generator and discriminator are trained by: two losses, a gradient penalty, and changes that both images see."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Recipe = Literal["projection", "dcgan"]


def discriminator_loss(real: Tensor, drawn: Tensor, recipe: Recipe) -> Tensor:
    """The loss of answers (N,) to real images and to drawn ones.

    `projection` has the hinge loss (Lim and Ye 2017, arXiv:1705.02894), `dcgan` the cross entropy.
    """
    if recipe == "dcgan":
        return functional.softplus(-real).mean() + functional.softplus(drawn).mean()
    return functional.relu(1 - real).mean() + functional.relu(1 + drawn).mean()


def generator_loss(drawn: Tensor, recipe: Recipe) -> Tensor:
    """The loss of the generator whose images get the answers `drawn` (N,)."""
    return functional.softplus(-drawn).mean() if recipe == "dcgan" else -drawn.mean()


def gradient_penalty(discriminator: nn.Module, images: Tensor, condition: Tensor) -> Tensor:
    """R1: the squared gradient of the answers to real images, its mean (Mescheder et al. 2018, arXiv:1801.04406)."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images, condition).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def changed(images: Tensor, shift: float, cutout: float, draw: torch.Generator) -> Tensor:
    """Shift images and cut squares out of them, so that gradients pass (Zhao et al. 2020, arXiv:2006.10738).

    Args:
        images: (N, C, H, W), -1..1; each is changed on its own.
        shift: how far, as a share of a side, at most; what comes in is 0.
        cutout: side of the square that becomes 0, as a share of a side.
        draw: where randomness comes from.
    """
    count, channels, height, width = images.shape
    device = images.device
    if shift:
        most = torch.tensor([round(height * shift), round(width * shift)])
        top, left = ((torch.rand(count, 2, generator=draw) * (2 * most + 1)).long().T).to(device)
        high, wide = (int(one) for one in most)
        padded = functional.pad(images, (wide, wide, high, high))
        rows = (top[:, None] + torch.arange(height, device=device))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width, device=device))[:, None, None, :]
        which = torch.arange(count, device=device)[:, None, None, None]
        images = padded[which, torch.arange(channels, device=device)[None, :, None, None], rows, columns]
    if cutout:
        sides = torch.tensor([height, width])
        cut = (sides * cutout).round()
        top, left = (torch.rand(count, 2, generator=draw) * (sides - cut + 1)).floor().T
        rows, columns = torch.arange(height), torch.arange(width)
        inside_rows = (rows >= top[:, None]) & (rows < top[:, None] + cut[0])
        inside_columns = (columns >= left[:, None]) & (columns < left[:, None] + cut[1])
        kept = ~(inside_rows[:, :, None] & inside_columns[:, None, :])[:, None].to(device)
        images = images * kept
    return images
