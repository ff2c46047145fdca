"""Pictures written: what each format keeps, enlarged, and side by side."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.errors import BadInput
from service.pictures import FORMATS, Pixels, enlarged, grid, write


def pictures(count: int = 1, height: int = 5, width: int = 7, channels: int = 1) -> Pixels:
    """Pictures of nothing in particular, no two alike."""
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)


def opened(content: bytes, channels: int) -> Pixels:
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_picture_is_written_without_loss(format: str, channels: int) -> None:
    (picture,) = pictures(channels=channels)
    assert np.array_equal(opened(write(picture, format), channels), picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_comes_near(channels: int) -> None:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    picture = np.broadcast_to(ramp[:, None, None], (32, 16, channels))
    found = opened(write(picture, "jpeg"), channels)
    assert np.abs(found.astype(int) - picture).max() <= 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bytes_give_the_same_file_of_the_media_type_that_is_told(format: str, channels: int) -> None:
    (picture,) = pictures(channels=channels)
    content = write(picture, format)
    assert write(picture.copy(), format) == content
    assert write(np.asfortranarray(picture), format) == content, "how they lie in memory makes no difference"
    with Image.open(BytesIO(content)) as image:
        assert image.get_format_mimetype() == FORMATS[format]
        assert image.size == (7, 5)
    assert b"Pillow" not in content


def test_a_grey_picture_is_written_in_grey() -> None:
    (picture,) = pictures()
    for format in ("png", "jpeg"):
        with Image.open(BytesIO(write(picture, format))) as image:
            assert image.mode == "L"


@pytest.mark.parametrize("format", ["gif", "PNG", ""])
def test_no_other_format_is_written(format: str) -> None:
    with pytest.raises(ValueError, match="written as png, webp, jpeg, not as"):
        write(pictures()[0], format)


@pytest.mark.parametrize(("format", "longest"), [("webp", 16_383), ("jpeg", 65_500)])
@pytest.mark.parametrize("is_high", [True, False])
def test_a_picture_has_as_many_pixels_a_side_as_its_format_takes(format: str, longest: int, is_high: bool) -> None:
    def strip(length: int) -> Pixels:
        return np.zeros((length, 1, 1) if is_high else (1, length, 1), np.uint8)

    with Image.open(BytesIO(write(strip(longest), format))) as image:
        assert max(image.size) == longest
    with pytest.raises(BadInput, match=f"can't be written as {format}, whose sides have {longest} pixels at most"):
        write(strip(longest + 1), format)
    assert write(strip(longest + 1), "png")


def test_an_enlarged_pixel_is_a_square_of_itself() -> None:
    several = pictures(3, channels=3)
    assert enlarged(several, 1) is several
    large = enlarged(several, 4)
    assert large.shape == (3, 20, 28, 3)
    assert np.array_equal(large[:, ::4, ::4], several)
    assert np.array_equal(large, np.kron(several, np.ones((1, 4, 4, 1), np.uint8)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_filled_row_after_row_and_black_behind_the_last(channels: int) -> None:
    several = pictures(5, channels=channels)
    sheet = grid(several, 3)
    assert sheet.shape == (10, 21, channels)
    for number, picture in enumerate(several):
        row, column = divmod(number, 3)
        assert np.array_equal(sheet[5 * row : 5 * row + 5, 7 * column : 7 * column + 7], picture)
    assert not sheet[5:, 14:].any()


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [(1, 1, (5, 7)), (1, 9, (5, 7)), (4, 1, (20, 7)), (4, 4, (5, 28)), (4, 64, (5, 28)), (3, 2, (10, 14))],
)
def test_a_grid_has_as_many_columns_as_wanted_and_no_empty_ones(
    count: int, columns: int, shape: tuple[int, int]
) -> None:
    assert grid(pictures(count), columns).shape == (*shape, 1)


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3), (9, 3), (10, 4), (16, 4), (64, 8)]
)
def test_unless_said_otherwise_a_grid_of_squares_is_the_nearest_to_a_square(count: int, columns: int) -> None:
    rows = -(-count // columns)
    assert grid(pictures(count, 6, 6)).shape == (6 * rows, 6 * columns, 1)


def test_narrow_pictures_stand_in_more_columns() -> None:
    assert grid(pictures(16, 40, 10)).shape == (80, 80, 1)


@pytest.mark.parametrize("columns", [0, -1])
def test_a_grid_has_columns(columns: int) -> None:
    with pytest.raises(ValueError, match="at least one column"):
        grid(pictures(3), columns)
