"""Bodies that are compressed: gzip and deflate, in both directions, never inflated past a limit."""

from __future__ import annotations

import zlib

from service.errors import BadInput, TooLarge, UnsupportedMediaType

_WINDOWS = {"gzip": 31, "deflate": zlib.MAX_WBITS}
"""zlib's names of the formats: what HTTP calls deflate is a zlib stream."""

_PIECE = 2**17
_RAW_DEFLATE = -zlib.MAX_WBITS

_ALIASES = {"x-gzip": "gzip"}
_LEVEL = 1
"""The fastest: the numbers that go out compress little, however long one tries."""


def encoding_of(content_encoding: str | None) -> str | None:
    """How a body is compressed, by its header `content-encoding`.

    Returns:
        `gzip`, `deflate`, or None if it isn't.

    Raises:
        UnsupportedMediaType: in another way, or more than once.
    """
    name = (content_encoding or "").strip().lower()
    if name in ("", "identity"):
        return None
    name = _ALIASES.get(name, name)
    if name not in _WINDOWS:
        raise UnsupportedMediaType(
            f"content-encoding {name[:80]!r} is not taken; allowed: {', '.join(_WINDOWS)}, identity"
        )
    return name


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Inflate a body.

    Args:
        body: one stream of the format `encoding`, and nothing after it.
        encoding: `gzip` or `deflate`; a deflate stream without zlib's frame is taken too, as some clients send it.
        limit: of bytes; no more than one above it are ever inflated.

    Raises:
        TooLarge: it has more.
        BadInput: it is no such stream.
    """
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        try:
            content, left = _inflated(stream, body, limit + 1)
        except zlib.error:
            if encoding != "deflate":
                raise
            stream = zlib.decompressobj(_RAW_DEFLATE)
            content, left = _inflated(stream, body, limit + 1)
    except zlib.error as error:
        raise BadInput(f"the body is no {encoding} stream: {error}") from error
    if len(content) > limit:
        raise TooLarge(f"the body is larger than {limit} bytes once decompressed (INFERD_MAX_BODY_BYTES)")
    if not stream.eof:
        raise BadInput(f"the body is no {encoding} stream: it ends too early")
    if left:
        raise BadInput(f"the body must be one {encoding} stream; {left} bytes follow it")
    return content


def _inflated(stream: zlib._Decompress, body: bytes, most: int) -> tuple[bytes, int]:
    """At most so many bytes of what `body` holds, and how many of its own follow the end of the stream.

    It is inflated in pieces: a whole one is copied twice, under the GIL.
    """
    pieces, given = [], memoryview(body)
    for start in range(0, len(given), _PIECE):
        piece: bytes | memoryview = given[start : start + _PIECE]
        while most > 0 and not stream.eof and (inflated := stream.decompress(piece, min(_PIECE, most))):
            pieces.append(inflated)
            most -= len(inflated)
            piece = stream.unconsumed_tail
        if stream.eof:
            return b"".join(pieces), len(stream.unused_data) + max(0, len(given) - start - _PIECE)
        if most == 0:
            break
    return b"".join(pieces), 0


def choose(accept_encoding: str | None) -> str | None:
    """Choose how to compress an answer, by the header `accept-encoding`; what can't be read in it is passed over.

    Returns:
        `gzip`, `deflate`, or None if it shall go as it is.
    """
    if not accept_encoding:
        return None
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        name, _, parameters = part.partition(";")
        weights[_ALIASES.get(name.strip(), name.strip())] = _weight(parameters)
    others = weights.get("*", 0.0)
    best = max(_WINDOWS, key=lambda name: weights.get(name, others))  # the first of equals
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def compress(body: bytes, encoding: str) -> bytes:
    """Deflate a body; the same one always gives the same bytes."""
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOWS[encoding])
    return stream.compress(body) + stream.flush()


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
