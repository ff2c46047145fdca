"""Figures of drawn images: what a judge says of them, the Fréchet distance of its features, nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 250


def label_agreement(probabilities: Tensor, labels: Tensor) -> float:
    """The share of images whose likeliest class by the judge (N, classes) is the one asked for (N,), 0..1."""
    return float((probabilities.argmax(1) == labels).float().mean())


def label_entropy(probabilities: Tensor) -> float:
    """The entropy of the classes that the judge (N, classes) sees, all images together, in bits.

    It is log2(classes) where all are drawn alike often, and falls to 0 when a generator comes to draw one thing only.
    """
    shares = probabilities.double().mean(0)
    return float(torch.special.entr(shares).sum() / math.log(2))


def spread_within_classes(features: Tensor, labels: Tensor) -> float:
    """How far features (N, width) lie from the mean of their class (N,): the mean squared distance."""
    total = 0.0
    for label in labels.unique():
        members = features[labels == label].double()
        total += float((members - members.mean(0)).square().sum())
    return total / len(labels)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The Fréchet distance of two normal distributions, fitted to features (N, width) and (M, width).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Heusel et al. 2017, arXiv:1706.08500), in double precision. The
    trace of the square root is that of ``(C1^(1/2) C2 C1^(1/2))^(1/2)``, which is symmetric: its eigenvalues are real.

    Raises:
        ValueError: a side has fewer than two rows.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a covariance needs two rows at least")
    (mean1, covariance1), (mean2, covariance2) = (_moments(side.double()) for side in (first, second))
    values, vectors = torch.linalg.eigh(covariance1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(0.0, float(distance))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


@dataclass(frozen=True)
class Nearest:
    """Distances of images to the training image nearest to each.

    Attributes:
        distances: root mean squared difference of pixels (N,), 0..1 of the whole range of brightness.
        indices: of that training image (N,).
    """

    distances: Tensor
    indices: Tensor


def nearest(pixels: Tensor, train: Tensor) -> Nearest:
    """Find, for each of `pixels` (N, C, H, W), the nearest of `train` (M, C, H, W); both are bytes."""
    # Bytes, their squares' sums and their products are whole numbers, and exact in double precision.
    everything = train.flatten(1).float()
    norms = everything.double().square().sum(1)
    distances, indices = [], []
    for some in pixels.flatten(1).float().split(_AT_ONCE):
        squared = some.double().square().sum(1)[:, None] + norms - 2 * (some @ everything.T).double()
        _, index = squared.min(1)
        difference = some - everything[index]
        distances.append(difference.square().mean(1).sqrt() / 255)
        indices.append(index)
    return Nearest(torch.cat(distances), torch.cat(indices))


def quantiles(values: Tensor) -> dict[str, float]:
    """What is written down of distances: mean, smallest, the 1st and the 10th percentile, median."""
    low, tenth, median = torch.quantile(values, torch.tensor([0.01, 0.1, 0.5])).tolist()
    return {
        "mean": float(values.mean()),
        "smallest": float(values.min()),
        "percentile_1": low,
        "percentile_10": tenth,
        "median": median,
    }
