"""Sentences as a model's tokens, which are pieces of words, and tokens as sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.errors import BundleRefused
from service.manifest import FileEntry, TokenizerPreprocessing, read_file
from service.tasks.tokenizer_file import MOST_BYTES, checked

_PANIC = "PanicException"
"""What the library raises where it meets what it thinks impossible; the class can't be imported."""
_OTHER_SPACE = re.compile(r"[^\S ]|\s\s")


class Span(NamedTuple):
    """A part of a text, by its characters."""

    start: int
    end: int


class Tokens:
    """The tokenizer of a bundle.

    Args:
        folder: the bundle's folder.
        how: what its manifest says of tokens,
        entry: and of the tokenizer's file.

    Attributes:
        size: how many tokens there are.

    Raises:
        BundleRefused: the file is no tokenizer, one that is not taken, or lacks tokens that the manifest names.
    """

    def __init__(self, folder: Path, how: TokenizerPreprocessing, entry: FileEntry | None = None) -> None:
        from tokenizers import Tokenizer  # who serves no such model need not load it

        described = checked(how.tokenizer, read_file(folder, how.tokenizer, most=MOST_BYTES, entry=entry))
        try:
            self._tokenizer = Tokenizer.from_str(described)
        except BaseException as error:  # the library raises nothing more special, and some of it is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            raise BundleRefused(how.tokenizer, f"is no tokenizer ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # what looks like one in a text is text
        self._special = frozenset({how.start, how.end, how.padding})
        self.size = self._tokenizer.get_vocab_size()
        if max(self._special) >= self.size:
            raise BundleRefused(how.tokenizer, f"has {self.size} tokens, and the manifest names {max(self._special)}")

    def encode(self, sentence: str) -> list[int]:
        """The tokens of a sentence, in which all white space counts as one space; none of them is special."""
        return list(self._tokenizer.encode(_clean(sentence), add_special_tokens=False).ids)

    def spans(self, sentence: str) -> list[Span]:
        """Where in a sentence each of its tokens comes from; several may come from one character, byte by byte."""
        spans = [
            Span(*offsets) for offsets in self._tokenizer.encode(_clean(sentence), add_special_tokens=False).offsets
        ]
        if not _OTHER_SPACE.search(sentence):
            return spans
        places = _kept_places(sentence)
        return [Span(places[start], places[end - 1] + 1) if end > start else Span(0, 0) for start, end in spans]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode([token for token in tokens if token not in self._special]))

    def pieces(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """The texts of some tokens, and how many each took: a character is several where it is written byte by byte.

        Joined, they are what `decode` gives.
        """
        whole = self.decode(tokens)
        pieces: list[tuple[str, int]] = []
        told, count = "", 0
        for place in range(1, len(tokens) + 1):
            text = whole if place == len(tokens) else self.decode(tokens[:place])
            if text is whole or (whole.startswith(text) and text.startswith(told) and not text.endswith("\ufffd")):
                pieces.append((text[len(told) :], place - count))
                told, count = text, place
        return pieces


def _clean(sentence: str) -> str:
    return " ".join(sentence.split())


def _kept_places(sentence: str) -> list[int]:
    """Where each character of a cleaned sentence stands in it."""
    begin = len(sentence) - len(sentence.lstrip())
    return [
        place
        for place, sign in enumerate(sentence)
        if place >= begin and not (sign.isspace() and sentence[place - 1].isspace())
    ]
