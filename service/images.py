"""From the bytes of a picture to the numbers that a network takes: one implementation, for service and training.

What must happen is written in the manifest (`ImagePreprocessing`). Nothing here guesses: a picture is inverted only
when the manifest or the request says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from service.errors import BadInput, TooLarge, UnsupportedMediaType
from service.manifest import ImagePreprocessing

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is decoded; anything else is refused before its decoder is even looked for."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by the orientation that its EXIF states."""


@dataclass(frozen=True)
class Picture:
    """A picture whose header was read and found allowed; its pixels are not decoded yet."""

    image: Image.Image

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.image.width * self.image.height


def open_picture(data: bytes | memoryview, *, max_pixels: int) -> Picture:
    """Read the header of a PNG, JPEG or WebP and check it; no pixel is decoded.

    Raises:
        BadInput: `data` is empty, or the picture is animated or broken.
        UnsupportedMediaType: `data` is none of these formats.
        TooLarge: it has more than `max_pixels` pixels.
    """
    if not data:
        raise BadInput("the image is empty (0 bytes)")
    try:
        with _pillow_errors():
            image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the image has too many pixels; the limit is {max_pixels} (INFERD_MAX_PIXELS)") from error
    if image.width * image.height > max_pixels:
        raise TooLarge(
            f"the image has {image.width} x {image.height} = {image.width * image.height} pixels; "
            f"the limit is {max_pixels} (INFERD_MAX_PIXELS)"
        )
    frames = getattr(image, "n_frames", 1)
    # A camera's JPEG may hold further views of the scene (Pillow calls it MPO); every viewer shows the first.
    if frames > 1 and image.format != "MPO":
        raise BadInput(f"the image is animated ({frames} frames); send one frame")
    return Picture(image)


def decode(picture: Picture, how: ImagePreprocessing, *, invert: bool | None = None) -> NDArray[np.float32]:
    """Decode `picture` into one row of the graph's input: (1, channels, height, width), float32.

    Args:
        picture: from `open_picture`.
        how: the manifest's preprocessing.
        invert: turn brightness round; None = as the manifest says.

    Raises:
        BadInput: the pixels are truncated or broken.
    """
    return normalise(decode_pixels(picture, how, invert=invert)[None], how)


def decode_pixels(picture: Picture, how: ImagePreprocessing, *, invert: bool | None = None) -> NDArray[np.uint8]:
    """Decode `picture` to (channels, height, width), uint8: all that `decode` does but the normalisation."""
    inverted = how.invert if invert is None else invert
    # The background is meant as the network sees it: what will be inverted is laid on its opposite.
    ground = 255 - how.background if inverted else how.background
    with _pillow_errors():
        image = _flattened(_upright(picture.image), how.channels, ground)
    pixels = np.asarray(_fitted(image, how, ground)).reshape(how.height, how.width, how.channels)
    return (255 - pixels if inverted else pixels).transpose(2, 0, 1)


def normalise(pixels: NDArray[np.uint8], how: ImagePreprocessing) -> NDArray[np.float32]:
    """Map brightness 0..255 (N, channels, height, width) to the graph's input, a contiguous array."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (how.mean, how.std))
    values = np.ascontiguousarray(pixels, np.float32)
    values *= 1 / (255 * std)
    values -= mean / std
    return values


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says."""
    image.load()  # a PNG may have its EXIF behind the pixels
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _flattened(image: Image.Image, channels: int, ground: int) -> Image.Image:
    """Bring any mode to grey (L) or RGB: no palette, no transparency, eight bits a channel."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I"):
        return _eight_bits(image, ground).convert(mode)
    if not image.has_transparency_data:
        # By way of RGB, which knows palettes and CMYK.
        return image if image.mode == mode else image.convert("RGB").convert(mode)
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    flat = Image.new(mode, image.size, ground if channels == 1 else (ground,) * 3)
    flat.paste(image.convert(mode), mask=alpha)
    return flat


def _eight_bits(image: Image.Image, ground: int) -> Image.Image:
    """Keep the upper eight of 16 bits; Pillow's own conversion cuts all that is over 255."""
    values = np.asarray(image)
    greys = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:  # the one grey that stands for nothing
        greys[values == image.info["transparency"]] = ground
    return Image.fromarray(greys)


def _fitted(image: Image.Image, how: ImagePreprocessing, ground: int) -> Image.Image:
    size = (how.width, how.height)
    if image.size == size:
        return image
    resample = _RESAMPLING[how.resample]
    if how.fit == "stretch":
        return image.resize(size, resample)
    if how.fit == "crop":
        return ImageOps.fit(image, size, resample)
    whole = ImageOps.contain(image, size, resample)
    if 0 in whole.size:  # so thin that rounding left nothing of it
        whole = image.resize((max(1, whole.width), max(1, whole.height)), resample)
    return ImageOps.pad(whole, size, resample, color=ground if how.channels == 1 else (ground,) * 3)


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Translate what Pillow raises on broken pictures into errors of ours."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnsupportedMediaType(f"this is no image that can be read; allowed: {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as error:  # on broken files Pillow raises whatever its parsers stumble over
        raise BadInput(f"the image is broken or truncated ({error})") from error
