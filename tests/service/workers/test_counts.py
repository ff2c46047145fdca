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


def test_nobody_takes_connections_at_first(descriptor: int) -> None:
    assert [Counts(descriptor, own).fewest_elsewhere() for own in range(3)] == [None] * 3


def test_everyone_sees_the_fewest_of_the_others(descriptor: int) -> None:
    first, second, third = (Counts(descriptor, own) for own in range(3))
    first.put(4)
    assert [one.fewest_elsewhere() for one in (first, second, third)] == [None, 4, 4]
    second.put(0)
    third.put(7)
    assert [one.fewest_elsewhere() for one in (first, second, third)] == [0, 4, 0]
    second.put(None)
    assert [one.fewest_elsewhere() for one in (first, second, third)] == [7, 4, 4]


def test_somebody_else_may_say_that_one_is_gone(descriptor: int) -> None:
    supervisor, worker = Counts(descriptor), Counts(descriptor, 2)
    worker.put(5)
    assert supervisor.fewest_elsewhere() == 5
    supervisor.put_at(2, None)
    assert supervisor.fewest_elsewhere() is None


def test_one_that_is_alone_has_no_others() -> None:
    made = make_counts(1)
    counts = Counts(made)
    os.close(made)
    counts.put(9)
    assert counts.fewest_elsewhere() is None
    counts.close()


def test_another_process_sees_what_is_written(descriptor: int) -> None:
    counts = Counts(descriptor, 0)
    counts.put(11)
    code = (
        "import sys\n"
        "from service.workers.counts import Counts\n"
        "counts = Counts(int(sys.argv[1]), 1)\n"
        "print(counts.fewest_elsewhere())\n"
        "counts.put(23)\n"
    )
    command = [sys.executable, "-c", code, str(descriptor)]
    told = subprocess.run(command, pass_fds=[descriptor], check=True, capture_output=True, text=True, timeout=60)
    assert told.stdout == "11\n"
    assert counts.fewest_elsewhere() == 23


def test_where_there_is_no_memory_file_one_without_a_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    made = make_counts(2)
    assert os.fstat(made).st_nlink == 0
    Counts(made, 1).put(3)
    assert Counts(made, 0).fewest_elsewhere() == 3
    os.close(made)
