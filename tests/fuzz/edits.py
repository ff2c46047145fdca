"""Ways to make something odd of something valid: of bytes, and of what JSON is made of."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Edit = tuple[str, int, bytes]
"""What is done, where (modulo the length of what there is), and bytes for it."""

Change = tuple[str, int, Any]
"""Likewise of JSON: the value takes the place of another, or is added."""

NUMBERS: Final = (
    b"0", b"-1", b"1", b"2147483648", b"4294967296", b"9223372036854775807", b"18446744073709551616", b"1e308",
    b"0.5", b"1e999", b"00", b"-0",
)  # fmt: skip
_DIGITS = re.compile(rb"\d+")

_KINDS: Final = ("flip", "put", "insert", "cut", "end", "double", "number", "swap")

edits: SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(_KINDS),
        st.integers(0, 2**18),
        st.binary(max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def edits_by(random: Random) -> list[Edit]:
    """One edit or two: many times as fast as Hypothesis draws them."""
    return [
        (random.choice(_KINDS), random.getrandbits(18), random.randbytes(random.randrange(6)))
        for _ in range(random.randint(1, 2))
    ]


def edited(content: bytes, changes: Sequence[Edit]) -> bytes:
    """Make each of some edits, one after the other."""
    for kind, place, some in changes:
        content = _edit(content, kind, place, some)
    return content


def _edit(content: bytes, kind: str, place: int, some: bytes) -> bytes:
    at = place % (len(content) + 1)
    before, after = content[:at], content[at:]
    if kind == "flip":
        return before + bytes([after[0] ^ (1 << place % 8)]) + after[1:] if after else content
    if kind == "put":
        return before + some + after[len(some) :]
    if kind == "insert":
        return before + some + after
    if kind == "cut":
        return before + after[1 + len(some) ** 3 :]
    if kind == "end":
        return before
    if kind == "double":
        return content + content[-at:] if some else before + before[-16:] + after
    if kind == "swap":
        return after + before
    numbers = list(_DIGITS.finditer(content))
    if not numbers:
        return content
    found = numbers[place % len(numbers)]
    number = NUMBERS[(some[0] if some else 0) % len(NUMBERS)]
    return content[: found.start()] + number + content[found.end() :]


_DEEP: Final = "as deep as no stack"
"""Stands for arrays in arrays: as values they would be too deep for this side, too."""

_DEEPEST: Final = 8
"""Places deeper than this are left as they are."""

ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, -(2**63), 2**64,
    10**30,
    "", " ", "a", "0", "1", "1_0", "é", "\x00", "\ud800", "\U0001f600", "漢", "../..", "a" * 600, "\n\r", "null",
    "FP32", "INT64", "BYTES", "BOOL", "bf16", "x", "bare", "auto", "en", "de",
    [], {}, [[]], [None], [1, [2]], {"a": {}}, _DEEP, [0] * 3000, list("abc"), [1.5, "a", None],
)  # fmt: skip

odd: SearchStrategy[Any] = st.one_of(
    st.sampled_from(ODD), st.text(max_size=12), st.integers(), st.floats(), st.integers(0, 40)
)

changes: SearchStrategy[list[Change]] = st.lists(
    st.tuples(st.sampled_from(("put", "put", "add", "drop", "wrap", "copy")), st.integers(0, 4096), odd),
    max_size=3,
)


def changed(value: Any, wanted: Sequence[Change]) -> Any:
    """Make each of some changes in a copy of what JSON could hold."""
    holder = [copy.deepcopy(value)]
    for kind, place, new in wanted:
        new = copy.deepcopy(new)  # it may be drawn again
        places = list(_places(holder))
        container, key = places[place % len(places)]
        old = container[key]
        if kind == "put":
            container[key] = new
        elif kind == "wrap":
            container[key] = [old]
        elif kind == "copy":
            other, there = places[(place // 7) % len(places)]
            container[key] = copy.deepcopy(other[there])
        elif kind == "add" and isinstance(old, dict):
            old[str(new)[:40]] = new
        elif kind == "add" and isinstance(old, list):
            old.append(new)
        elif kind == "drop" and container is not holder:
            del container[key]
    return holder[0]


def to_json(value: Any) -> bytes:
    """Write JSON, with NaN and halves of characters where they are."""
    return json.dumps(value).replace(f'"{_DEEP}"', "[" * 5000 + "]" * 5000).encode()


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    keys: Any = ()
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(min(len(value), 50))
    for key in keys:
        yield value, key
        yield from _places(value[key], depth + 1)
