from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from service.ngrams import ngram_ids
from tests.training.image_generation.conftest import write_captions
from training.core.seeding import generator
from training.image_classification.data import _PUBLISHED
from training.image_generation.captions import (
    NOTHING,
    THING,
    Caption,
    Captions,
    draw_caption,
    load_captions,
    token_ids,
)

FOLDER = Path(__file__).parents[3] / "training" / "image_generation" / "captions"
LABELS = _PUBLISHED["fashion_mnist"].labels
COLOURS = ("blue", "green", "red")


@pytest.fixture(scope="module")
def captions() -> Captions:
    return load_captions("fashion_mnist", LABELS)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _key(text: str) -> str:
    """What texts have in common that differ in case, punctuation or an article only."""
    return " ".join(word for word in re.findall(r"\w+", text.casefold()) if word not in ("a", "an", "the"))


# The lists that are committed


def test_there_are_some_hundred_texts_to_measure_by_and_every_class_is_among_them(captions: Captions) -> None:
    assert {name: len(texts) >= 80 for name, texts in captions.tests.items()} == {
        "new_words": True, "new_patterns": True, "off_topic": True,
    }  # fmt: skip
    for name in ("new_words", "new_patterns"):
        counts = Counter(one.label for one in captions.tests[name])
        assert set(counts) == set(range(10))
        assert min(counts.values()) >= 8
    assert {one.label for one in captions.tests["off_topic"]} == {NOTHING}
    assert len(captions.tests["off_topic"]) >= 200


def test_no_text_is_in_two_lists(captions: Captions) -> None:
    lists = {name: [_key(one.text) for one in texts] for name, texts in captions.tests.items()}
    lists["validation"] = [_key(one.text) for one in captions.validation]
    lists["train"] = [_key(text) for text in (*captions.other_things, *captions.other_texts)]
    lists["names"] = [_key(name) for names in captions.names for name in names]
    counts = Counter(text for texts in lists.values() for text in set(texts))
    assert [text for text, count in counts.items() if count > 1 and text] == []


def test_no_text_is_twice_in_a_list(captions: Captions) -> None:
    for texts in (captions.validation, *captions.tests.values()):
        assert [text for text, count in Counter(one.text for one in texts).items() if count > 1] == []
    for names in (*captions.names, captions.other_things, captions.other_texts):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_a_name_means_one_class(captions: Captions) -> None:
    counts = Counter(name for names in captions.names for name in {_key(name) for name in names})
    assert [name for name, count in counts.items() if count > 1] == []
    assert not {_key(thing) for thing in captions.other_things} & set(counts)


def test_new_words_have_a_word_that_train_does_not_have(captions: Captions) -> None:
    train = (FOLDER / "fashion_mnist" / "train.toml").read_text(encoding="utf-8")
    learnt = _words(train.partition("patterns = ")[2])
    table = tomllib.loads((FOLDER / "fashion_mnist" / "test.toml").read_text(encoding="utf-8"))["new_words"]
    assert [name for names in table.values() for name in names if not _words(name) - learnt] == []


def test_new_words_are_in_patterns_of_train_and_new_patterns_are_not(captions: Captions) -> None:
    patterns = {pattern for pattern in captions.patterns if pattern != THING}
    forms = [re.compile(re.escape(one).replace(re.escape(THING), ".+"), re.IGNORECASE) for one in patterns]

    def known(text: str) -> bool:
        return any(form.fullmatch(text) for form in forms)

    assert sum(known(one.text) for one in captions.tests["new_words"]) > 130  # the others are in the bare pattern
    assert [one.text for one in captions.tests["new_patterns"] if known(one.text)] == []


def test_new_patterns_are_about_names_of_train(captions: Captions) -> None:
    # One word, at least, of what train calls the class; else the text is new in every way.
    for one in captions.tests["new_patterns"]:
        assert _words(one.text) & {word for name in captions.names[one.label] for word in _words(name)}, one.text


def test_every_published_data_set_whose_captions_there_are_is_met_in_all_its_classes() -> None:
    for folder in FOLDER.iterdir():
        load_captions(folder.name, _PUBLISHED[folder.name].labels)


# Loading


def test_captions_are_read_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    captions = load_captions(str(write_captions(tmp_path)), COLOURS)
    assert captions.names[0] == ("blue", "azure", "the colour of the sea")
    assert captions.tests["new_words"] == (
        Caption("a sky blue", 0), Caption("draw azures", 0), Caption("a picture of a lime green", 1),
        Caption("a ruby red", 2),
    )  # fmt: skip
    assert captions.tests["off_topic"] == (Caption("a cow", NOTHING), Caption("nine of them", NOTHING))
    assert len(captions.validation) == 9


@pytest.mark.parametrize("labels", [("blue", "green"), ("blue", "green", "red", "white"), ("Blue", "green", "red")])
def test_captions_of_other_classes_are_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"train\.toml, \[classes\] has the classes"):
        load_captions(str(write_captions(tmp_path)), labels)


def test_a_table_that_lacks_a_class_is_named(tmp_path: Path) -> None:
    write_captions(tmp_path)
    path = tmp_path / "test.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('red = ["stop', 'rot = ["stop'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"test\.toml, \[new_patterns\]"):
        load_captions(str(tmp_path), COLOURS)


# Drawing


def _drawn(captions: Captions, count: int, **how: float) -> list[Caption]:
    asked = {"nothing": 0.4, "typos": 0.0, **how}
    return [draw_caption(captions, generator("test", number), **asked) for number in range(count)]


def test_captions_are_drawn_of_every_class_and_of_none_as_often_as_asked(captions: Captions) -> None:
    counts = Counter(one.label for one in _drawn(captions, 2000))
    assert counts[NOTHING] / 2000 == pytest.approx(0.4, abs=0.04)
    assert all(counts[number] / 2000 == pytest.approx(0.06, abs=0.02) for number in range(10))


def test_a_caption_of_a_class_has_one_of_its_names(captions: Captions) -> None:
    for one in _drawn(captions, 300, nothing=0.0):
        assert any(name in one.text for name in captions.names[one.label]), one.text
        assert THING not in one.text


def test_what_is_drawn_is_a_function_of_the_generator(captions: Captions) -> None:
    assert _drawn(captions, 20, typos=0.5) == _drawn(captions, 20, typos=0.5)


def test_a_typing_error_loses_a_letter_or_changes_two(captions: Captions) -> None:
    pairs = list(zip(_drawn(captions, 200), _drawn(captions, 200, typos=1.0), strict=True))
    assert sum(right.text != wrong.text for right, wrong in pairs) > 120
    for right, wrong in pairs:
        assert len(right.text) - len(wrong.text) in (0, 1)
        assert not Counter(wrong.text) - Counter(right.text)


def test_nothing_of_validation_or_test_is_ever_drawn(captions: Captions) -> None:
    held_out = {one.text for texts in (captions.validation, *captions.tests.values()) for one in texts}
    assert not held_out & {one.text for one in _drawn(captions, 3000)}


def test_texts_are_read_as_the_bundle_says() -> None:
    assert token_ids("boot", 1000) == ngram_ids("boot", buckets=1000, shortest=3, longest=5, most=1024)
