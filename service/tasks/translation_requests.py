"""What every dialect asks a translation for in its own words, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Source(NamedTuple):
    """A sentence that is translated.

    Attributes:
        text: as it stands in the text that it is of.
        start: its place there, in characters.
    """

    text: str
    start: int


@dataclass(frozen=True)
class TranslationRequest:
    """What every dialect asks for in its own words.

    Attributes:
        sentences: tokens of each sentence that is translated, the end token included.
        beams: beginnings that are kept of each.
        length_penalty: the exponent.
        hypotheses: so many finished translations of each are wanted, at most as many as beams.
        limits: of each sentence: tokens after which its translation is cut off.
        alignment: whether it is told where the model looked.
        sources: of each sentence.
        texts: of each text, what it is put together from: what is kept as it is, and indices of sentences.
        markup: whether the texts are HTML.
    """

    sentences: Sequence[Sequence[int]]
    beams: int
    length_penalty: float
    hypotheses: int
    limits: Sequence[int]
    alignment: bool
    sources: Sequence[Source]
    texts: Sequence[Sequence[str | int]]
    markup: bool = False


@dataclass(frozen=True)
class Translated:
    """What became of a text.

    Attributes:
        text: its translation.
        alternatives: other translations, the best first, as many as could be found of those that were asked for.
        alignment: of each of its sentences, ready for JSON, if it was asked for; see `docs/api.md`.
    """

    text: str
    alternatives: Sequence[str] = ()
    alignment: Sequence[Mapping[str, object]] | None = None
