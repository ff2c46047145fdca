"""What a tokenizer's file may ask for: it comes with a model, and what reads it does whatever it says.

A pattern can take a regular expression hours, a chain of replacements can make gigabytes of a word, and so can a
token that is a book. What is taken neither matches expressions nor makes a text much longer than it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from service.errors import BundleRefused

MOST_BYTES: Final = 32 * 2**20
_MOST_STEPS = 16
_MOST_TOKENS = 2**20
_LONGEST_TOKEN = 256
_LONGEST_PREFIX = 16
_LONGEST_WORD = 1000
"""Characters: WordPiece takes the third power of them."""


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_STEPS: Mapping[str, frozenset[str]] = {
    "normalizer": _set(
        "Sequence NFC NFD NFKC NFKD Lowercase Strip StripAccents BertNormalizer Replace Prepend ByteLevel"
    ),
    "pre_tokenizer": _set(
        "Sequence Metaspace Punctuation Digits Whitespace WhitespaceSplit BertPreTokenizer ByteLevel "
        "CharDelimiterSplit Split UnicodeScripts"
    ),
    "post_processor": _set("Sequence TemplateProcessing BertProcessing RobertaProcessing ByteLevel"),
    "decoder": _set("Sequence Replace ByteFallback Fuse Strip Metaspace ByteLevel WordPiece BPEDecoder"),
}
_MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_MODELS = _set("BPE WordPiece WordLevel Unigram")


def checked(file: str, content: bytes) -> str:
    """Give the tokenizer that `content` describes, without padding and truncation, which are not used here.

    Args:
        file: its name, for messages.
        content: of the file.

    Raises:
        BundleRefused: it is none, or asks for what is not taken.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleRefused(file, f"is no tokenizer ({error})") from error
    if not isinstance(found, dict):
        raise BundleRefused(file, "is no tokenizer (no JSON object)")
    for part in _STEPS:
        for problem in _problems(part, found.get(part)):
            raise BundleRefused(file, f"{part}: {problem}")
    for problem in (*_problems_of_model(found.get("model")), *_problems_of_tokens(found.get("added_tokens") or ())):
        raise BundleRefused(file, problem)
    return json.dumps({**found, "padding": None, "truncation": None})


def _problems(part: str, outermost: object) -> Iterator[str]:
    """What is wrong with the steps of a part, one inside the other."""
    waiting = [] if outermost is None else [outermost]
    kinds: list[str] = []
    while waiting:
        step = waiting.pop()
        kind = step.get("type") if isinstance(step, dict) else None
        if not isinstance(step, dict) or not isinstance(kind, str):
            yield "has a step that is none"
            return
        kinds.append(kind)
        if kind not in _STEPS[part]:
            yield f"{kind[:_LONGEST_PREFIX]!r} is none of {', '.join(sorted(_STEPS[part]))}"
        if kind == "Sequence":
            inner = step.get(_MEMBERS[part])
            waiting += inner if isinstance(inner, list) else [None]
        if "pattern" in step:
            yield from _problems_of_pattern(step["pattern"], step.get("content", ""))
        if len(str(step.get("prepend", ""))) > _LONGEST_PREFIX:
            yield f"prepends more than {_LONGEST_PREFIX} characters"
        if len(kinds) > _MOST_STEPS:
            yield f"has more than {_MOST_STEPS} steps"
            return
    if kinds.count("ByteLevel") > 1:
        yield "'ByteLevel' is there more than once"


def _problems_of_pattern(pattern: object, content: object) -> Iterator[str]:
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(text, str) or not text:
        yield "a pattern is no plain text: regular expressions are not taken, as one can take for ever"
    elif not isinstance(content, str) or len(content) > len(text):
        yield "a replacement is longer than what it replaces"


def _problems_of_model(model: object) -> Iterator[str]:
    if not isinstance(model, dict) or model.get("type", "BPE") not in _MODELS:
        yield f"is no tokenizer (its model is none of {', '.join(sorted(_MODELS))})"
        return
    if isinstance(word := model.get("max_input_chars_per_word", 1), int) and word > _LONGEST_WORD:
        yield f"model: reads words of {word} characters, the limit is {_LONGEST_WORD}"
    vocabulary: Any = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram's tokens have a score each
        vocabulary = [one[0] if isinstance(one, list) and one else one for one in vocabulary]
    if not isinstance(vocabulary, dict | list):
        yield "is no tokenizer (its model has no vocabulary)"
        return
    yield from _problems_of_tokens(vocabulary)


def _problems_of_tokens(tokens: Any) -> Iterator[str]:
    if len(tokens) > _MOST_TOKENS:
        yield f"has {len(tokens)} tokens, the limit is {_MOST_TOKENS}"
    texts = (one.get("content") if isinstance(one, dict) else one for one in tokens)
    if any(not isinstance(one, str) or len(one) > _LONGEST_TOKEN for one in texts):
        yield f"has a token that is no text, or has more than {_LONGEST_TOKEN} characters"
