from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.address import Address
from service.bench.messages import BATCH_SIZE, COMPUTE_MS, QUEUE_MS, Answer, Unreadable, post
from tests.service.bench.scripted import STREAM_END, STREAM_HEAD, answer, chunk

ADDRESS = Address("127.0.0.1", 8000, "/below")


def fed(content: bytes, cuts: list[int]) -> Answer:
    """An answer that has been read in pieces; it is complete with the last of them, and not before."""
    places = [0, *sorted(cut % len(content) for cut in cuts), len(content)]
    pieces = [content[start:end] for start, end in itertools.pairwise(places) if start < end]
    read = Answer()
    assert [read.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return read


CUTS = st.lists(st.integers(0, 10_000), max_size=8)


def test_a_request_has_all_that_http_needs() -> None:
    request = post(ADDRESS, "/predict/m", b"abc", "text/plain", 2.0, {"x-more": "1"})
    assert request.units == 2.0
    assert request.content == (
        b"POST /below/predict/m HTTP/1.1\r\nhost: 127.0.0.1:8000\r\ncontent-type: text/plain\r\n"
        b"content-length: 3\r\nx-more: 1\r\n\r\nabc"
    )


@given(CUTS, st.binary(max_size=100), st.sampled_from([200, 400, 429, 503]))
def test_an_answer_is_complete_when_all_of_it_has_come_however_it_is_cut(
    cuts: list[int], body: bytes, status: int
) -> None:
    read = fed(answer(body, status, X_Queue_ms=1.5, X_COMPUTE_MS="0.25", x_batch_size=8), cuts)
    assert read.status == status
    assert read.number(QUEUE_MS) == 1.5
    assert read.number(COMPUTE_MS) == 0.25
    assert read.number(BATCH_SIZE) == 8
    assert read.shown == (b"" if status == 200 else body)
    assert not read.closes
    assert read.events == 0


def test_timings_that_are_not_there_or_are_no_numbers_are_none() -> None:
    read = fed(answer(b"", x_queue_ms="soon"), [])
    assert read.number(QUEUE_MS) is None
    assert read.number(COMPUTE_MS) is None


@given(CUTS, st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=4), max_size=6))
def test_events_of_a_stream_are_counted_however_it_is_cut_and_whatever_they_say(
    cuts: list[int], chunks: list[list[str]]
) -> None:
    events = [[json.dumps({"text": text}, ensure_ascii=False) for text in texts] for texts in chunks]
    read = fed(STREAM_HEAD + b"".join(chunk(*one) for one in events) + STREAM_END, cuts)
    assert read.events == sum(map(len, events))
    assert not read.failed


@given(CUTS)
def test_a_stream_that_tells_an_error_has_failed(cuts: list[int]) -> None:
    read = fed(STREAM_HEAD + chunk('{"text": "a"}') + chunk('{"error": "all is lost"}') + STREAM_END, cuts)
    assert read.status == 200
    assert read.failed


def test_an_answer_says_whether_the_connection_ends_with_it() -> None:
    assert fed(answer(connection="close"), []).closes
    assert fed(answer(connection="keep-alive") + b"", []).closes is False
    assert fed(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", []).closes


def test_an_answer_forgets_the_one_before() -> None:
    read = fed(answer(b"sorry", 503, x_queue_ms=3), [])
    read.begin()
    assert read.feed(answer(b"[]"))
    assert (read.status, read.shown, read.number(QUEUE_MS)) == (200, b"", None)


def test_no_more_of_an_error_is_kept_than_can_be_shown() -> None:
    assert fed(answer(b"a" * 200 + b"b" * 5000, 500), [250, 260, 500]).shown == b"a" * 200 + b"b" * 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the server answers b'ssh-2.0"),
        (b"HTTP/2 200 OK\r\n\r\n", "the server answers b'http/2"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "tells no length"),
        (answer(b"abc") + b"d", "more has come"),
        (b"x" * 70_000, "does not end"),
    ],
)
def test_what_is_no_answer_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        Answer().feed(content)
