"""What the tiny painter draws, computed without it, and what a client sees in the files that it gets."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from service.latents import latents_of
from tests.image_bundles import LATENT, drawn, one_hot
from tests.service.pictures import Pixels

FORMATS = {"image/png": "PNG", "image/webp": "WEBP", "image/jpeg": "JPEG"}


def painted(label: str, seed: int, count: int = 1, *, truncation: float = 1.0, channels: int = 1) -> Pixels:
    """The first pictures of a seed (count, height, width, channels)."""
    latents = latents_of(seed, count, LATENT) * np.float32(truncation)
    return drawn(latents, one_hot(*[label] * count), channels=channels)


def pixels_of(content: bytes, kind: str = "image/png") -> Pixels:
    """What is in a file of the media type `kind`: (height, width, channels)."""
    with Image.open(BytesIO(content)) as image:
        assert image.format == FORMATS[kind]
        pixels = np.asarray(image)
    if kind == "image/webp" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]  # WebP knows no greys
    return pixels.reshape(*pixels.shape[:2], -1)


def entries_of(answer: Any) -> list[Any]:
    """The entries of an answer in JSON, their pictures as pixels."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    entries: list[Any] = answer.json()
    return [{**one, "image": pixels_of(b64decode(one["image"]), one["content_type"])} for one in entries]


def enlarged(pixels: Pixels, factor: int) -> Pixels:
    """A picture with every pixel so many times."""
    return np.kron(pixels, np.ones((factor, factor, 1), np.uint8))
