"""What is read of a short text: its words, parts of them and pairs of them, as numbers; for service and training."""

from __future__ import annotations

import re
import unicodedata
import zlib
from itertools import pairwise

PAD, NONE = 0, 1
"""The number that fills a row up, and the number of a text that has no word."""

_FIRST = 2
_WORD = re.compile(r"\w+")


def ngrams(text: str, *, shortest: int, longest: int, most: int) -> list[str]:
    """Pairs of neighbouring words, words, and runs of `shortest` to `longest` letters of each; `most` at most.

    Case, punctuation and the way in which Unicode writes a letter make no difference. `<` and `>` are a word's ends.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    found = [f"{first} {second}" for first, second in pairwise(words)]
    for word in (f"<{word}>" for word in words):
        found.append(word)
        for length in range(shortest, min(longest, len(word) - 1) + 1):
            found += [word[begin : begin + length] for begin in range(len(word) - length + 1)]
        if len(found) >= most:
            break
    return found[:most]


def ngram_ids(text: str, *, buckets: int, shortest: int, longest: int, most: int) -> list[int]:
    """The numbers of a text's n-grams, 2..`buckets` - 1, each shared with others by chance; [1] of none."""
    found = ngrams(text, shortest=shortest, longest=longest, most=most)
    return [_FIRST + zlib.crc32(one.encode()) % (buckets - _FIRST) for one in found] or [NONE]
