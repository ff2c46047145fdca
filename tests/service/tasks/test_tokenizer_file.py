"""Tokenizers that would eat time or memory, and what the library does with them where nobody stops it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from service.errors import BundleRefused
from service.tasks.tokenizer_file import checked
from service.tasks.tokens import Tokens
from tests.service.tasks.test_tokens import HOW
from tests.translation_bundles import tokenizer

ROOT = Path(__file__).resolve().parents[3]


def described(**changes: Any) -> dict[str, Any]:
    """Describe a tokenizer that is taken, but for `changes`."""
    found: dict[str, Any] = json.loads(tokenizer().to_str())
    return {**found, **changes}


def with_model(**changes: Any) -> dict[str, Any]:
    return described(model={**described()["model"], **changes})


def replacing(pattern: dict[str, str], content: str = "") -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def chain(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = chain(step)
    return step


BACKTRACKING = {"Regex": "(a|aa)+$"}

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "an expression that backtracks": (
        described(normalizer=replacing(BACKTRACKING)),
        "normalizer: a pattern is no plain text: regular expressions are not taken",
    ),
    "an expression that words are split by": (
        described(pre_tokenizer={"type": "Split", "pattern": BACKTRACKING, "behavior": "Isolated", "invert": False}),
        "pre_tokenizer: a pattern is no plain text",
    ),
    "an expression deep inside": (
        described(normalizer=chain(chain({"type": "NFC"}, replacing(BACKTRACKING)))),
        "normalizer: a pattern is no plain text",
    ),
    "an expression in the decoder": (
        described(decoder=replacing(BACKTRACKING)),
        "decoder: a pattern is no plain text",
    ),
    "an expression as text": (
        described(normalizer={"type": "Replace", "pattern": "(a|aa)+$", "content": ""}),
        "normalizer: a pattern is no plain text",
    ),
    "a bomb": (
        described(normalizer=chain(*[replacing({"String": "a"}, "a" * 100)] * 3)),
        "normalizer: a replacement is longer than what it replaces",
    ),
    "a bomb of answers": (
        described(decoder=replacing({"String": "a"}, "a" * 100)),
        "decoder: a replacement is longer than what it replaces",
    ),
    "something for nothing": (
        described(normalizer=replacing({"String": ""}, "")),
        "normalizer: a pattern is no plain text",
    ),
    "a prefix that is a book": (
        described(normalizer={"type": "Prepend", "prepend": "a" * 17}),
        "prepends more than 16",
    ),
    "bytes of bytes": (
        described(normalizer=chain(*[{"type": "ByteLevel"}] * 2)),
        "'ByteLevel' is there more than once",
    ),
    "many steps": (described(normalizer=chain(*[{"type": "NFC"}] * 16)), "normalizer: has more than 16 steps"),
    "steps one in the other": (described(normalizer=nested(100)), "normalizer: has more than 16 steps"),
    "a table of its own": (
        described(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "normalizer: 'Precompiled' is none of BertNormalizer, ",
    ),
    "a step of the wrong part": (described(decoder={"type": "NFC"}), "decoder: 'NFC' is none of "),
    "a step that is none": (described(normalizer=["NFC"]), "normalizer: has a step that is none"),
    "a sequence of nothing": (described(normalizer={"type": "Sequence"}), "normalizer: has a step that is none"),
    "an unknown model": (with_model(type="Oracle"), "is no tokenizer"),
    "words without end": (
        described(model={"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**6}),
        "reads words of 1000000 characters, the limit is 1000",
    ),
    "a token that is a book": (with_model(vocab={"a" * 257: 0}, merges=[]), "has a token that .*more than 256"),
    "a token that is a book, with a score": (
        described(model={"type": "Unigram", "unk_id": 0, "vocab": [["a" * 257, 0.0]]}),
        "has a token that .*more than 256",
    ),
    "an added token that is a book": (
        described(added_tokens=[{"id": 0, "content": "a" * 257, "special": True}]),
        "has a token that .*more than 256",
    ),
    "a list of numbers": (described(model={"type": "Unigram", "vocab": [1, 2]}), "has a token that is no text"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused_before_the_library_reads_it(tmp_path: Path, name: str) -> None:
    content, problem = HOSTILE[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleRefused, match=rf"^tokenizer\.json: .*{problem}"):
        Tokens(tmp_path, HOW)


def test_the_library_itself_would_have_made_a_bomb_of_it() -> None:
    """What the attack is, as long as it is small: forty characters become a hundred times as many, twice."""
    steps = chain(*[replacing({"String": "a"}, "a" * 100)] * 2)
    library = Tokenizer.from_str(json.dumps(described(normalizer=steps)))
    assert len(library.normalizer.normalize_str("a" * 40)) == 400_000


def test_a_file_that_is_nested_without_end_is_refused_at_once(tmp_path: Path) -> None:
    for content in (
        b"[" * 2**20,
        b'{"model":' * 2**17,
        b'{"normalizer": ' + b'{"type":"Sequence","normalizers":[' * 2**15,
    ):
        (tmp_path / "tokenizer.json").write_bytes(content)
        before = time.monotonic()
        with pytest.raises(BundleRefused, match="is no tokenizer"):
            Tokens(tmp_path, HOW)
        assert time.monotonic() - before < 5


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(32 * 2**20 + 1)
    with pytest.raises(BundleRefused, match=r"has 33554433 bytes, the limit is 33554432"):
        Tokens(tmp_path, HOW)


def test_what_has_the_library_panic_is_a_refusal(tmp_path: Path) -> None:
    """It raises no Exception then, which would end what loads."""
    content = described(pre_tokenizer={"type": "Metaspace", "replacement": "two", "prepend_scheme": "never"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleRefused, match="is no tokenizer"):
        Tokens(tmp_path, HOW)


def test_padding_and_truncation_are_not_the_files_to_say(tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}
    filled = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
    filled |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    content = described(truncation=cut, padding=filled)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert (
        Tokens(tmp_path, HOW).encode("Hello, dog!") == tokenizer().encode("Hello, dog!", add_special_tokens=False).ids
    )


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*/*/tokenizer.json")), ids=str)
def test_tokenizers_that_ship_are_taken_as_they_are(path: Path) -> None:
    content = path.read_bytes()
    text = "Wo ist der Bahnhof? 😀 1984"
    ours, theirs = (Tokenizer.from_str(one).encode(text).ids for one in (checked(path.name, content), content.decode()))
    assert ours == theirs
