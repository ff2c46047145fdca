from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BundleRefused
from service.manifest import TokenizerPreprocessing
from service.tasks.tokens import Span, Tokens
from tests.translation_bundles import END, PAD, PIECES, START, encode, tokenizer

HOW = TokenizerPreprocessing(input="tokens", lengths="lengths", start=START, end=END, padding=PAD, sizes=(32,))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("bundle")
    tokenizer().save(str(folder / "tokenizer.json"))
    return Tokens(folder, HOW)


def test_a_sentence_has_the_tokens_of_its_words(tokens: Tokens) -> None:
    assert tokens.size == len(PIECES)
    assert [PIECES[token] for token in tokens.encode("Hello, dog!")] == ["▁Hello", ",", "▁dog", "!"]
    assert [*tokens.encode("Hello, dog!"), END] == encode("Hello, dog!")


def test_white_space_of_any_kind_is_one_space(tokens: Tokens) -> None:
    assert tokens.encode(" Hello \t dog\u00a0") == tokens.encode("Hello dog")


def test_no_text_has_special_tokens(tokens: Tokens) -> None:
    for text in ("<s> </s> <pad>", "a</s>", "<0x41>"):
        assert not {PAD, START, END} & set(tokens.encode(text))
        assert tokens.decode(tokens.encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_sentence_comes_back_from_its_tokens(text: str) -> None:
    # As composed characters, with one space for every white space: the library's own words for both.
    one = tokenizer().normalizer.normalize_str(" ".join(text.split()))
    assert tokenizer().decode(tokenizer().encode(one).ids) == one


@pytest.mark.parametrize(
    "text", ["😀", "مرحبا بالعالم", "שלום", "你好", "e\u0301a\u0308", "\u200f\u202ex", "a\0b", "👨‍👩‍👧"]
)
def test_what_the_vocabulary_lacks_survives_byte_by_byte(tokens: Tokens, text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == tokenizer().normalizer.normalize_str(text)


def test_each_token_is_found_in_the_sentence(tokens: Tokens) -> None:
    assert tokens.spans("Hello, dog") == [Span(0, 5), Span(5, 6), Span(6, 10)]
    assert tokens.spans("  Hello,\t \ndog ") == [Span(2, 7), Span(7, 8), Span(8, 14)]
    assert tokens.spans("a😀") == [Span(0, 1), Span(0, 1), *[Span(1, 2)] * 4]


def test_the_pieces_of_tokens_are_whole_characters(tokens: Tokens) -> None:
    written = tokens.encode("Hello 😀é dog")
    assert tokens.pieces(written) == [("Hello", 1), (" ", 1), ("😀", 4), ("é", 2), (" dog", 1)]
    assert tokens.pieces([]) == []


@given(st.lists(st.integers(3, len(PIECES) - 1), max_size=20))
def test_pieces_are_the_text_of_any_tokens(tmp_path_factory: pytest.TempPathFactory, written: list[int]) -> None:
    folder = tmp_path_factory.getbasetemp() / "pieces"
    if not folder.exists():
        folder.mkdir()
        tokenizer().save(str(folder / "tokenizer.json"))
    tokens = Tokens(folder, HOW)
    pieces = tokens.pieces(written)
    assert "".join(text for text, _ in pieces) == tokens.decode(written)
    assert sum(count for _, count in pieces) == len(written)
    assert all(count for _, count in pieces)


def test_special_tokens_have_no_text(tokens: Tokens) -> None:
    assert tokens.decode([START, *tokens.encode("Hello dog"), END, PAD]) == "Hello dog"


@pytest.mark.parametrize("content", ["", "{}", "no JSON", '{"model": 3}', "\udcff"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BundleRefused, match=r"^tokenizer\.json: is no tokenizer"):
        Tokens(tmp_path, HOW)


def test_a_tokenizer_without_the_tokens_of_the_manifest_is_refused(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BundleRefused, match=f"has {len(PIECES)} tokens, and the manifest names {len(PIECES)}"):
        Tokens(tmp_path, HOW.model_copy(update={"padding": len(PIECES)}))
