"""Counts: what one process writes, all read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from service.workers.counts import Counts, make_counts


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = make_counts(3)
    yield made
    os.close(made)


def test_nobody_is_ahead_where_no_other_takes_connections(descriptor: int) -> None:
    first = Counts(descriptor, 0)
    first.put(9)
    first.took()
    assert not first.is_ahead()


def test_whoever_has_more_than_another_is_ahead(descriptor: int) -> None:
    first, second, third = (Counts(descriptor, own) for own in range(3))
    first.put(4)
    second.put(0)
    third.put(7)
    assert [one.is_ahead() for one in (first, second, third)] == [True, False, True]
    second.put(None)
    assert [one.is_ahead() for one in (first, third)] == [False, True]


def test_of_those_that_have_as_many_whoever_took_the_last_is_ahead(descriptor: int) -> None:
    first, second, third = (Counts(descriptor, own) for own in range(3))
    for one in (first, second, third):
        one.put(5)
    assert [one.is_ahead() for one in (first, second, third)] == [False] * 3
    second.took()
    assert [one.is_ahead() for one in (first, second, third)] == [False, True, False]
    first.took()
    assert [one.is_ahead() for one in (first, second, third)] == [True, False, False]
    first.put(4)
    assert not first.is_ahead(), "it has fewer than all others"


def test_somebody_else_may_say_that_one_is_gone(descriptor: int) -> None:
    supervisor, worker, other = Counts(descriptor), Counts(descriptor, 1), Counts(descriptor, 2)
    worker.put(1)
    other.put(5)
    assert other.is_ahead()
    supervisor.put_at(1, None)
    assert not other.is_ahead()


def test_one_that_is_alone_has_no_others() -> None:
    made = make_counts(1)
    counts = Counts(made)
    os.close(made)
    counts.put(9)
    counts.took()
    assert not counts.is_ahead()
    counts.close()


def test_where_there_are_many_a_lead_of_a_sixteenth_is_none(descriptor: int) -> None:
    first, second = Counts(descriptor, 0), Counts(descriptor, 1)
    assert not first.is_far_ahead(), "there is no other"
    first.put(70)
    for others, far in ((70, False), (66, False), (65, True)):
        second.put(others)
        assert first.is_far_ahead() is far
        assert first.is_ahead() is (others < 70)
    assert not second.is_far_ahead()
    first.put(1)
    second.put(0)
    assert first.is_far_ahead(), "of few, one is a lead"


def test_another_process_sees_what_is_written(descriptor: int) -> None:
    counts = Counts(descriptor, 0)
    counts.put(11)
    code = (
        "import sys\n"
        "from service.workers.counts import Counts\n"
        "counts = Counts(int(sys.argv[1]), 1)\n"
        "counts.put(12)\n"
        "print(counts.is_ahead())\n"
        "counts.put(10)\n"
        "print(counts.is_ahead())\n"
    )
    command = [sys.executable, "-c", code, str(descriptor)]
    told = subprocess.run(command, pass_fds=[descriptor], check=True, capture_output=True, text=True, timeout=60)
    assert told.stdout == "True\nFalse\n"
    assert counts.is_ahead()


def test_where_there_is_no_memory_file_one_without_a_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    made = make_counts(2)
    assert os.fstat(made).st_nlink == 0
    first, second = Counts(made, 0), Counts(made, 1)
    first.put(4)
    second.put(3)
    assert first.is_ahead()
    os.close(made)
