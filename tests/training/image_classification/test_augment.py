from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.image_classification.augment import AugmentConfig, augment

NOTHING = AugmentConfig(flip=False, crop_padding=0, erase_probability=0.0)
EVERYTHING = AugmentConfig()


def _changed(**changes: object) -> AugmentConfig:
    return NOTHING.model_copy(update=changes)


def _draw(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(count: int = 200, channels: int = 1, height: int = 12, width: int = 10) -> Tensor:
    """Images of which no two pixels are alike, from -0.5 on: what a normalised image has for black is not 0."""
    values = torch.arange(count * channels * height * width, dtype=torch.float32)
    return (values / len(values) - 0.5).reshape(count, channels, height, width)


def test_the_changes_are_a_function_of_the_generator_alone() -> None:
    images = _images()
    torch.manual_seed(1)
    first, state = augment(images, EVERYTHING, _draw(3)), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(augment(images, EVERYTHING, _draw(3)), first)
    assert not torch.equal(augment(images, EVERYTHING, _draw(4)), first)
    torch.set_rng_state(state)
    augment(images, EVERYTHING, _draw(5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", [NOTHING, EVERYTHING], ids=["nothing", "everything"])
def test_shape_and_type_stay(config: AugmentConfig, channels: int) -> None:
    changed = augment(_images(7, channels), config, _draw())
    assert (changed.shape, changed.dtype) == ((7, channels, 12, 10), torch.float32)


def test_the_images_given_are_left_as_they_are() -> None:
    images = _images()
    before = images.clone()
    assert not torch.equal(augment(images, EVERYTHING, _draw()), before)
    assert torch.equal(images, before)


def test_with_all_of_it_off_nothing_changes() -> None:
    images = _images()
    assert torch.equal(augment(images, NOTHING, _draw()), images)


def test_an_image_is_changed_whatever_its_neighbours_are() -> None:
    images, others = _images(20), _images(20)
    others[5:] = 0.5
    first, second = (augment(batch, EVERYTHING, _draw()) for batch in (images, others))
    assert torch.equal(first[:5], second[:5])


def test_a_flip_mirrors_half_of_the_images_left_to_right() -> None:
    images = _images(1000, channels=3)
    flipped = augment(images, _changed(flip=True), _draw())
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 430 < int(mirrored.sum()) < 570


def test_a_crop_moves_each_image_and_fills_with_the_darkest_value() -> None:
    padding, images = 2, _images(1000, channels=3)
    cropped = augment(images, _changed(crop_padding=padding), _draw())
    darkest = float(images.min())
    seen = set()
    for image, moved in zip(images, cropped, strict=True):
        framed = torch.full((3, 12 + 2 * padding, 10 + 2 * padding), darkest)
        framed[:, padding:-padding, padding:-padding] = image
        windows = {
            (top, left): framed[:, top : top + 12, left : left + 10]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        }
        found = [where for where, window in windows.items() if torch.equal(window, moved)]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(windows), "every shift comes up in a thousand images"


def _rectangles(before: Tensor, after: Tensor) -> list[tuple[int, int] | None]:
    """Height and width of what was erased of each image, None for nothing; it must be one full rectangle."""
    sizes: list[tuple[int, int] | None] = []
    for changed in before != after:
        assert torch.equal(changed.any(0), changed.all(0)), "all channels lose the same pixels"
        rows, columns = changed[0].any(1), changed[0].any(0)
        if not rows.any():
            sizes.append(None)
            continue
        assert torch.equal(changed[0], rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = line.nonzero().flatten()
            assert int(places[-1] - places[0]) + 1 == len(places)
        sizes.append((int(rows.sum()), int(columns.sum())))
    return sizes


@pytest.mark.parametrize("shape", [(32, 32), (28, 28), (48, 20)], ids=str)
def test_an_erased_rectangle_keeps_to_its_area_and_aspect(shape: tuple[int, int]) -> None:
    height, width = shape
    config = _changed(erase_probability=1.0, erase_area=(0.05, 0.3), erase_aspect=0.5)
    images = _images(1000, 3, height, width)
    sizes = _rectangles(images, augment(images, config, _draw()))
    for size in sizes:
        assert size is not None
        high, wide = size
        # Sides are rounded to whole pixels, and never cover a whole side of the image.
        assert high < height
        assert wide < width
        assert (high + 0.5) * (wide + 0.5) >= 0.05 * height * width or wide == width - 1
        assert (high - 0.5) * (wide - 0.5) <= 0.3 * height * width
        assert (high + 0.5) / (wide - 0.5) >= 0.5
        assert (high - 0.5) / (wide + 0.5) <= 1 / 0.5 or wide == width - 1
    shapes = [high / wide for high, wide in filter(None, sizes)]
    assert min(shapes) < 0.65, "there are wide ones"
    assert max(shapes) > 1.5, "and high ones"


def test_erasing_reaches_every_corner() -> None:
    images = _images(2000, 1)
    erased = (augment(images, _changed(erase_probability=1.0), _draw()) != images)[:, 0]
    for corner in (erased[:, 0, 0], erased[:, 0, -1], erased[:, -1, 0], erased[:, -1, -1]):
        assert bool(corner.any())


def test_what_is_erased_becomes_noise_of_the_scale_of_normalised_images() -> None:
    images = torch.full((2000, 1, 28, 28), 50.0)
    after = augment(images, _changed(erase_probability=1.0), _draw())
    noise = after[after != 50.0]
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_as_many_images_are_erased_as_the_probability_says(probability: float) -> None:
    images = _images(2000, 1)
    sizes = _rectangles(images, augment(images, _changed(erase_probability=probability), _draw()))
    erased = sum(size is not None for size in sizes)
    assert abs(erased - 2000 * probability) < 4 * math.sqrt(2000 * probability * (1 - probability))
