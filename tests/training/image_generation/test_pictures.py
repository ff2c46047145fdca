from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.image_generation.pictures import plot_watch, save_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_its_images_row_by_row_and_black_where_there_is_none(tmp_path: Path, channels: int) -> None:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(1, 256, (5, channels, 4, 6), generator=draw, dtype=torch.uint8)
    save_grid(pixels, 3, tmp_path / "new" / "grid.png", scale=2)
    with Image.open(tmp_path / "new" / "grid.png") as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        sheet = np.asarray(image).reshape(16, 36, channels)[::2, ::2]
    for number in range(5):
        row, column = divmod(number, 3)
        found = sheet[4 * row : 4 * row + 4, 6 * column : 6 * column + 6].transpose(2, 0, 1)
        assert np.array_equal(found, pixels[number].numpy())
    assert not sheet[4:, 12:].any()


@pytest.mark.parametrize("agreement", [True, False])
def test_what_is_watched_becomes_a_picture(tmp_path: Path, agreement: bool) -> None:
    row = {"discriminator_loss": 1.0, "generator_loss": 0.5, "label_entropy": 3.0, "relative_spread": 0.9}
    row |= {"frechet_distance": 4.0} | ({"label_agreement": 0.5} if agreement else {})
    path = tmp_path / "watch.png"
    plot_watch([{"epoch": 1.0, **row}, {"epoch": 2.0, **row}], path)
    with Image.open(path) as image:
        assert image.height == 180 * (5 if agreement else 4)
    once = path.read_bytes()
    plot_watch([{"epoch": 1.0, **row}, {"epoch": 2.0, **row}], path)
    assert path.read_bytes() == once
