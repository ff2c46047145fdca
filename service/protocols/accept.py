"""What a client can read, by its header Accept (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_LONGEST = 2000
"""Characters of a header that are read: the HTTP server bounds none, and browsers need a tenth."""


def preferred(header: str | None, offered: Sequence[str]) -> list[str]:
    """Those of the `offered` media types that a client can read, what it likes best first.

    Among what it likes as well, what it calls by name comes before what a wildcard lets in, and then the order is that
    of the offers. No header, or one without a media type, lets everything in.

    Args:
        header: as it came; a range that can't be read says nothing, nor does anything after 2,000 characters.
        offered: media types, without parameters.
    """
    ranges = [found for one in (header or "")[:_LONGEST].split(",") if (found := _read(one))]
    if not ranges:
        return list(offered)
    ranked = []
    for place, name in enumerate(offered):
        fitting = [(precision, quality) for known, precision, quality in ranges if known in _ranges_of(name)]
        if fitting:
            precision, quality = max(fitting)  # the most precise says how good it is
            ranked.append((-quality, -precision, place, name))
    return [name for quality, *_, name in sorted(ranked) if quality]


def _read(text: str) -> tuple[str, int, float] | None:
    """A media range, how precise it is, and how much its type is liked."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    kind, slash, form = name.partition("/")
    if not (kind and slash and form) or (kind == "*" and form != "*"):
        return None
    given = dict(parameter.partition("=")[::2] for parameter in parameters)
    quality = given.get("q", "1").strip()
    return name, 2 - name.count("*"), float(quality) if _QUALITY.fullmatch(quality) else 1.0


def _ranges_of(name: str) -> tuple[str, str, str]:
    return name, f"{name.partition('/')[0]}/*", "*/*"
