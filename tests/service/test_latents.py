"""Latents: of seeds, on the way between two, and of sums."""

from __future__ import annotations

import numpy as np
import pytest

from service.latents import LARGEST_SEED, between, latents_of, total

FIRST_OF_SEED_0 = [0.059911035, 0.015559634, -1.1644385]


def test_a_latent_depends_on_its_seed_and_its_number_alone() -> None:
    many = latents_of(7, 64, 16)
    assert many.shape == (64, 16)
    assert many.dtype == np.float32
    for count in (1, 5):
        assert np.array_equal(latents_of(7, count, 16), many[:count])
    assert len({row.tobytes() for row in (*many, *latents_of(8, 64, 16))}) == 128


def test_seeds_give_the_same_numbers_everywhere() -> None:
    assert latents_of(0, 1, 3)[0].tolist() == pytest.approx(FIRST_OF_SEED_0, abs=1e-7)


def test_the_numbers_are_from_a_standard_normal_distribution() -> None:
    numbers = latents_of(LARGEST_SEED, 400, 64)
    assert abs(numbers.mean()) < 0.03
    assert abs(numbers.std() - 1) < 0.03


def test_the_way_between_two_latents_keeps_to_the_sphere() -> None:
    one, other = latents_of(1, 2, 64)
    way = between(one, other, 9)
    assert np.array_equal(way[0], one)
    assert np.array_equal(way[-1], other)
    lengths = np.linalg.norm(way, axis=1)
    assert np.all(np.diff(lengths) * np.sign(lengths[-1] - lengths[0]) > 0)  # from one length to the other
    straight = np.linalg.norm((one + other) / 2)
    assert straight < lengths[4] * 0.85


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0, 2.0])
def test_where_there_is_no_angle_the_way_is_straight(factor: float) -> None:
    (one,) = latents_of(1, 1, 8)
    way = between(one, factor * one, 3)
    assert np.allclose(way[1], (1 + factor) / 2 * one, atol=1e-6)


def test_a_sum_is_no_longer_than_its_longest_term() -> None:
    terms = latents_of(3, 3, 64)
    summed = total(terms, [1, -1, 1])
    assert np.linalg.norm(summed) == pytest.approx(np.linalg.norm(terms, axis=1).max(), rel=1e-5)
    direction = terms[0] - terms[1] + terms[2]
    assert np.allclose(summed / np.linalg.norm(summed), direction / np.linalg.norm(direction), atol=1e-6)


def test_a_latent_less_another_and_the_other_again_is_that_latent() -> None:
    one, other = latents_of(3, 2, 64)
    assert np.allclose(total(np.stack([one, other, other]), [1, -1, 1]), one, atol=1e-6)
