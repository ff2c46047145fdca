"""Pictures made in the test, as the bytes that a client would send."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def encoded(picture: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a picture, or brightness (height, width[, channels]): WebP without loss, JPEG with as little as it can."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    best = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    stream = BytesIO()
    image.save(stream, kind, **{**best.get(kind, {}), **options})
    return stream.getvalue()


def drawn(width: int = 6, height: int = 4, channels: int = 0, seed: int = 1) -> Pixels:
    """Make up brightness: (height, width), with channels (height, width, channels)."""
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def chunk(name: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(
    width: int, height: int, depth: int, colour: int, rows: list[bytes] | None = None, chunks: bytes = b""
) -> bytes:
    """Write a PNG that Pillow wouldn't: any depth and colour type, `chunks` before the pixels; no rows = no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = b"" if rows is None else chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + pixels + chunk(b"IEND", b"")
