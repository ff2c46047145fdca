"""Pictures and forms: files that are broken, forms that are none."""

from __future__ import annotations

import base64
from io import BytesIO
from random import Random
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image

from tests.fuzz.edits import changed, changes, edited, edits, edits_by, odd, to_json
from tests.fuzz.playing import Target
from tests.fuzz.wire import Client, post

_PATH: Final = "/predict/fashion-classifier"


def _pictures() -> tuple[bytes, ...]:
    """Small pictures in every format that is read, and in some that are not."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 4), np.uint8))
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        *(("PNG", mode, {}) for mode in ("L", "RGB", "RGBA", "P", "LA", "1", "I;16")),
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        (
            "JPEG",
            "RGB",
            {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [noise.convert("RGB").rotate(90)]}),
        ("PNG", "RGB", {"save_all": True, "append_images": [noise.convert("RGB").rotate(90)]}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
    ]
    made = []
    for kind, mode, options in wanted:
        stream = BytesIO()
        (noise.convert("L").convert(mode) if mode == "I;16" else noise.convert(mode)).save(stream, kind, **options)
        made.append(stream.getvalue())
    return tuple(made)


_PICTURES: Final = _pictures()
_TYPES: Final = (
    "image/png", "image/jpeg", "image/webp", "image/x", "application/octet-stream", "text/plain", "", "image/*",
    "application/json", "a/b/c", "multipart/form-data", "multipart/form-data; boundary=", "image/png; charset=\xff",
    'multipart/form-data; boundary="a b"', "multipart/form-data; boundary=" + "b" * 300,
)  # fmt: skip
_QUERIES: Final = ("", "", "?top_k=2", "?top_k=-1", "?top_k=%00&top_k=3", "?a", "?top_k=1e9", "?%ff=%ff")


def _form(picture: bytes, field: str, name: str) -> bytes:
    head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    more = b'\r\n--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n2\r\n--b--\r\n'
    return b"--b\r\n" + head.encode("utf-8", "replace") + picture + more


@st.composite
def _cases(draw: DrawFn) -> tuple[str, str, bytes]:
    """Query, media type, body."""
    picture = draw(st.sampled_from(_PICTURES))
    if draw(st.integers(0, 4)):
        picture = edited(picture, draw(edits))
    how = draw(st.sampled_from(("plain", "plain", "form", "form", "json")))
    query = draw(st.sampled_from(_QUERIES))
    if how == "plain":
        return query, draw(st.sampled_from(_TYPES)), picture
    if how == "json":
        document = {"inputs": base64.b64encode(picture).decode(), "parameters": {"top_k": 3}}
        return query, "application/json", to_json(changed(document, draw(changes)))
    field = draw(st.sampled_from(("file", "file", "file", "", "q", "file\\", "é")))
    body = _form(picture, field, str(draw(odd))[:40] if draw(st.booleans()) else "a.png")
    body = edited(body, draw(edits)) if draw(st.booleans()) else body
    return query, draw(st.sampled_from(("multipart/form-data; boundary=b", *_TYPES[-5:]))), body


class Files:
    """Requests with a file in them."""

    def __init__(self, target: Target) -> None:
        self._client = Client(target.port)
        self._name = target.name

    cases = _cases()
    variants = 9

    def vary(self, case: tuple[str, str, bytes], random: Random) -> tuple[str, str, bytes]:
        """Edit the body."""
        query, media_type, body = case
        return query, media_type, edited(body, edits_by(random))

    def attempt(self, case: tuple[str, str, bytes], number: int) -> str:
        """Ask."""
        query, media_type, body = case
        headers = (("content-type", media_type), ("x-request-id", f"{self._name}-{number}"))
        return self._client.ask(post(_PATH + query, body, *headers)).outcome

    def close(self) -> None:
        """End the connection."""
        self._client.close()
