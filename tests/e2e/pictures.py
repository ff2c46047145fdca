"""Pictures for requests, made up here."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image


def made_up_png(seed: int, size: int = 28) -> bytes:
    """A PNG of smooth noise, another one for every seed."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (7, 7), dtype=np.uint8))
    return png(coarse.resize((size, size), Image.Resampling.BICUBIC))


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
