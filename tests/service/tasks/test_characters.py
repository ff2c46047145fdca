from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInput, BundleRefused
from service.manifest import CharacterPreprocessing
from service.tasks.characters import Characters

KNOWN = ["\n", "a", "b", "é", "🙂", "."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, KNOWN)


def write(folder: Path, content: object) -> Path:
    (folder / "vocab.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def characters(folder: Path, **how: Any) -> Characters:
    return Characters(folder, CharacterPreprocessing(**how))


def refusal(folder: Path, **how: Any) -> str:
    with pytest.raises(BundleRefused) as caught:
        characters(folder, **how)
    assert caught.value.file == "vocab.json"
    return caught.value.problem


def test_a_character_is_a_token_in_the_order_of_the_vocabulary(folder: Path) -> None:
    known = characters(folder)
    assert known.encode("b🙂a\né") == [2, 4, 1, 0, 3]
    assert [known.pieces[token] for token in known.encode("aé.")] == ["a", "é", "."]
    assert known.start == 0
    assert known.encode("") == []


def test_what_an_empty_prompt_stands_for_is_the_manifests_to_say(folder: Path) -> None:
    assert characters(folder, start="🙂").start == 4


def test_similar_characters_are_read_as_the_manifest_says(folder: Path) -> None:
    known = characters(folder, replacements={"ä": "a", "…": "...", "\r": "", "b": "a"})
    assert known.encode("ä…b") == [1, 5, 5, 5, 2], "a known character is not replaced"
    assert known.encode("a\r\n") == [1, 0]
    assert known.replacements == {"ä": "a", "…": "...", "\r": ""}


def test_unknown_characters_are_named_with_what_is_known(folder: Path) -> None:
    known = characters(folder, replacements={"ä": "a"})
    with pytest.raises(BadInput) as caught:
        known.encode("äxaXx\x00")
    assert str(caught.value) == (
        "the model does not know 'x' (U+0078 LATIN SMALL LETTER X), 'X' (U+0058 LATIN CAPITAL LETTER X), "
        "'\\x00' (U+0000 unnamed); it knows '\\nabé🙂.', and reads 'ä' as similar characters"
    )


def test_of_many_unknown_characters_some_are_named(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"\(U\+0043 LATIN CAPITAL LETTER C\) and 16 others; it knows"):
        characters(folder).encode("0123456ABCDEFGHIJKLMNOPQRS")


@given(text=st.text())
def test_any_text_is_read_or_refused_as_bad_input(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    known = characters(write(tmp_path_factory.mktemp("bundle"), KNOWN), replacements={"ä": "a", "…": "..."})
    expected = "".join({"ä": "a", "…": "..."}.get(one, one) for one in text)
    try:
        tokens = known.encode(text)
    except BadInput as error:
        assert set(expected) - set(KNOWN)
        str(error).encode()
    else:
        assert "".join(known.pieces[token] for token in tokens) == expected


def test_half_a_character_is_unknown_and_the_message_can_still_be_sent(folder: Path) -> None:
    with pytest.raises(BadInput) as caught:
        characters(folder).encode("a\ud83d")
    assert "(U+D83D unnamed)" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": 0}, "must be a list of single characters"),
        (["a", "bc", "\n"], "must be a list of single characters"),
        (["a", "", "\n"], "must be a list of single characters"),
        (["a", 1, "\n"], "must be a list of single characters"),
        ([], "must have each character once, and at least one"),
        (["a", "\n", "a"], "must have each character once, and at least one"),
        (["\n", "\ud83d"], "has half of a character (a surrogate), which no text can hold"),
        (["a", "b"], "lacks ['\\n'], which start or replacements need"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, content: object, said: str) -> None:
    assert refusal(write(tmp_path, content)) == said


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocab.json").write_bytes(content)
    assert refusal(tmp_path).startswith("is no JSON (")


def test_a_replacement_must_be_known_itself(folder: Path) -> None:
    assert refusal(folder, replacements={"ä": "ax"}) == "lacks ['x'], which start or replacements need"
    assert characters(folder, replacements={"a": "x"}).replacements == {}, "it is never needed"
