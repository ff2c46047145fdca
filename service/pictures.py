"""From the bytes of drawn images to picture files: enlarged, laid side by side, and written in one of three formats.

The same bytes give the same file, wherever the same release of Pillow writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import BadInput

Pixels = NDArray[np.uint8]

FORMATS: Final[Mapping[str, str]] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
"""What is written, and the media type of each. All but JPEG keep every byte."""

_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "png": {"compress_level": 6},
    "webp": {"lossless": True, "quality": 50, "method": 4},  # of a lossless one it says how hard to try
    "jpeg": {"quality": 95, "subsampling": 0},
}


_LONGEST_SIDE: Final[Mapping[str, int]] = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_500}
"""Pixels that a side of a picture may have in each format, as the libraries have it that write them."""


def write(pixels: Pixels, format: str) -> bytes:
    """Write a picture as a file.

    Args:
        pixels: (height, width, channels), of 1 channel or 3.
        format: one of `FORMATS`.

    Raises:
        ValueError: there is no such format.
        BadInput: the picture is too wide or too high for it.
    """
    if format not in FORMATS:
        raise ValueError(f"pictures are written as {', '.join(FORMATS)}, not as {format!r}")
    height, width = pixels.shape[:2]
    if max(height, width) > (longest := _LONGEST_SIDE[format]):
        raise BadInput(
            f"a picture of {width}x{height} can't be written as {format}, whose sides have {longest} pixels at most; "
            "png has room for more",
            parameter="format",
        )
    content = BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(content, format, **_OPTIONS[format])
    return content.getvalue()


def enlarged(pixels: Pixels, factor: int) -> Pixels:
    """Images (N, height, width, channels) with every pixel `factor` times as wide and as high."""
    if factor == 1:
        return pixels
    count, height, width, channels = pixels.shape
    # NumPy's `repeat` would go from element to element, and let no other thread run meanwhile.
    spread = np.broadcast_to(pixels[:, :, None, :, None], (count, height, factor, width, factor, channels))
    return spread.reshape(count, height * factor, width * factor, channels)


def grid(pixels: Pixels, columns: int | None = None) -> Pixels:
    """Lay images (N, height, width, channels), at least one, side by side, row after row: (height', width', channels).

    What is left over of the last row is black.

    Args:
        pixels: the images.
        columns: images of a row; more than there are mean all of them. None = what comes nearest to a square.

    Raises:
        ValueError: there would be no columns.
    """
    count, height, width, channels = pixels.shape
    columns = _squarest(count, height, width) if columns is None else min(columns, count)
    if columns < 1:
        raise ValueError(f"a grid has at least one column, not {columns}")
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = pixels
    sheet = sheet.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, columns * width, channels)


def _squarest(count: int, height: int, width: int) -> int:
    """How many columns make the sides of a grid most alike; rather too wide than too high."""

    def unlikeness(columns: int) -> float:
        sides = (-(-count // columns) * height, columns * width)
        return max(sides) / min(sides)

    return min(range(count, 0, -1), key=unlikeness)
