from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.tasks.stops import StopWatch, Untold

PIECES = ("a", "b", "ab", "", "ba", "aab", "\n", "é")

letters = st.text("ab\né", min_size=1, max_size=4)
tokens = st.lists(st.integers(0, len(PIECES) - 1), max_size=25)


def text_of(tokens: Sequence[int]) -> str:
    return "".join(PIECES[token] for token in tokens)


def grown(tokens: Sequence[int], stops: Sequence[str]) -> tuple[list[int], str | None]:
    """The slow way: the tokens until their text has a stop string, and the text in front of it, if there is one."""
    for length in range(1, len(tokens) + 1):
        text = text_of(tokens[:length])
        if found := [text.index(stop) for stop in stops if stop in text]:
            return list(tokens[:length]), text[: min(found)]
    return list(tokens), None


@given(tokens=tokens, stops=st.lists(letters, min_size=1, max_size=4))
@example(tokens=[0, 0, 1], stops=["ab", "aab"])
@example(tokens=[2, 3, 3, 0], stops=["aba"])
def test_a_text_stops_with_the_token_that_completes_a_stop_string(tokens: list[int], stops: list[str]) -> None:
    watch = StopWatch(PIECES, stops)
    expected, before = grown(tokens, stops)
    seen = []
    for token in tokens:
        seen.append(token)
        if watch(token):
            break
    assert seen == expected
    assert before is not None or not watch(3), "nothing new brings no stop"


@given(
    tokens=tokens,
    stops=st.lists(letters, max_size=4),
    cuts=st.lists(st.integers(0, 25), max_size=12),
    separately=st.booleans(),
)
@example(tokens=[0, 1], stops=["ab"], cuts=[1], separately=True)
@example(tokens=[0, 5], stops=["aaab", "a"], cuts=[], separately=False)
@example(tokens=[0, 0, 1, 3], stops=["b"], cuts=[1, 2], separately=False)
def test_what_is_told_is_the_text_up_to_the_first_stop_string_and_nothing_is_taken_back(
    tokens: list[int], stops: list[str], cuts: list[int], separately: bool
) -> None:
    """`separately`: the end is told after the last token, and not with it."""
    tokens, before = grown(tokens, stops)
    text = text_of(tokens) if before is None else before
    untold = Untold(PIECES, stops)
    places = sorted({0, *(cut for cut in cuts if cut < len(tokens))})
    if separately and before is None:
        places.append(len(tokens))
    told_tokens: list[int] = []
    told = ""
    for begin, end in zip(places, [*places[1:], len(tokens)], strict=True):
        last = end == len(tokens) and begin == places[-1]
        new = untold.tell(tokens[begin:end], stopped=last and before is not None, ended=last)
        assert len(new.tokens) == len(new.texts)
        told_tokens += new.tokens
        told += "".join(new.texts)
        assert text.startswith(told), "what was told is not the beginning of the text"
        seen = text_of(tokens[:end])
        longest = max(map(len, stops), default=1)
        held = len(seen) - len(told)
        assert last or held < longest + max(map(len, PIECES)), "more is held back than a stop could take"
    assert told == text
    assert told_tokens == tokens[: len(told_tokens)]
    if before is None:
        assert told_tokens == tokens, "a token was held back for good"


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    untold = Untold("abcd", ["abc", "cd"])
    told = [untold.tell([token]).texts for token in (0, 0, 1, 0, 1, 3)]
    assert told == [[], ["a"], [], ["a", "b"], [], ["a", "b", "d"]]
    assert untold.tell([2]).texts == []
    assert untold.tell([], ended=True).texts == ["c"]


def test_without_stop_strings_everything_is_told_at_once() -> None:
    assert Untold(PIECES).tell([2, 3, 0]) == ([2, 3, 0], ["ab", "", "a"])


def test_a_token_that_a_stop_string_cuts_is_told_with_what_is_left_of_it() -> None:
    assert Untold(PIECES, ["b"]).tell([0, 5], stopped=True, ended=True) == ([0, 5], ["a", "aa"])
    assert Untold(PIECES, ["aab"]).tell([0, 5], stopped=True, ended=True) == ([0], ["a"])


def test_of_two_stop_strings_in_one_token_the_one_that_begins_first_ends_the_text() -> None:
    assert Untold(["xaby"], ["b", "ab", "y"]).tell([0], stopped=True, ended=True).texts == ["x"]


@pytest.mark.parametrize("stop", ["a" * 256, "ab" * 128])
def test_long_stop_strings_of_one_pattern_are_found(stop: str) -> None:
    watch, untold = StopWatch("ab", [stop]), Untold("ab", [stop])
    told = ""
    text = "b" + stop[:-1] + ("b" if stop.endswith("a") else "a") + stop
    for letter in text:
        token = "ab".index(letter)
        stopped = watch(token)
        told += "".join(untold.tell([token], stopped=stopped, ended=stopped).texts)
    assert stopped
    assert told == text[: text.index(stop)]
