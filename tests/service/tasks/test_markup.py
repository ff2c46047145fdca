from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.markup import parts_of


def texts(document: str) -> list[str]:
    return [part.content for part in parts_of(document) if part.is_text and part.content]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("no tags", ["no tags"]),
        ("<p>Hello <b>you</b> there</p>", ["Hello ", "you", " there"]),
        ("<p title=\"a > b\" class='<x>'>Hello</p>", ["Hello"]),
        ("one<br>two<br/>three<hr />four", ["one", "two", "three", "four"]),
        ("<!DOCTYPE html><?xml version='1.0'?>Hello<!-- <p>no</p> -->you", ["Hello", "you"]),
        ("1 < 2 &amp; 3 &gt; 2", ["1 < 2 &amp; 3 &gt; 2"]),
        ("a <", ["a <"]),
        ("<my-tag>Hello</my-tag>", ["Hello"]),
    ],
)
def test_text_is_what_lies_between_tags(document: str, expected: list[str]) -> None:
    assert texts(document) == expected


@pytest.mark.parametrize(
    "silent",
    [
        "<script>if (a < b) { '</b>' }</script>",
        "<STYLE>p > b { }</style>",
        "<code>for x in <i>y</i></code>",
        "<textarea><b>mine</b></textarea>",
        '<p translate="no">a name <p>and</p> more</p>',
        "<span translate=no>a name</span>",
        "<span lang='x' TRANSLATE='no' >a name</span>",
        "<svg><text>label</text></svg>",
    ],
)
def test_code_and_what_says_so_is_not_translated(silent: str) -> None:
    assert texts(f"before {silent} after") == ["before ", " after"]


def test_an_element_that_holds_nothing_silences_nothing() -> None:
    assert texts('<br translate="no">one <img translate="no" alt="x">two') == ["one ", "two"]
    assert texts('<p translate="yes">one</p><p data-translate="no">two</p>') == ["one", "two"]


def test_what_is_not_closed_goes_on_to_the_end() -> None:
    assert texts("a <script>b") == ["a "]
    assert texts("a <!-- b") == ["a "]
    assert texts('a <b title="x>y') == ["a "]
    assert texts("a <code>b") == ["a "]
    assert texts("a </code> b") == ["a ", " b"]


SNIPPETS = [
    "<",
    ">",
    "<p>",
    "</p>",
    "<!--",
    "-->",
    "<script>",
    "</script>",
    '"',
    "'",
    "a",
    " ",
    "&amp;",
    '<i translate="no">',
    "</i>",
]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(SNIPPETS), max_size=30).map("".join)))
def test_the_parts_are_the_document(document: str) -> None:
    assert "".join(part.content for part in parts_of(document)) == document


@pytest.mark.parametrize(
    "document", ["<a " * 33_000, '<a "' * 25_000, "<!--" * 25_000, "<script>" * 12_000, "<" * 100_000]
)
def test_no_document_takes_more_than_its_length(document: str) -> None:
    assert "".join(part.content for part in parts_of(document)) == document
