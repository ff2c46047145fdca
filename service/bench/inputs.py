"""Inputs that are made up for a model, the same in every run: pictures of noise, prompts, sentences, tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import pictures
from service.tensors import DTYPES

SENTENCES: Mapping[str, tuple[str, ...]] = {
    "en": (
        "The bakery on the corner opens at six.",
        "Nobody had told him that the meeting was cancelled.",
        "A small dog is sleeping under the table.",
        "We should buy some apples and a loaf of bread.",
        "It rained all night.",
        "My sister plays the violin in a large orchestra.",
        "Two men are carrying a long ladder across the street.",
        "Where did you put the green umbrella?",
        "The museum is closed on Mondays, but the garden is open.",
        "She laughed and closed the book.",
        "Please call me when you get home tonight.",
        "The old bridge was repaired last summer.",
        "Children are playing football in the park.",
        "I would rather stay here and read.",
        "He forgot his ticket, so he had to pay again.",
        "The soup is still too hot to eat.",
    ),
    "de": (
        "Die Bäckerei an der Ecke öffnet um sechs.",
        "Niemand hatte ihm gesagt, dass das Treffen ausfällt.",
        "Ein kleiner Hund schläft unter dem Tisch.",
        "Wir sollten Äpfel und ein Brot kaufen.",
        "Es hat die ganze Nacht geregnet.",
        "Meine Schwester spielt Geige in einem großen Orchester.",
        "Zwei Männer tragen eine lange Leiter über die Straße.",
        "Wohin hast du den grünen Schirm gelegt?",
        "Das Museum ist montags geschlossen, aber der Garten ist offen.",
        "Sie lachte und schlug das Buch zu.",
        "Ruf mich bitte an, wenn du heute Abend zu Hause bist.",
        "Die alte Brücke wurde letzten Sommer repariert.",
        "Im Park spielen Kinder Fußball.",
        "Ich würde lieber hierbleiben und lesen.",
        "Er hatte seine Karte vergessen und musste noch einmal bezahlen.",
        "Die Suppe ist noch zu heiß.",
    ),
}
"""By language. What is asked in another language is asked in English: it takes as long."""

_PROMPT = 8
"""Characters of a prompt."""
_DIGITS = 7
"""Of a fraction in JSON: about what float32 has."""


def noise(width: int, height: int, channels: int, random: np.random.Generator) -> bytes:
    """A PNG of noise, which nothing could say in less."""
    return pictures.write(random.integers(0, 256, (height, width, channels), np.uint8), "png")


def prompts(characters: str, count: int) -> list[str]:
    """Texts of small letters and spaces if a model that knows `characters` knows any, else of what it knows."""
    random = np.random.default_rng(1)
    known = [one for one in characters if one.islower() or one == " "] or sorted(characters)
    return ["".join(random.choice(known, _PROMPT)) for _ in range(count)]


def sentences(language: str) -> Sequence[str]:
    """Sentences in a language, or in English."""
    return SENTENCES.get(language.lower(), SENTENCES["en"])


def tensor(datatype: str, shape: Sequence[int], random: np.random.Generator) -> NDArray[Any]:
    """Numbers that most graphs take: floats in [0, 1), whole numbers 0 and 1, which are indices too, texts a and b."""
    dtype = DTYPES[datatype]
    if dtype.kind == "f" or datatype == "BF16":
        return np.asarray(random.random(shape)).astype(dtype)
    bits = np.asarray(random.integers(0, 2, shape))
    return np.array(["a", "b"], object)[bits] if datatype == "BYTES" else bits.astype(dtype)


def nested(array: NDArray[Any]) -> Any:
    """The elements as JSON has them, nested as the array is; fractions in as many digits as float32 has."""
    if array.dtype.kind in "biuO":
        return array.tolist()
    return np.round(array.astype(np.float64), _DIGITS).tolist()
