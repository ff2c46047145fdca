"""What images are drawn from: latents of a seed, between two others, and of sums; for service and training.

A latent's numbers are from a standard normal distribution, so its length is close to the square root of how many
it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LARGEST_SEED = 2**63 - 1


def latents_of(seed: int, count: int, size: int) -> Floats:
    """The latents of a seed's first images, (count, size): each depends on the seed and its own number alone.

    Args:
        seed: 0..`LARGEST_SEED`.
        count: of images.
        size: numbers of a latent.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, number])).standard_normal(size, np.float32)
        for number in range(count)
    ]
    return np.stack(rows)


def between(start: Floats, end: Floats, steps: int) -> Floats:
    """Latents on the way from `start` (size,) to `end`, both among them: (steps, size).

    The way is along the sphere (White 2016, arXiv:1609.04468): what lies on the straight line between two latents is
    shorter than latents are. Where there is no angle between them, or no sphere, it is the straight line.

    Args:
        start: the first latent.
        end: the last one.
        steps: latents, at least 2.
    """
    shares = np.linspace(0.0, 1.0, steps)[:, None]
    one, other = start.astype(np.float64), end.astype(np.float64)
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    angle = np.arccos(np.clip(one @ other / lengths, -1.0, 1.0)) if lengths else 0.0
    if min(angle, np.pi - angle) < 1e-4:
        way = (1 - shares) * one + shares * other
    else:
        way = (np.sin((1 - shares) * angle) * one + np.sin(shares * angle) * other) / np.sin(angle)
    way[0], way[-1] = one, other
    return way.astype(np.float32)


def total(latents: Floats, weights: Sequence[float]) -> Floats:
    """The sum of latents (terms, size) by their weights, no longer than the longest of them: (size,).

    A sum of independent latents is longer than any that a generator has learnt to draw from; the sum of a latent, less
    itself, plus itself is that latent.
    """
    exact = latents.astype(np.float64)
    summed = np.asarray(weights, np.float64) @ exact
    length, most = np.linalg.norm(summed), np.linalg.norm(exact, axis=1).max()
    if length > most:
        summed *= most / length
    return summed.astype(np.float32)
