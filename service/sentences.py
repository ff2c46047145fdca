"""Cutting a text into sentences, and into what lies between them and stays as it is.

No letter is lost: the pieces, joined, are the text. A sentence ends where the line does, and at a stop that is followed
by white space and then by something that may begin a sentence. What is no language is kept as it is and stands
between sentences: white space, tags, addresses of pages and of mail, and all that has no letter in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """A part of a text: a sentence, or what is kept as it is."""

    text: str
    is_sentence: bool


# Each pattern looks at a character a bounded number of times, whatever the text: where a repetition could begin in the
# middle of what it has seen already, a look back forbids it.
_KEPT = re.compile(
    r"""
      (?<!\s)\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*                  # line breaks, with the white space around them
    | </?[a-zA-Z][a-zA-Z0-9:-]*(?:\s[^<>]*)?/?>                         # tags
    | (?<!\w)(?:(?:https?|ftp)://|www\.)[^\s<>"']*[^\s<>"'.,;:!?)\]}…]  # addresses of pages
    | (?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+           # addresses of mail
    """,
    re.VERBOSE,
)
_OPENING = "\"'“„‚‘«»‹›([{¿¡「『（【"
_CLOSING = "\"'”“’‘»«›‹)\\]}」』）】"
_STOP = re.compile(
    rf"(?<![.!?…؟۔।])(?P<stop>[.!?…؟۔।]+)[{_CLOSING}]*(?P<space>\s+)"  # needs white space
    rf"|[。！？｡]+[{_CLOSING}]*(?P<none>\s*)"  # needs none
)
_WORD = re.compile(r"\w")
_SYMBOL = re.compile(r"[^\w\s.!?…,;:&%$€£@\"'“”„‚‘’«»‹›()\[\]{}¿¡]")
_CLAUSE = re.compile(r"[,;:،؛—–](?=\s)|[、，；：]")

_TITLES = re.compile(
    "Mr|Mrs|Ms|Dr|Prof|St|Mt|Rev|Gen|Col|Capt|Lt|Sgt|Gov|Sen|Rep|Hon|vs|approx|ca|cf|"
    "Hr|Hrn|Fr|Dipl|Ing|bzw|evtl|ggf|inkl|exkl|zzgl|max|min|vgl|sog|geb|gest|Mio|Mrd|Tel|Str|Hl"
)
"""Abbreviations that something always follows, of English and of German."""
_BEFORE_NUMBERS = re.compile(
    "[Nn]o|[Nn]r|[Ff]ig|[Vv]ol|pp?|Art|Abs|Kap|Bd|S|Jan|Feb|Mar|Apr|Aug|Sept|O[ck]t|Nov|De[cz]"
)
"""Abbreviations that a number follows; else the sentence has ended."""
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
"""Such as e.g. or z.B., without the last stop."""
_ORDINALS = frozenset({"de", "da", "nb", "nn", "no", "fi", "cs", "sk", "hu", "et", "lv", "hr", "sl"})
"""Languages that write ordinal numbers with a stop."""
_JOINER = "\u200d"


def cut(text: str, language: str) -> list[Piece]:
    """Cut `text` into sentences of `language`, as ISO 639 has it, and what lies between them."""
    pieces: list[Piece] = []
    begin = 0
    for kept in _KEPT.finditer(text):
        pieces += _sentences(text[begin : kept.start()], language)
        pieces.append(Piece(kept.group(), False))
        begin = kept.end()
    pieces += _sentences(text[begin:], language)
    return [piece for piece in pieces if piece.text]


def parts_that_fit(sentence: str, most: int, ends: Callable[[str], Sequence[int]]) -> Iterator[Piece]:
    """Cut a sentence that is too long: after a comma or the like if that leaves enough, else at a space, else anywhere.

    Args:
        sentence: as it stands in the text.
        most: tokens that a part may have; as many as the longest character needs.
        ends: for each token of a text, how much of the text has been read with it.
    """
    while sentence:
        # No further than the largest part may reach: the whole of it would be read again for each part.
        window = sentence[: 6 * most]
        read = ends(window)
        if len(read) <= most and len(window) == len(sentence):
            yield Piece(sentence, True)
            return
        room = len(window) if len(read) <= most else read[most - 1]
        end = _last_gap(window, room)
        while len(ends(window[:end])) > most:
            end = _last_gap(window, end - 1)
        yield Piece(window[:end], True)
        rest = sentence[end:].lstrip()
        if space := sentence[end : len(sentence) - len(rest)]:
            yield Piece(space, False)
        sentence = rest


def _sentences(run: str, language: str) -> Iterator[Piece]:
    """Cut what has no line breaks in it."""
    begin = 0
    for stop in _STOP.finditer(run):
        if stop["space"] is None or _ends_a_sentence(run, begin, stop, language):
            end = stop.start("space" if stop["none"] is None else "none")
            yield from _trimmed(run[begin:end])
            yield Piece(run[end : stop.end()], False)
            begin = stop.end()
    yield from _trimmed(run[begin:])


def _ends_a_sentence(run: str, begin: int, stop: re.Match[str], language: str) -> bool:
    """Whether a stop is the end of the sentence that began at `begin`."""
    following = next((sign for sign in run[stop.end() : stop.end() + 8] if sign not in _OPENING), "")
    if following.islower():
        return False
    if stop["stop"] != ".":
        return True
    place = stop.start()
    while place > begin and not run[place - 1].isspace():
        place -= 1
    word = run[place : stop.start()].lstrip(_OPENING)
    if _TITLES.fullmatch(word) or _DOTTED.fullmatch(word):
        return False
    if _BEFORE_NUMBERS.fullmatch(word):
        return not following.isdecimal()
    if word.isdecimal():
        return len(word) > 2 or language not in _ORDINALS
    return len(word) != 1 or not word.isalpha() or word == "I"  # else an initial, or one of "z. B."


def _trimmed(text: str) -> Iterator[Piece]:
    """A sentence without what stands alone at its edges: white space, stray stops, bullets, emoji and other symbols."""
    word = _WORD.search(text)
    begin = word.start() if word else len(text)
    while word and begin and not text[begin - 1].isspace():
        begin -= 1
    end = len(text)
    while end > begin:
        before = end
        while _SYMBOL.match(text, before - 1):
            before -= 1
        if not text[before - 1].isspace():
            break
        while text[before - 1].isspace():
            before -= 1
        end = before
    yield Piece(text[:begin], False)
    yield Piece(text[begin:end], any(map(str.isalpha, text[begin:end])))
    yield Piece(text[end:], False)


def _last_gap(text: str, room: int) -> int:
    """Where to cut `text` so that at most `room` characters are before it, at least 1."""
    clause = max((match.end() for match in _CLAUSE.finditer(text, 0, room)), default=0)
    if 3 * clause > room:
        return clause
    end = next((place for place in range(room, 0, -1) if text[place : place + 1].isspace()), room)
    while end > 1 and _goes_with_the_one_before(text, end):
        end -= 1
    return end if end > 1 else max(room, 1)


def _goes_with_the_one_before(text: str, place: int) -> bool:
    """Whether a character is a mark on the one before it, or is joined to it."""
    sign = text[place : place + 1]
    if not sign:
        return False
    return bool(unicodedata.combining(sign)) or sign == _JOINER or text[place - 1] == _JOINER or sign in _MODIFIERS


_MODIFIERS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400))))
"""What says how the character before is to be drawn: variation selectors, tones of skin."""
