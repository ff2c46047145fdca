"""Sentence pairs: Tatoeba's English and German, Multi30k, or any of one's own, parted so that no test source is learnt.

Where the publisher has no split, a pair's part is a function of its source alone: sources that differ in case,
punctuation or white space only are one group, and a group is tested on, validated on or trained on as a whole.
"""

from __future__ import annotations

import gzip
import hashlib
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.core.config import ConfigModel
from training.core.data import RemoteFile, fetch, sha256_of

Pair = tuple[str, str]
"""A source sentence and its translation."""

_TATOEBA = RemoteFile(
    "tatoeba_deu_eng",
    "deu-eng.zip",
    "https://www.manythings.org/anki/deu-eng.zip",
    "sha256:b7688f84f99fa33c17397c14d8bd9cef1fdeb2ee0bf50074767023aee8926e28",
)
_MULTI30K_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
# The md5 are those by which PyTorch's torchtext took these very files.
_MULTI30K = {
    name: RemoteFile("multi30k", name, _MULTI30K_URL + name, f"md5:{digest}")
    for name, digest in (
        ("train.en.gz", "0065d13af80720a55ca8153d126e6627"),
        ("train.de.gz", "81ff90b99829c0cd4b1b587d394afd39"),
        ("val.en.gz", "2b69aa9253948ac9f67e94917272dd40"),
        ("val.de.gz", "6e0e229eb049e3fc99a1ef02fb2d5f91"),
        ("test_2016_flickr.en.gz", "ff2c0fcb4893a13bd73414306bc250ae"),
        ("test_2016_flickr.de.gz", "efd67d314d98489b716b145475101932"),
    )
}


class DataConfig(ConfigModel):
    """Which pairs.

    Attributes:
        source: `tatoeba`, `multi30k`, `tsv` for any UTF-8 file of two columns (more are passed over) at `path`, or
            `aligned` for two UTF-8 files, `path` and `target_path`, of which a line translates the same line.
        path: of a file of one's own.
        target_path: of its translation.
        name: what the manifest calls the pairs.
        licence: of them.
    """

    source: Literal["tatoeba", "multi30k", "tsv", "aligned"] = "tatoeba"
    path: str = ""
    target_path: str = ""
    name: str = "sentence pairs"
    licence: str = "unknown"


@dataclass(frozen=True)
class Example:
    """A sentence to be translated.

    Attributes:
        source: the sentence.
        references: every translation of it that is known, at least one, all different.
    """

    source: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs in three parts.

    Attributes:
        name: as the manifest names them.
        licence: of them.
        url: where they are published, or a path.
        sha256: of their files, by name.
        train: pairs; a source may have several.
        validation: one for each sentence.
        test: one for each sentence.
    """

    name: str
    licence: str
    url: str
    sha256: dict[str, str]
    train: tuple[Pair, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


def normalised(sentence: str) -> str:
    """What sources of one group have in common: NFKC, case folded, without punctuation, white space as one space."""
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    kept = "".join(character for character in folded if not unicodedata.category(character).startswith("P"))
    return " ".join(kept.split())


def part_of(source: str) -> Literal["test", "validation", "train"]:
    """The part to which a source's group belongs: of a hundred groups one is tested and one is validated on."""
    draw = int(hashlib.sha256(normalised(source).encode()).hexdigest(), 16) % 100
    return "test" if draw == 0 else "validation" if draw == 1 else "train"


def load_corpus(config: DataConfig) -> Corpus:
    """Load the pairs of `config`.

    Raises:
        ValueError: a file is not what it should be, or has too few pairs to be split.
        OSError: it can't be read or downloaded.
    """
    if config.source == "multi30k":
        return _multi30k()
    if config.source == "tatoeba":
        path = fetch(_TATOEBA)
        with zipfile.ZipFile(path) as archive:
            pairs = _columns(archive.read("deu.txt").decode("utf-8"), f"deu.txt of {path}")
        return _parted(
            pairs,
            name="English-German sentence pairs of the Tatoeba project, by manythings.org",
            licence="CC BY 2.0; attribution: www.manythings.org/anki and tatoeba.org",
            url=_TATOEBA.url,
            files=[path],
        )
    path = Path(config.path).expanduser()
    if config.source == "tsv":
        pairs, files = _columns(path.read_text(encoding="utf-8"), str(path)), [path]
    else:
        target = Path(config.target_path).expanduser()
        sides = (one.read_text(encoding="utf-8") for one in (path, target))
        pairs, files = _aligned(*sides, name=path.name), [path, target]
    return _parted(pairs, name=config.name, licence=config.licence, url=str(path), files=files)


def shared_targets(corpus: Corpus) -> int:
    """How many of the test part's pairs have a translation that a pair of another source in train has too."""
    learnt = {target for _, target in corpus.train}
    return sum(reference in learnt for example in corpus.test for reference in example.references)


def _parted(pairs: Iterable[Pair], *, name: str, licence: str, url: str, files: Sequence[Path]) -> Corpus:
    parts: dict[str, list[Pair]] = {"test": [], "validation": [], "train": []}
    for pair in pairs:
        parts[part_of(pair[0])].append(pair)
    for part, members in parts.items():
        if not members:
            raise ValueError(f"{url} has too few pairs to be split: its {part} part is empty")
    return Corpus(
        name=name,
        licence=licence,
        url=url,
        sha256={path.name: sha256_of(path) for path in files},
        train=tuple(parts["train"]),
        validation=_examples(parts["validation"]),
        test=_examples(parts["test"]),
    )


def _multi30k() -> Corpus:
    """The publisher's split; what is left out of train are the few sources that are validated or tested on."""
    paths = {name: fetch(file) for name, file in _MULTI30K.items()}
    parts = []
    for part in ("train", "val", "test_2016_flickr"):
        sides = (_unpacked(paths[f"{part}.{language}.gz"]) for language in ("en", "de"))
        parts.append(_aligned(*sides, name=f"{part}.en.gz"))
    train, validation, test = parts
    held_out = {normalised(source) for source, _ in (*validation, *test)}
    return Corpus(
        name="Multi30k, task 1, English and German",
        licence="not stated by the publisher; captions of pictures of Flickr30k and their translations",
        url=_MULTI30K_URL,
        sha256={name: sha256_of(path) for name, path in paths.items()},
        train=tuple(pair for pair in train if normalised(pair[0]) not in held_out),
        validation=_examples(validation),
        test=_examples(test),
    )


def _examples(pairs: Iterable[Pair]) -> tuple[Example, ...]:
    references: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        references.setdefault(source, {})[target] = None
    return tuple(Example(source, tuple(targets)) for source, targets in references.items())


def _unpacked(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def _columns(content: str, name: str) -> list[Pair]:
    """The first two columns; lines end with a newline alone, as sentences may have what else Unicode ends lines by."""
    pairs = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        source, target, *_ = *(column.strip() for column in line.split("\t")), ""
        if not source or not target:
            raise ValueError(f"line {number} of {name} is no sentence, tab, translation")
        pairs.append((source, target))
    return pairs


def _aligned(sources: str, targets: str, *, name: str) -> list[Pair]:
    """Pairs of lines of the same number, without those of which one is empty."""
    of_source, of_target = (content.removesuffix("\n").split("\n") for content in (sources, targets))
    if len(of_source) != len(of_target):
        raise ValueError(f"{name} has {len(of_source)} lines, and its translation has {len(of_target)}")
    pairs = ((source.strip(), target.strip()) for source, target in zip(of_source, of_target, strict=True))
    return [pair for pair in pairs if all(pair)]
