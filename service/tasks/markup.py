"""HTML as text with things in it that stay: which parts of a document are its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_TAG = re.compile(
    r"""
    <(?:
        !--.*?(?:-->|\Z)                                              # a comment
      | [!?][^>]*(?:>|\Z)                                             # a declaration
      | (?P<end>/)?(?P<name>[a-zA-Z][^\s/>]*)                         # a tag
        (?P<attributes>(?:[^"'>]|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))*)(?:>|\Z)
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_SILENT: Final = frozenset({"script", "style", "code", "kbd", "samp", "var", "textarea", "svg", "math"})
"""Elements whose text is no language, or is somebody's own."""
_LITERAL: Final = frozenset({"script", "style", "textarea"})
"""Elements in which nothing but their own end is a tag."""
_EMPTY: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_NO_TRANSLATION = re.compile(r"""(?<![\w-])translate\s*=\s*["']?no\b""", re.IGNORECASE)


class Part(NamedTuple):
    """A part of a document: text, with its character references as they stand there, or what is no text."""

    content: str
    is_text: bool


def parts_of(document: str) -> Iterator[Part]:
    """Take a document apart; the parts, joined, are the document, however broken it is.

    Text in comments, scripts and the like is none, nor is that of elements with `translate="no"`.
    """
    silent: list[str] = []  # the element that is silent, and those of its name in it
    begin = 0
    while tag := _TAG.search(document, begin):
        yield Part(document[begin : tag.start()], not silent)
        begin = tag.end()
        yield Part(tag.group(), False)
        name = (tag["name"] or "").lower()
        if silent:
            if name == silent[0]:
                silent.pop() if tag["end"] else silent.append(name)
        elif name and not tag["end"] and name not in _EMPTY and _is_silent(name, tag["attributes"]):
            silent.append(name)
            if name in _LITERAL:
                end = re.compile(rf"</{name}\b", re.IGNORECASE).search(document, begin)
                stop = end.start() if end else len(document)
                yield Part(document[begin:stop], False)
                begin = stop
    yield Part(document[begin:], not silent)


def _is_silent(name: str, attributes: str) -> bool:
    return not attributes.endswith("/") and (name in _SILENT or bool(_NO_TRANSLATION.search(attributes)))
