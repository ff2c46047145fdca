"""Captions: texts that mean a class, and texts that mean none, to train a text encoder by and to measure it with.

They are written by hand, for one data set each, in `captions/<name>/`: `train.toml` has patterns and what to fill them
with, `validation.toml` and `test.toml` have texts of their own that none of these patterns gives.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from service.ngrams import ngram_ids

NOTHING = -1
"""The class number of a text that means no class."""

THING = "{thing}"

_FOLDER = Path(__file__).parent / "captions"
SHORTEST, LONGEST, MOST_NGRAMS = 3, 5, 1024
"""What is read of a text; see `service.ngrams`."""
_ARTICLES = ("a", "a", "the", "one", "my", "some", "", "")
_SYLLABLES = (
    "ba",
    "co",
    "dra",
    "fli",
    "gor",
    "hin",
    "ka",
    "lo",
    "mun",
    "ne",
    "pra",
    "qui",
    "ro",
    "sto",
    "tul",
    "vex",
    "wy",
    "zan",
)


@dataclass(frozen=True)
class Caption:
    """A text and the number of the class that it means, or `NOTHING`."""

    text: str
    label: int


@dataclass(frozen=True)
class Captions:
    """All texts of one data set.

    Attributes:
        patterns: with `THING` where a name goes.
        adjectives: that may come before a name.
        names: what each class is called, by its number.
        other_things: names of what is none of the classes.
        other_texts: whole texts that mean none of them.
        validation: by which a threshold is chosen.
        tests: what is measured, by name: `new_words`, `new_patterns`, `off_topic`.
    """

    patterns: tuple[str, ...]
    adjectives: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    other_things: tuple[str, ...]
    other_texts: tuple[str, ...]
    validation: tuple[Caption, ...]
    tests: Mapping[str, tuple[Caption, ...]]


def load_captions(name: str, labels: Sequence[str]) -> Captions:
    """Load the captions called `name` (or those in a folder of that path) for classes called `labels`.

    Raises:
        ValueError: they are of other classes.
        OSError: a file can't be read.
    """
    folder = _FOLDER / name if (_FOLDER / name).is_dir() else Path(name).expanduser()
    train, validation, test = (
        tomllib.loads((folder / f"{part}.toml").read_text(encoding="utf-8")) for part in ("train", "validation", "test")
    )
    for where, table in (
        ("train.toml, [classes]", train["classes"]),
        ("validation.toml, [texts]", validation["texts"]),
        ("test.toml, [new_words]", test["new_words"]),
        ("test.toml, [new_patterns]", test["new_patterns"]),
    ):
        if set(table) != set(labels):
            raise ValueError(f"{folder}: {where} has the classes {sorted(table)}, and the data {sorted(labels)}")
    patterns = tuple(train["patterns"])
    return Captions(
        patterns=patterns,
        adjectives=tuple(train["adjectives"]),
        names=tuple(tuple(train["classes"][label]) for label in labels),
        other_things=tuple(train["nothing"]["things"]),
        other_texts=tuple(train["nothing"]["sentences"]),
        validation=(*_texts(validation["texts"], labels), *_off_topic(validation)),
        tests={
            "new_words": _in_patterns(test["new_words"], labels, tuple(dict.fromkeys(patterns))),
            "new_patterns": _texts(test["new_patterns"], labels),
            "off_topic": _off_topic(test),
        },
    )


def _texts(table: Mapping[str, Sequence[str]], labels: Sequence[str]) -> tuple[Caption, ...]:
    return tuple(Caption(text, number) for number, label in enumerate(labels) for text in table[label])


def _off_topic(table: Mapping[str, Mapping[str, Sequence[str]]]) -> tuple[Caption, ...]:
    return tuple(Caption(text, NOTHING) for text in table["off_topic"]["texts"])


def _in_patterns(
    table: Mapping[str, Sequence[str]], labels: Sequence[str], patterns: Sequence[str]
) -> tuple[Caption, ...]:
    """Put each name into one of the patterns, the next one each time."""
    names = [(name, number) for number, label in enumerate(labels) for name in table[label]]
    return tuple(
        Caption(patterns[place % len(patterns)].replace(THING, name if name.endswith("s") else f"a {name}"), number)
        for place, (name, number) in enumerate(names)
    )


def draw_caption(captions: Captions, draw: torch.Generator, *, nothing: float, typos: float) -> Caption:
    """Make up a caption of the training part.

    Args:
        captions: see `Captions`.
        draw: where randomness comes from.
        nothing: how often it means no class; every second of these is a pattern around some other thing.
        typos: how often a letter is lost or two change places.
    """
    kind = _chance(draw)
    if kind < nothing / 4:
        text, label = _pick(captions.other_texts, draw), NOTHING
    elif kind < nothing / 2:
        text, label = _made_up(draw), NOTHING
        if _chance(draw) < 0.5:
            text = _pick(captions.patterns, draw).replace(THING, text)
    elif kind < nothing:
        text, label = _filled(captions, _pick(captions.other_things, draw), draw), NOTHING
    else:
        label = _below(len(captions.names), draw)
        text = _filled(captions, _pick(captions.names[label], draw), draw)
    return Caption(_mistyped(text, draw) if _chance(draw) < typos else text, label)


def token_ids(text: str, buckets: int) -> list[int]:
    """The numbers of a text's n-grams, 2..`buckets` - 1; see `service.ngrams`."""
    return ngram_ids(text, buckets=buckets, shortest=SHORTEST, longest=LONGEST, most=MOST_NGRAMS)


def _filled(captions: Captions, name: str, draw: torch.Generator) -> str:
    words = [_pick(_ARTICLES, draw)]
    if _chance(draw) < 0.3:
        words.append(_pick(captions.adjectives, draw))
    plural = "s" if _chance(draw) < 0.15 and name[-1] not in "sx" and " with" not in name else ""
    return _pick(captions.patterns, draw).replace(THING, " ".join([*words, name + plural]).strip())


def _made_up(draw: torch.Generator) -> str:
    words = ("".join(_pick(_SYLLABLES, draw) for _ in range(1 + _below(4, draw))) for _ in range(1 + _below(3, draw)))
    return " ".join(words)


def _mistyped(text: str, draw: torch.Generator) -> str:
    if len(text) < 6:
        return text
    place = 1 + _below(len(text) - 2, draw)
    if _chance(draw) < 0.5:
        return text[:place] + text[place + 1 :]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def _chance(draw: torch.Generator) -> float:
    return float(torch.rand((), generator=draw))


def _below(count: int, draw: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draw))


def _pick(options: Sequence[str], draw: torch.Generator) -> str:
    return options[_below(len(options), draw)]
