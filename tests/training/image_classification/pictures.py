"""Pictures and data sets made up for the tests: three colours that anybody can tell apart."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from service.manifest import ImagePreprocessing
from training.image_classification.data import INPUT, DataSet, Part

COLOURS = ("blue", "green", "red")
"""The classes, in the order of their numbers."""


def picture(colour: str, draw: np.random.Generator, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A noisy picture that is mostly of one colour."""
    width, height = size
    values = draw.integers(0, 90, (height, width, 3))
    values[..., ("red", "green", "blue").index(colour)] += 130
    return Image.fromarray(values.astype(np.uint8))


def png(image: Image.Image) -> bytes:
    """The picture as the bytes of a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, *, train: int, test: int = 0, seed: int = 1) -> Path:
    """Write `root`/train/<colour>/ and, if asked for, `root`/test/<colour>/ with so many pictures each."""
    draw = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        for colour in COLOURS if count else ():
            folder = root / part / colour
            folder.mkdir(parents=True)
            for number in range(count):
                picture(colour, draw).save(folder / f"{number:03}.png")
    return root


def data_set(part: Part, labels: tuple[str, ...]) -> DataSet:
    """A data set whose three parts are the same."""
    channels, height, width = part.pixels.shape[1:]
    return DataSet(
        name="made up",
        licence="CC0-1.0",
        url="https://example.org",
        sha256={},
        labels=labels,
        train=part,
        validation=part,
        test=part,
        preprocessing=ImagePreprocessing(
            input=INPUT,
            width=width,
            height=height,
            channels=1 if channels == 1 else 3,
            fit="pad",
            mean=(0.25,) * channels,
            std=(0.5,) * channels,
        ),
    )
