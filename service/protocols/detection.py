"""Which language a text is in, as far as its letters tell."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

_MOST_CHARACTERS: Final = 10_000
_INLINE_CHARACTERS: Final = 1000
"""So many are looked at in half a millisecond."""


class Candidate(NamedTuple):
    """A language, and how likely it is among all that are known, 0 to 1."""

    language: str
    likelihood: float


class Detector:
    """Tells languages apart. What it knows of them (80 MB) is read when it is first asked, which takes a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._identifier: Any = None

    def is_slow(self, texts: Sequence[str]) -> bool:
        """Whether `rank` belongs in a thread."""
        return self._identifier is None or sum(map(len, texts)) > _INLINE_CHARACTERS

    def rank(self, texts: Sequence[str], languages: Collection[str]) -> list[Candidate]:
        """Say how likely each of some languages is, the likeliest first.

        Args:
            texts: in one language, all together; their first 10,000 characters are looked at.
            languages: as ISO 639 has them; those that are not known are left out.

        Returns:
            Nothing where there are no letters. Likelihoods add up to less than 1 as others may be as likely.
        """
        text = "\n".join(texts)[:_MOST_CHARACTERS]
        if not any(map(str.isalpha, text)):
            return []
        likelihoods = dict(self._loaded().rank(text))
        candidates = [Candidate(one, likelihoods[one]) for one in sorted(languages) if one in likelihoods]
        return sorted(candidates, key=lambda one: -one.likelihood)

    def _loaded(self) -> Any:
        with self._lock:
            if self._identifier is None:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier  # who asks for no language need not load it

                self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
            return self._identifier
