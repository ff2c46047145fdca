"""Where a model looked for what it wrote, in pieces that can be read: tokens may be less than a character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.beams import Hypothesis
from service.tasks.tokens import Span, Tokens
from service.tasks.translation_requests import Source


def aligned(tokens: Tokens, source: Source, translation: Hypothesis, place: int) -> Mapping[str, object]:
    """Say of each piece of a translation how much it was written for which piece of its sentence.

    Args:
        tokens: of both.
        source: the sentence.
        translation: with its attention, a row for each of its tokens.
        place: where it stands in the translation of its text, in characters.

    Returns:
        Ready for JSON; see `docs/api.md`.
    """
    assert translation.attention is not None  # noqa: S101 - it was asked for
    read = _characters(tokens.spans(source.text), len(source.text))
    pieces = tokens.pieces(translation.tokens)
    counts = [count for _, count in pieces]
    texts = [text for text, _ in pieces]
    if len(translation.attention) > len(translation.tokens):
        counts.append(1)
        texts.append("")
    weights = _summed(translation.attention[:, : sum(count for _, count in read)], [count for _, count in read], 1)
    weights = _summed(weights, counts, 0) / np.array(counts)[:, None]
    return {
        "source": [
            {"text": source.text[start:end], "start": source.start + start, "end": source.start + end}
            for (start, end), _ in read
        ],
        "target": [
            {"text": text, "start": place + end - len(text), "end": place + end}
            for text, end in zip(texts, accumulate(map(len, texts)), strict=True)
        ],
        "weights": np.round(weights, 4).tolist(),
    }


def _characters(spans: Sequence[Span], length: int) -> list[tuple[Span, int]]:
    """What the tokens of a sentence were read from, without gaps, and how many each is; the last is the end token."""
    starts: list[int] = []
    counts: list[int] = []
    read = 0
    for span in spans:
        if starts and span.start < read:
            counts[-1] += 1
        else:
            starts.append(span.start if starts else 0)
            counts.append(1)
        read = max(read, span.end)
    ends = [*starts[1:], length]
    read_from = [Span(*ends_of) for ends_of in zip(starts, ends, strict=True)] if starts else []
    return [*zip(read_from, counts, strict=True), (Span(length, length), 1)]


def _summed(array: NDArray[Any], counts: Sequence[int], axis: int) -> NDArray[np.float64]:
    """Sums of so many neighbours each along an axis."""
    begins = np.cumsum([0, *counts[:-1]])
    return np.add.reduceat(array.astype(np.float64), begins, axis=axis)
