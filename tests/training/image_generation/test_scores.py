from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.image_generation.scores import (
    frechet_distance,
    label_agreement,
    label_entropy,
    nearest,
    quantiles,
    spread_within_classes,
)


def _normal(count: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _whitened(features: Tensor) -> Tensor:
    """Features changed so that their mean is 0 and their covariance 1, but for rounding."""
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)
    return centred @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T


# The Fréchet distance


def test_features_have_no_distance_to_themselves() -> None:
    features = _normal(200, 5) @ _normal(5, 5, 2)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


def test_equal_covariances_leave_the_squared_distance_of_the_means() -> None:
    features = _normal(100, 4)
    shift = torch.tensor([1.0, -2.0, 0.0, 3.0])
    assert frechet_distance(features, features + shift) == pytest.approx(14)


def test_independent_features_add_the_squared_differences_of_their_deviations() -> None:
    white = _whitened(_normal(300, 3))
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 2.0, 0.5])
    expected = float((first - second).square().sum())
    assert frechet_distance(white * first, white * second) == pytest.approx(expected)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_features_that_are_not_independent_are_measured_as_the_definition_says(seed: int) -> None:
    first, second = (
        _normal(400, 6, seed) @ _normal(6, 6, seed + 10),
        _normal(300, 6, seed + 20) @ _normal(6, 6, seed + 30),
    )
    covariances = [torch.cov(side.T) for side in (first, second)]
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt()
    expected = (
        (first.mean(0) - second.mean(0)).square().sum() + sum(one.trace() for one in covariances) - 2 * roots.sum()
    )
    assert frechet_distance(first, second) == pytest.approx(float(expected))
    assert frechet_distance(second, first) == pytest.approx(float(expected))


def test_features_that_never_change_are_measured_too() -> None:
    constant = torch.zeros(10, 3)
    varied = _whitened(_normal(50, 3))
    assert frechet_distance(constant, varied) == pytest.approx(3)
    assert frechet_distance(constant, constant + 2) == pytest.approx(12)


def test_one_row_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))


# What the judge says


def test_agreement_is_the_share_of_images_that_are_what_was_asked_for() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.0, 0.0, 1.0]])
    assert label_agreement(probabilities, torch.tensor([0, 1, 1, 2])) == 0.75


@pytest.mark.parametrize(
    ("rows", "bits"),
    [
        ([[1.0, 0, 0, 0]] * 4, 0.0),
        ([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]], 2.0),
        ([[0.25, 0.25, 0.25, 0.25]], 2.0),
        ([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0]], -0.75 * math.log2(0.75) + 0.5),
    ],
    ids=["one class", "each class once", "unsure", "three of one"],
)
def test_the_entropy_falls_when_classes_are_missing(rows: list[list[float]], bits: float) -> None:
    assert label_entropy(torch.tensor(rows)) == pytest.approx(bits)


def test_the_spread_is_that_within_classes_whatever_lies_between_them() -> None:
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [100.0, 1.0], [100.0, 5.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert spread_within_classes(features, labels) == pytest.approx((1 + 1 + 4 + 4) / 4)
    assert spread_within_classes(torch.ones(4, 2), labels) == 0


# Neighbours


def test_the_nearest_training_image_is_found_and_how_far_it_is() -> None:
    draw = torch.Generator().manual_seed(1)
    train = torch.randint(256, (300, 1, 6, 6), generator=draw, dtype=torch.uint8)
    pixels = train[[7, 123, 299]].clone()
    pixels[1, 0, 0, 0] ^= 64
    found = nearest(pixels, train)
    assert found.indices.tolist() == [7, 123, 299]
    assert found.distances.tolist() == pytest.approx([0, 64 / 6 / 255, 0])


def test_neighbours_are_those_that_a_plain_search_finds() -> None:
    draw = torch.Generator().manual_seed(2)
    train, pixels = (torch.randint(256, (count, 3, 4, 4), generator=draw, dtype=torch.uint8) for count in (400, 300))
    differences = pixels.double().flatten(1)[:, None] - train.double().flatten(1)
    expected = differences.square().mean(2).sqrt().min(1).values / 255
    torch.testing.assert_close(nearest(pixels, train).distances.double(), expected)


def test_quantiles_are_in_their_order() -> None:
    found = quantiles(torch.arange(101.0))
    assert found == {"mean": 50, "smallest": 0, "percentile_1": 1, "percentile_10": 10, "median": 50}
