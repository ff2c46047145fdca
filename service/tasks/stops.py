"""Stop strings: where a text ends that grows token by token, and how much of it can be told before it is sure.

A stop string may lie across tokens, and a token across the end of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class StopWatch:
    """Is told of each token and says when the text has reached a stop string.

    Args:
        pieces: the text of each token, by its id.
        stops: not empty texts.
    """

    def __init__(self, pieces: Sequence[str], stops: Sequence[str]) -> None:
        self._pieces = pieces
        self._stops = stops
        self._longest = max(map(len, stops))
        self._tail = ""

    def __call__(self, token: int) -> bool:
        """Whether the text has a stop string that ends in this token."""
        piece = self._pieces[token]
        text = self._tail + piece
        self._tail = text[-self._longest :]
        # A stop that ended before this token would have been seen then.
        return any(stop in text[-(len(stop) + len(piece)) :] for stop in self._stops)


class Told(NamedTuple):
    """What may be told of a text now: the next tokens with their texts, the last of them perhaps cut short."""

    tokens: list[int]
    texts: list[str]


class Untold:
    """What of a text is known, and how much of it may be told: nothing that a stop string might still take away.

    Args:
        pieces: the text of each token, by its id.
        stops: not empty texts, or none.
    """

    def __init__(self, pieces: Sequence[str], stops: Sequence[str] = ()) -> None:
        self._pieces = pieces
        self._stops = stops
        self._held: list[int] = []
        self._text = ""  # of what is held

    def tell(self, tokens: Sequence[int], *, stopped: bool = False, ended: bool = False) -> Told:
        """Take in the next tokens, and give what may be told.

        Args:
            tokens: that follow those of the last call.
            stopped: whether a stop string ends the text.
            ended: whether there will be no more tokens.
        """
        pieces = self._pieces
        if not self._stops:
            return Told(list(tokens), [pieces[token] for token in tokens])
        self._held += tokens
        self._text += "".join([pieces[token] for token in tokens])
        if stopped:
            sure = min(place for stop in self._stops if (place := self._text.find(stop)) >= 0)
        elif ended:
            sure = len(self._text)
        else:
            sure = len(self._text) - max(_begun(self._text, stop) for stop in self._stops)
        told = Told([], [])
        start = 0
        for token in self._held:
            end = start + len(pieces[token])
            if end > sure and not (stopped and start < sure):
                break
            told.tokens.append(token)
            told.texts.append(self._text[start : min(end, sure)])
            start = end
        self._held = self._held[len(told.tokens) :]
        self._text = self._text[start:]
        return told


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
