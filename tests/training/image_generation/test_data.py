from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.image_classification.pictures import data_set, write_folder
from training.image_classification.data import DataConfig, DataSet, Part
from training.image_generation.data import (
    Batch,
    conditions_of,
    draw_latents,
    load_pictures,
    to_images,
    to_pixels,
    training_batches,
)


def _numbered(count: int = 40) -> DataSet:
    """A data set whose images tell by their only brightness which they are; three of four are of class 1."""
    values = torch.arange(count, dtype=torch.uint8)
    labels = (torch.arange(count) % 4 > 0).long()
    return data_set(Part(values[:, None, None, None].expand(-1, 1, 10, 10), labels), ("few", "many"))


def _batches(data: DataSet, *, seed: int = 1, epoch: int = 0, skip: int = 0, classes: int = 2) -> list[Batch]:
    return list(
        training_batches(
            data, 8, classes=classes, latent=5, seed=seed, epoch=epoch, skip=skip, device=torch.device("cpu")
        )
    )


def _numbers(batch: Batch) -> list[int]:
    return to_pixels(batch.images)[:, 0, 0, 0].tolist()


def test_bytes_are_numbers_from_minus_one_to_one_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    images = to_images(pixels)
    assert (float(images[0]), float(images[255])) == (-1, 1)
    assert torch.equal(to_pixels(images), pixels)


def test_what_is_outside_is_cut_off_and_what_lies_between_goes_to_the_nearest() -> None:
    images = torch.tensor([-3.0, 1.001, 0.0, 1 - 0.4 / 127.5, 1 - 0.6 / 127.5])
    assert to_pixels(images).tolist() == [0, 255, 128, 255, 254]


def test_a_condition_is_one_for_its_class() -> None:
    assert conditions_of(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert conditions_of(torch.tensor([2, 0]), 1).tolist() == [[1], [1]]


def test_an_epoch_shows_every_real_image_once_with_its_class() -> None:
    data = _numbered()
    batches = _batches(data)
    assert sorted(number for batch in batches for number in _numbers(batch)) == list(range(40))
    for batch in batches:
        assert batch.conditions.argmax(1).tolist() == [int(number % 4 > 0) for number in _numbers(batch)]
        assert batch.latents.shape == batch.other_latents.shape == (8, 5)


def test_drawn_classes_are_as_frequent_as_real_ones() -> None:
    data = _numbered()
    drawn = torch.cat([batch.other_conditions for epoch in range(60) for batch in _batches(data, epoch=epoch)])
    assert drawn.mean(0).tolist() == pytest.approx([0.25, 0.75], abs=0.03)


def test_batches_are_a_function_of_seed_epoch_and_step() -> None:
    data = _numbered()
    first, rest = _batches(data, epoch=3), _batches(data, epoch=3, skip=2)
    assert len(first) == 5
    for one, other in zip(first[2:], rest, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))
    for changed in (_batches(data, epoch=4), _batches(data, epoch=3, seed=2)):
        assert _numbers(changed[0]) != _numbers(first[0])
        assert not torch.equal(changed[0].latents, first[0].latents)


def test_latents_of_a_step_are_all_different() -> None:
    rows = torch.cat([torch.cat([one.latents, one.other_latents]) for one in _batches(_numbered())])
    assert len(rows.unique(dim=0)) == len(rows)
    many = draw_latents(2000, 5, torch.Generator().manual_seed(1))
    assert float(many.mean()) == pytest.approx(0, abs=0.05)
    assert float(many.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("size", "problem"), [((12, 14), "square to be drawn, not 14 x 12"), ((11, 11), "11 x 11 can't be drawn")]
)
def test_pictures_that_cannot_be_drawn_are_refused(tmp_path: Path, size: tuple[int, int], problem: str) -> None:
    root = write_folder(tmp_path, train=4, test=1)
    height, width = size
    config = DataConfig(source="folder", path=str(root), validation=0.25, width=width, height=height)
    with pytest.raises(ValueError, match=problem):
        load_pictures(config)


@pytest.mark.data
def test_fashion_mnist_and_mnist_can_be_drawn(fashion_mnist: Path, mnist: Path) -> None:
    assert fashion_mnist.is_dir()
    assert mnist.is_dir()
    for source in ("fashion_mnist", "mnist"):
        data = load_pictures(DataConfig.model_validate({"source": source}))
        assert (data.preprocessing.width, data.preprocessing.channels, len(data.labels)) == (28, 1, 10)
