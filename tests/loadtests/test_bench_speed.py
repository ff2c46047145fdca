from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest
from bench_speed import ASKED, CLIENTS, PARTS, mixture, parts, report
from processes import children_of, resident_mb
from promises import PROMISES, summary
from speed import Counting, Record

from service.bench.address import Address
from service.bench.messages import post
from tests.service.bench.scripted import answer, scripted


def test_parts_are_named_with_commas_and_measured_in_their_own_order() -> None:
    assert parts("memory,share") == ("share", "memory")
    assert parts(",".join(PARTS)) == PARTS
    with pytest.raises(argparse.ArgumentTypeError, match="no part speed"):
        parts("share,speed")


def test_what_is_asked_is_what_is_promised() -> None:
    shares = {name for name, promise in PROMISES.items() if promise.part == "share"}
    assert shares == {f"{name}, {clients} clients" for name in ASKED for clients in CLIENTS}


def test_an_open_loop_counts_who_is_told_when_to_come_again() -> None:
    answers = [answer(), answer(b"", 429, retry_after=1), answer(b"", 429), answer(b"", 503, retry_after=1)]
    with scripted(lambda number: [answers[number]]) as server:
        request = post(server.address, "/v2/models/m/infer", b"x", "text/plain")
        due = [0.0, 0.01, 0.02, 0.03]
        loop = Counting(server.address, [request], due=due, connections=1, most_connections=1, warm_up_s=0, seconds=0.1)
        samples = loop.run()
    assert samples.statuses == {200: 1, 429: 2, 503: 1}
    assert loop.told == 1
    assert loop.most_connections_at_once == 1


def test_a_part_that_fails_is_noted_and_what_was_measured_stays() -> None:
    record = Record()
    with record.noting("share", "growth"):
        record.add("growth", 0.5)
        raise OSError("the server is gone")
    with record.noting("overload"):
        record.add("work", 1.0)
    with pytest.raises(KeyError), record.noting("memory"):  # a mistake of ours is none of a part's failures
        raise KeyError("memory")
    assert record.failed == ["share", "growth"]
    assert record.notes == ["share, growth: not measured to the end: the server is gone"]
    assert record.measured == {"growth": [0.5], "work": [1.0]}


def test_what_memory_is_measured_by_are_many_sizes_and_some_that_are_wrong() -> None:
    requests = list(mixture(Address("127.0.0.1", 1)))
    assert len(requests) == 53
    lengths = {len(one.content) for one in requests}
    assert min(lengths) < 300
    assert max(lengths) > 32 * 28 * 28 * 4
    assert all(one.content.startswith(b"POST /") for one in requests)
    assert requests == list(mixture(Address("127.0.0.1", 1)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it in /proc")
def test_memory_is_that_of_a_process_and_of_those_that_it_started() -> None:
    before = children_of(os.getpid())
    alone = resident_mb(os.getpid())
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()  # it is there
        assert children_of(os.getpid()) - before == {child.pid}
        assert alone > 1
        assert resident_mb(child.pid) > 1
        assert resident_mb(os.getpid()) > alone
        child.communicate(b"\n")
    assert children_of(os.getpid()) == before


def test_the_report_has_the_table_what_it_was_measured_by_and_notes() -> None:
    measured = {"health": [1.0, 2.0, 3.0], "capacity": [1234.5]}
    written = report(
        {
            "machine": {"processor": "a fast one", "cores": 2},
            "plan": {"parts": ("alone", "overload"), "seconds": 0.5, "repeat": 3},
            "lines": summary(measured),
            "measured": measured,
            "notes": ["nothing was refused"],
        }
    )
    assert "On processor a fast one; cores 2." in written
    assert "Parts alone, overload; 0.5 s a load, 3 rounds" in written
    assert "| 5.0 ms |  | 2.0 ms | 1.0 ms to 3.0 ms | must |" in written
    assert written.endswith("- capacity: 1,234.50 answers/s\n- nothing was refused")
