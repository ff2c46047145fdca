"""Texts as a model's tokens, one a character."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from service.errors import BadInput, BundleRefused
from service.manifest import CharacterPreprocessing, FileEntry, read_file

_MOST_NAMED = 10
_MOST_BYTES = 16 * 2**20


class Characters:
    """The vocabulary of a bundle: which characters its model knows, and what stands in for some others.

    Args:
        folder: the bundle's folder.
        how: what its manifest says of characters,
        entry: and of the vocabulary's file.

    Attributes:
        pieces: the text of each token, by its id.
        start: the token that an empty prompt stands for.
        replacements: what is read in place of characters that the model doesn't know.

    Raises:
        BundleRefused: the vocabulary is no list of different single characters, or what the manifest says needs
            characters that are not in it.
    """

    def __init__(self, folder: Path, how: CharacterPreprocessing, entry: FileEntry | None = None) -> None:
        self.pieces = _read_vocabulary(folder, how.vocabulary, entry)
        self._tokens = {piece: token for token, piece in enumerate(self.pieces)}
        self.replacements = {one: text for one, text in how.replacements.items() if one not in self._tokens}
        needed = {how.start, *"".join(self.replacements.values())}
        if missing := sorted(needed - set(self.pieces)):
            raise BundleRefused(how.vocabulary, f"lacks {missing}, which start or replacements need")
        self.start = self._tokens[how.start]

    def encode(self, text: str) -> list[int]:
        """Make tokens of `text`, a replaced character giving as many as its replacement has.

        Raises:
            BadInput: it has characters that the model doesn't know; some are named.
        """
        known = self._tokens
        try:
            return [known[character] for character in text]
        except KeyError:
            text = "".join(self.replacements.get(character, character) for character in text)
        unknown = list(dict.fromkeys(character for character in text if character not in known))
        if unknown:
            more = f" and {len(unknown) - _MOST_NAMED} others" if len(unknown) > _MOST_NAMED else ""
            raise BadInput(
                f"the model does not know {', '.join(map(_named, unknown[:_MOST_NAMED]))}{more}; it knows "
                f"{''.join(self.pieces)!r}, and reads {''.join(self.replacements)!r} as similar characters"
            )
        return [known[character] for character in text]


def _named(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'unnamed')})"


def _read_vocabulary(folder: Path, name: str, entry: FileEntry | None) -> Sequence[str]:
    try:
        pieces = json.loads(read_file(folder, name, most=_MOST_BYTES, entry=entry))
    except (ValueError, RecursionError) as error:
        raise BundleRefused(name, f"is no JSON ({error})") from error
    if not isinstance(pieces, list) or not all(isinstance(piece, str) and len(piece) == 1 for piece in pieces):
        raise BundleRefused(name, "must be a list of single characters")
    if not pieces or len(set(pieces)) != len(pieces):
        raise BundleRefused(name, "must have each character once, and at least one")
    if any("\ud800" <= piece <= "\udfff" for piece in pieces):
        raise BundleRefused(name, "has half of a character (a surrogate), which no text can hold")
    return tuple(pieces)
