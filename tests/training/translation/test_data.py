from __future__ import annotations

import gzip
import hashlib
from itertools import product
from pathlib import Path

import pytest

from tests.training.translation.conftest import sentences
from training.core.data import RemoteFile
from training.translation import data
from training.translation.data import Corpus, DataConfig, load_corpus, normalised, part_of, shared_targets


def _tsv(path: Path, content: str) -> DataConfig:
    path.write_text(content, encoding="utf-8")
    return DataConfig(source="tsv", path=str(path), name="mine", licence="CC0-1.0")


def _lines(pairs: list[tuple[str, str]]) -> str:
    return "".join(f"{source}\t{target}\n" for source, target in pairs)


def _leaks(corpus: Corpus) -> set[str]:
    learnt = {normalised(source) for source, _ in corpus.train}
    return learnt & {normalised(one.source) for one in (*corpus.validation, *corpus.test)}


# The split


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Go!", "go"),
        (" What's  that\u00a0thing?\n", "whats that thing"),
        ("STRAẞE, Straße", "strasse strasse"),
        ("\ufb01ne \u2460 \uff26", "fine 1 f"),
        ("«¿No—yes?»", "noyes"),
        ("5 + 3 = 8 €", "5 + 3 = 8 €"),
        ("...", ""),
    ],
)
def test_sources_are_normalised_before_they_are_compared(sentence: str, expected: str) -> None:
    assert normalised(sentence) == expected


def test_a_part_is_the_remainder_of_a_digest_of_what_is_normalised() -> None:
    def remainder(sentence: str) -> int:
        return int(hashlib.sha256(normalised(sentence).encode()).hexdigest(), 16) % 100

    names = {0: "test", 1: "validation"}
    drawn = [f"sentence {number}" for number in range(1000)]
    assert [part_of(one) for one in drawn] == [names.get(remainder(one), "train") for one in drawn]
    assert {part_of(one) for one in drawn} == {"test", "validation", "train"}


def test_no_source_that_is_held_out_is_in_train_however_it_is_written(tmp_path: Path) -> None:
    ways = (str.upper, str.lower, lambda text: text.replace(".", " !"), lambda text: f"\u201c{text}\u201d")
    pairs = [(way(source), target) for (source, target), way in product(sentences(), ways)]
    corpus = load_corpus(_tsv(tmp_path / "a.tsv", _lines(pairs)))
    assert _leaks(corpus) == set()
    held_out = [one.source for one in (*corpus.validation, *corpus.test)]
    assert len(held_out) == len(set(held_out)) == 4 * len({normalised(source) for source in held_out})
    total = sum(len(one.references) for one in (*corpus.validation, *corpus.test)) + len(corpus.train)
    assert total == len(set(pairs))


@pytest.mark.data
def test_tatoeba_is_split_as_it_is_reported_and_no_test_source_is_in_train(tatoeba: Path) -> None:
    assert tatoeba.is_dir()
    corpus = load_corpus(DataConfig())
    assert _leaks(corpus) == set()
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (166_370, 1396, 1319)
    assert sum(len(one.references) for one in corpus.test) == 1675
    assert sum(len(one.references) for one in corpus.validation) == 1768
    assert shared_targets(corpus) == 177
    assert corpus.sha256["deu-eng.zip"].startswith("b7688f84")


def test_every_translation_of_a_sentence_is_a_reference_once(tmp_path: Path) -> None:
    pairs = sentences()
    held_out = next(source for source, _ in pairs if part_of(source) == "test")
    more = [(held_out, "eins"), (held_out, "zwei"), (held_out, "eins")]
    corpus = load_corpus(_tsv(tmp_path / "a.tsv", _lines([*pairs, *more])))
    (example,) = (one for one in corpus.test if one.source == held_out)
    assert example.references[-2:] == ("eins", "zwei")
    assert len(example.references) == len(set(example.references))


def test_translations_that_were_learnt_with_another_source_are_counted(tmp_path: Path) -> None:
    pairs = sentences()
    held_out = next(source for source, _ in pairs if part_of(source) == "test")
    learnt = next(target for source, target in pairs if part_of(source) == "train")
    before = load_corpus(_tsv(tmp_path / "a.tsv", _lines(pairs)))
    after = load_corpus(_tsv(tmp_path / "a.tsv", _lines([*pairs, (held_out, learnt)])))
    assert (shared_targets(before), shared_targets(after)) == (0, 1)


# Files


def test_a_tsv_has_two_columns_and_what_more_it_has_is_passed_over(tmp_path: Path) -> None:
    pairs = sentences()
    rows = "\r\n".join(f" {source}\t{target} \tCC-BY 2.0\tsomeone" for source, target in pairs)
    corpus = load_corpus(_tsv(tmp_path / "a.tsv", rows + "\r\n\r\n"))
    assert set(corpus.train) == {pair for pair in pairs if part_of(pair[0]) == "train"}
    assert (corpus.name, corpus.licence, list(corpus.sha256)) == ("mine", "CC0-1.0", ["a.tsv"])


def test_a_line_ends_at_a_newline_alone(tmp_path: Path) -> None:
    odd = ("One\u2028two\x85three\x0cfour.", "Eins\u2028zwei.")
    corpus = load_corpus(_tsv(tmp_path / "a.tsv", _lines([*sentences(), odd])))
    everything = {*corpus.train, *((one.source, target) for one in corpus.test for target in one.references)}
    assert odd in everything


@pytest.mark.parametrize("line", ["no tab", "source\t", "\ttarget", "source\t \tthird"])
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"line 2 of .*a\.tsv is no sentence, tab, translation"):
        load_corpus(_tsv(tmp_path / "a.tsv", f"One.\tEins.\n{line}\n"))


def test_too_few_pairs_to_be_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.tsv has too few pairs to be split"):
        load_corpus(_tsv(tmp_path / "a.tsv", "One.\tEins.\nTwo.\tZwei.\n"))


def _two_files(folder: Path, pairs: list[tuple[str, str]]) -> DataConfig:
    paths = folder / "a.en", folder / "a.de"
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
    return DataConfig(source="aligned", path=str(paths[0]), target_path=str(paths[1]), name="mine")


def test_two_aligned_files_are_the_same_pairs_as_a_tsv(tmp_path: Path) -> None:
    pairs = sentences()
    aligned = load_corpus(_two_files(tmp_path, [*pairs[:9], ("", "leer"), ("empty", ""), *pairs[9:]]))
    tsv = load_corpus(_tsv(tmp_path / "a.tsv", _lines(pairs)))
    assert (aligned.train, aligned.validation, aligned.test) == (tsv.train, tsv.validation, tsv.test)
    assert set(aligned.sha256) == {"a.en", "a.de"}


def test_files_of_another_length_each_are_refused(tmp_path: Path) -> None:
    config = _two_files(tmp_path, sentences())
    with (tmp_path / "a.de").open("a", encoding="utf-8") as stream:
        stream.write("Noch einer.\n")
    count = len(sentences())
    with pytest.raises(ValueError, match=rf"a\.en has {count} lines, and its translation has {count + 1}"):
        load_corpus(config)


def test_multi30k_keeps_its_split_but_for_sources_of_train_that_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        "train": [("A man.", "Ein Mann."), ("A dog runs!", "Ein Hund rennt!"), ("A cat.", "Eine Katze.")],
        "val": [("a cat", "eine Katze")],
        "test_2016_flickr": [("A dog runs.", "Ein Hund rennt."), ("A bird.", "Ein Vogel.")],
    }
    files = {}
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for part, pairs in parts.items():
        for language, side in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            content = gzip.compress("".join(f"{line}\n" for line in side).encode())
            name = f"{part}.{language}.gz"
            (folder / name).write_bytes(content)
            files[name] = RemoteFile("multi30k", name, "nowhere", f"sha256:{hashlib.sha256(content).hexdigest()}")
    assert files.keys() == data._MULTI30K.keys()
    monkeypatch.setattr(data, "_MULTI30K", files)
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))
    corpus = load_corpus(DataConfig(source="multi30k"))
    assert corpus.train == (("A man.", "Ein Mann."),)
    assert [one.source for one in corpus.validation] == ["a cat"]
    assert [one.references for one in corpus.test] == [("Ein Hund rennt.",), ("Ein Vogel.",)]
