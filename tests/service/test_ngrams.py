"""Texts as n-grams: what is read of them, as which numbers, and how much of it at most."""

from __future__ import annotations

import zlib

import pytest

from service.ngrams import ngram_ids, ngrams


def read(text: str, most: int = 1024) -> list[str]:
    return ngrams(text, shortest=3, longest=5, most=most)


def numbers(text: str, buckets: int) -> list[int]:
    return ngram_ids(text, buckets=buckets, shortest=3, longest=5, most=1024)


def test_ngrams_are_words_runs_of_letters_and_pairs() -> None:
    assert read("My Tee!") == [
        "my tee", "<my>", "<my", "my>", "<tee>", "<te", "tee", "ee>", "<tee", "tee>",
    ]  # fmt: skip


@pytest.mark.parametrize("same", ["a T-SHIRT", "A t shirt.", "a  t\u2014shirt?", "\uff21 T-shirt"])
def test_case_punctuation_and_width_make_no_difference(same: str) -> None:
    assert read(same) == read("a t-shirt")


def test_numbers_of_ngrams_are_the_same_everywhere() -> None:
    assert numbers("boot", 1000) == [2 + zlib.crc32(one.encode()) % 998 for one in read("boot")]
    assert numbers("boot", 1000)[:2] == [807, 38]
    assert all(2 <= number < 50 for number in numbers("a very long sentence about nothing at all", 50))


@pytest.mark.parametrize("text", ["", "   ", "?!", "\U0001f97e"])
def test_a_text_without_words_is_read_as_one_number_of_its_own(text: str) -> None:
    assert numbers(text, 100) == [1]


@pytest.mark.parametrize("text", ["word " * 20_000, "w" * 100_000])
def test_no_more_is_read_of_a_long_text_than_allowed(text: str) -> None:
    assert read(text, most=50) == read(text, most=1024)[:50]
    assert len(read(text, most=1024)) == 1024
