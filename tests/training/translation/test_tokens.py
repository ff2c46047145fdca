from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.training.translation.conftest import sentences
from training.translation.tokens import (
    END_TOKEN,
    PAD_TOKEN,
    START_TOKEN,
    TokensConfig,
    clean,
    decode,
    encode,
    load_tokenizer,
    train_tokenizer,
)

TEXTS = [sentence for pair in sentences() for sentence in pair]
CONFIG = TokensConfig(vocabulary=400, min_character_count=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, CONFIG)


def test_texts_that_were_learnt_from_come_back(tokenizer: Tokenizer) -> None:
    assert [decode(tokenizer, tokens) for tokens in encode(tokenizer, TEXTS)] == TEXTS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Größe: 5 µm, naïve café",
        "emoji 😀👩‍👩‍👧 and Ελληνικά, العربية, 日本語",
        "<s> </s> <pad> <0x41> &lt;b&gt;",
        "a\u200bb \ufffd \x00",
        "x" * 1000,
    ],
)
def test_characters_that_were_never_seen_survive(tokenizer: Tokenizer, text: str) -> None:
    assert decode(tokenizer, encode(tokenizer, [text])[0]) == text


def test_no_text_has_special_tokens(tokenizer: Tokenizer) -> None:
    (tokens,) = encode(tokenizer, ["<s> Tom </s> <pad>"])
    assert not {PAD_TOKEN, START_TOKEN, END_TOKEN} & set(tokens)
    assert decode(tokenizer, [START_TOKEN, *tokens, END_TOKEN, PAD_TOKEN]) == "<s> Tom </s> <pad>"


def test_white_space_of_any_kind_is_one_space_and_letters_are_composed(tokenizer: Tokenizer) -> None:
    spaced, plain, apart, composed = encode(tokenizer, ["  Tom\u00a0\n sees ", "Tom sees", "e\u0301", "\u00e9"])
    assert spaced == plain
    assert apart == composed
    assert clean(" a\t\u2003b\n") == "a b"


def test_bytes_that_are_no_text_become_replacement_characters(tokenizer: Tokenizer) -> None:
    half = encode(tokenizer, ["😀"])[0][:-1]
    assert set(decode(tokenizer, half).strip()) == {"\ufffd"}


def test_words_that_are_seen_often_are_one_token(tokenizer: Tokenizer) -> None:
    (tokens,) = encode(tokenizer, ["Tom sees"])
    assert [tokenizer.id_to_token(token) for token in tokens] == ["▁Tom", "▁sees"]


def test_the_same_texts_give_the_same_tokenizer_of_the_size_that_is_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.to_str() == train_tokenizer(TEXTS, CONFIG).to_str()
    assert tokenizer.get_vocab_size() == 400


def test_a_rare_character_is_bytes_and_makes_no_token() -> None:
    texts = [*TEXTS, "Zwölf Zäune", "Ärger"]
    tokens = train_tokenizer(texts, CONFIG).get_vocab()
    assert not {"ö", "ä", "Ä", "Z"} & tokens.keys()
    assert {"ä", "Ä", "ö"} < train_tokenizer(texts * 3, CONFIG).get_vocab().keys()


def test_more_characters_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\d+ different characters are too many for 300 tokens"):
        train_tokenizer([chr(number) * 20 for number in range(0x4E00, 0x4E40)], TokensConfig(vocabulary=300))


def test_a_tokenizer_is_read_as_it_was_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    assert load_tokenizer(path).to_str() == tokenizer.to_str()
    path.write_text(tokenizer.to_str().replace("<pad>", "[PAD]"), encoding="utf-8")
    with pytest.raises(ValueError, match="has no <pad>, <s>, </s> at the beginning"):
        load_tokenizer(path)
