"""Tokens: pieces of words that both languages share, by byte-pair encoding (Sennrich et al. 2015, arXiv:1508.07909).

A character that the training part has too seldom, or never, is written as the bytes of its UTF-8, so that every text
has tokens and comes back from them as it was. What `tokenizer.json` holds is the format of the library `tokenizers`.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training.core.config import ConfigModel

PAD, START, END = "<pad>", "<s>", "</s>"
SPECIAL = (PAD, START, END)
"""Tokens that no text has, at the beginning of the vocabulary: their numbers are 0, 1, 2."""
PAD_TOKEN, START_TOKEN, END_TOKEN = range(3)

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


class TokensConfig(ConfigModel):
    """How texts are taken apart.

    Attributes:
        vocabulary: number of tokens, of both languages together, special ones and bytes among them.
        min_character_count: how often a character must be in the training part to be a token of its own.
    """

    vocabulary: int = Field(default=8000, ge=300)
    min_character_count: int = Field(default=10, ge=1)


def train_tokenizer(texts: Sequence[str], config: TokensConfig) -> Tokenizer:
    """Learn pieces from `texts`: a function of them and `config` alone.

    Raises:
        ValueError: there are more different characters than tokens.
    """
    fixed = (*SPECIAL, *_BYTES)
    room = config.vocabulary - len(fixed)
    cleaned = [unicodedata.normalize("NFC", clean(text)) for text in texts]
    counts = Counter(character for text in cleaned for character in text)
    alphabet = {character for character, count in counts.items() if count >= config.min_character_count} | {" "}
    if len(alphabet) > room:
        raise ValueError(f"{len(alphabet)} different characters are too many for {config.vocabulary} tokens")
    # The trainer would make a token of every character that it sees.
    known = (" ".join(word for word in text.split(" ") if alphabet.issuperset(word)) for text in cleaned)
    trained = _tokenizer(models.BPE())
    trained.train_from_iterator(known, trainers.BpeTrainer(vocab_size=room, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    tokens = (*fixed, *sorted(learnt["vocab"], key=learnt["vocab"].__getitem__))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [(first, second) for first, second in learnt["merges"]]
    return _tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        ValueError: its special tokens are not where they should be.
        OSError: it can't be read.
    """
    tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    if tuple(tokenizer.token_to_id(name) for name in SPECIAL) != (PAD_TOKEN, START_TOKEN, END_TOKEN):
        raise ValueError(f"{path} has no {', '.join(SPECIAL)} at the beginning of its vocabulary")
    return tokenizer


def clean(text: str) -> str:
    """What is taken apart of a sentence: it, with white space of any kind as one space."""
    return " ".join(text.split())


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each of `texts`, without special ones."""
    return [encoding.ids for encoding in tokenizer.encode_batch([clean(text) for text in texts])]


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of `tokens`, without special ones; bytes that are no UTF-8 become U+FFFD."""
    text: str = tokenizer.decode([token for token in tokens if token >= len(SPECIAL)])
    return text


def _tokenizer(model: models.BPE) -> Tokenizer:
    """A tokenizer around `model`. Special tokens are plain entries of it: in a text, `<s>` is three characters."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
