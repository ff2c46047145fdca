from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sentences import Piece, cut, parts_that_fit


def sentences(text: str, language: str = "en") -> list[str]:
    return [piece.text for piece in cut(text, language) if piece.is_sentence]


def kept(text: str) -> list[str]:
    return [piece.text for piece in cut(text, "en") if not piece.is_sentence]


def joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


# What a sentence is


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello.", ["Hello."]),
        ("no stop at all", ["no stop at all"]),
        ("Hello. How are you?  Fine!", ["Hello.", "How are you?", "Fine!"]),
        ("What?! No. Yes!!!", ["What?!", "No.", "Yes!!!"]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ('He left. "Why?" She didn\'t know.', ["He left.", '"Why?"', "She didn't know."]),
        ('"Really?" he asked. (So did I.) We left.', ['"Really?" he asked.', "(So did I.)", "We left."]),
        ("„Halt!“ Er blieb stehen. »Nein.« Gut.", ["„Halt!“", "Er blieb stehen.", "»Nein.«", "Gut."]),
        ("Well... no. Well... I see. Oh… Yes.", ["Well... no.", "Well...", "I see.", "Oh…", "Yes."]),
        ("Is 3.14 more than 2.5? Yes.", ["Is 3.14 more than 2.5?", "Yes."]),
        ("See example.org now. Go.", ["See example.org now.", "Go."]),
        ("你好。再见！是吗？ 好。", ["你好。", "再见！", "是吗？", "好。"]),
        ("「はい。」と言った。", ["「はい。」", "と言った。"]),
        ("مرحبا. كيف حالك؟ بخير.", ["مرحبا.", "كيف حالك؟", "بخير."]),
        ("क्या? यह घर है। अच्छा।", ["क्या?", "यह घर है।", "अच्छा।"]),
        ("¿Dónde estás? ¡Aquí!", ["¿Dónde estás?", "¡Aquí!"]),
        ("Bonjour ! Ça va ?", ["Bonjour !", "Ça va ?"]),
    ],
)
def test_a_sentence_ends_at_a_stop_that_another_can_follow(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith and Dr. Jones met Mrs. Brown.",
        "Ask Prof. Miller in St. Louis.",
        "J. R. R. Tolkien wrote it.",
        "Use a tool, e.g. A, i.e. The best.",
        "The U.S. Army left.",
        "It is approx. 5 miles, see No. 7 and Fig. 3.",
        "It was on Jan. 5 in vol. 2.",
        "yahoo! is a word. or so.",
    ],
)
def test_an_abbreviation_ends_no_sentence(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "Das ist z. B. Brot, d. h. Essen, bzw. Nahrung.",
        "Das ist z.B. Brot, u.a. Roggenbrot.",
        "Er kam am 3. Mai um 5. Es wurde der 2. Platz.",
        "Hr. Müller und Fr. Dr. Meier wohnen in der Str. Nr. 5.",
        "Es kostet ca. 5 Mio. Euro inkl. Steuern.",
    ],
)
def test_neither_does_a_german_one_nor_an_ordinal_number(text: str) -> None:
    assert sentences(text, "de") == [text]


def test_what_may_be_either_is_decided_by_what_follows() -> None:
    assert sentences("No. I won't. No. 5 will.") == ["No.", "I won't.", "No. 5 will."]
    assert sentences("So do I. He left.") == ["So do I.", "He left."]
    assert sentences("It was 5. He left.") == ["It was 5.", "He left."]
    assert sentences("Es war 1990. Dann kam er.", "de") == ["Es war 1990.", "Dann kam er."]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\n\n", "\v", "\f", "\x85", "\u2028", "\u2029", " \n\t\n "])
def test_a_line_break_ends_every_sentence_and_is_kept(line_break: str) -> None:
    text = f"one and{line_break}two"
    assert sentences(text) == ["one and", "two"]
    assert kept(text) == [line_break]


# What is kept as it is


@pytest.mark.parametrize(
    "text", ["", " ", "\n", " \t\n \u00a0 ", "!!!", "...", "123", "12:30", "😀", "👨‍👩‍👧 🇩🇪", "- * -", "3 + 4 = 7"]
)
def test_what_has_no_letters_is_no_sentence(text: str) -> None:
    assert sentences(text) == []
    assert joined(cut(text, "en")) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello.  ", ["Hello."]),
        ("- one\n* two\n• three\n1. Four", ["one", "two", "three", "Four"]),
        ("> quoted\n# Title\n", ["quoted", "Title"]),
        ("😀 Hello there 😀 👍🏽", ["Hello there"]),
        ("Hello 😀 there", ["Hello 😀 there"]),
        ("-5 degrees *now*", ["-5 degrees *now*"]),
    ],
)
def test_symbols_alone_at_the_edges_belong_to_no_sentence(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("See https://example.org/a?b=1&c=(2). Or not.", "https://example.org/a?b=1&c=(2"),
        ("See www.example.org, please.", "www.example.org"),
        ("(see http://example.org/~x)", "http://example.org/~x"),
        ("Mail first.last+tag@mail.example.org now", "first.last+tag@mail.example.org"),
        ("a <b>bold</b> word", "<b>"),
        ('a <a href="x y">link</a> here', '<a href="x y">'),
        ("line<br/>break", "<br/>"),
    ],
)
def test_addresses_and_tags_are_kept_and_stand_between_sentences(text: str, stays: str) -> None:
    assert stays in kept(text)
    assert all(stays not in sentence for sentence in sentences(text))


def test_what_only_looks_like_a_tag_is_text() -> None:
    for text in ("1 < 2 and 3 > 2", "a <3 b", "if a<b then", "I <3 you > me"):
        assert sentences(text) == [text]


def test_what_stands_after_something_kept_begins_with_a_word() -> None:
    assert cut("See https://example.org, or <b>not</b>.", "en") == [
        Piece("See", True),
        Piece(" ", False),
        Piece("https://example.org", False),
        Piece(", ", False),
        Piece("or", True),
        Piece(" ", False),
        Piece("<b>", False),
        Piece("not", True),
        Piece("</b>", False),
        Piece(".", False),
    ]


SIGNS = "aB1.!?… \n\t\"'()<>/@:,;-。！「」😀é\u0301\u200dßمn\u2028"
TEXTS = st.one_of(
    st.text(max_size=80),
    st.text(SIGNS, max_size=80),
    st.lists(st.sampled_from(["Mr. ", "z. B. ", "http://a.b/c", "<b>", "a@b.c", "Hello. ", "5. ", "\r\n"])).map(
        "".join
    ),
)


@given(TEXTS, st.sampled_from(["en", "de", "zh"]))
def test_the_pieces_are_the_text(text: str, language: str) -> None:
    pieces = cut(text, language)
    assert joined(pieces) == text
    for piece in pieces:
        assert piece.text
        if piece.is_sentence:
            assert piece.text == piece.text.strip()
            assert any(map(str.isalpha, piece.text))
            assert len(piece.text.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "." * 100_000 + "x",
        "a" + " " * 100_000 + "b",
        "." + '"' * 100_000 + "x",
        "a" * 100_000 + "@",
        "<a " * 33_000,
        " \n" * 50_000,
        "😀 " * 50_000 + "a",
        "a. " * 33_000,
        "http://" * 14_000,
        "a@b." * 25_000,
        "。" * 100_000,
        "z." * 50_000 + " B",
    ],
    ids=lambda text: repr(text[:6]),
)
def test_no_text_takes_more_than_its_length(text: str) -> None:
    # Anything that grew with the square of it would take minutes, and end by the timeout of a hanging test.
    assert joined(cut(text, "en")) == text


# Sentences that are too long


def words(text: str) -> list[int]:
    """A tokenizer that makes a token of each word, of each sign, and of every eight letters of a word."""
    return [match.end() for match in re.finditer(r"\w{1,8}|[^\w\s]", text)]


def parts(sentence: str, most: int) -> list[str]:
    pieces = list(parts_that_fit(sentence, most, words))
    assert joined(pieces) == sentence
    assert all(len(words(piece.text)) <= most for piece in pieces if piece.is_sentence)
    assert not any(piece.text.strip() for piece in pieces if not piece.is_sentence)
    return [piece.text for piece in pieces if piece.is_sentence]


def test_a_long_sentence_is_cut_after_a_comma() -> None:
    assert parts("one two three, four five six, seven eight nine.", 7) == [
        "one two three,",
        "four five six,",
        "seven eight nine.",
    ]
    assert parts("a b c; d e f: g h i", 6) == ["a b c;", "d e f:", "g h i"]


def test_without_a_comma_it_is_cut_at_a_space() -> None:
    assert parts("one two three four five", 2) == ["one two", "three four", "five"]


def test_a_comma_that_leaves_little_is_no_place_to_cut() -> None:
    assert parts("a, one two three four five six seven", 6)[0] == "a, one two three four"


def characters(text: str) -> list[int]:
    """A tokenizer that makes a token of each character."""
    return list(range(1, len(text) + 1))


def test_a_word_that_is_too_long_is_cut_anywhere() -> None:
    assert [piece.text for piece in parts_that_fit("x" * 10, 3, characters)] == ["xxx", "xxx", "xxx", "x"]


@pytest.mark.parametrize("unit", ["e\u0301", "👍🏽", "👨\u200d👩", "☂\ufe0f"])
def test_a_mark_is_not_cut_off_its_letter(unit: str) -> None:
    pieces = [piece.text for piece in parts_that_fit(unit * 20, 7, characters)]
    assert len(pieces) > 1
    assert all(len(piece) % len(unit) == 0 for piece in pieces), pieces


@given(
    st.text("ab ,;é\u0301😀\u200d", min_size=1, max_size=200).filter(lambda text: text.strip() == text),
    st.integers(1, 9),
)
def test_every_part_fits_and_nothing_is_lost(sentence: str, most: int) -> None:
    parts(sentence, most)
