from __future__ import annotations

import os
import subprocess
import sys

import pytest

from service.security.keys import MOST_KEYS, digest_of
from service.security.usage import Usage, make_usage, open_usage, slots_of

DIGESTS = [digest_of(str(number).encode()) for number in range(MOST_KEYS)]


def test_a_burst_comes_at_once_and_the_rest_evenly() -> None:
    usage = Usage()
    assert [usage.take(3, 0.5, 3, now=100.0) for _ in range(3)] == [0, 0, 0]
    assert usage.take(3, 0.5, 3, now=100.0) == 0.5
    assert usage.take(3, 0.5, 3, now=100.4) == pytest.approx(0.1)
    assert usage.take(3, 0.5, 3, now=100.5) == 0
    assert usage.take(3, 0.5, 3, now=100.5) == 0.5
    assert [usage.take(3, 0.5, 3, now=200.0) for _ in range(3)] == [0, 0, 0]
    assert usage.take(3, 0.5, 3, now=200.0) == 0.5


def test_what_is_refused_costs_nothing() -> None:
    usage = Usage()
    assert usage.take(0, 1.0, 1, now=1.0) == 0
    assert all(usage.take(0, 1.0, 1, now=1.5) == 0.5 for _ in range(100))
    assert usage.take(0, 1.0, 1, now=2.0) == 0


def test_over_a_longer_time_it_is_the_rate() -> None:
    usage = Usage()
    taken = sum(usage.take(0, 1 / 30, 30, now=10 + number / 1000) == 0 for number in range(10_000))
    assert taken == 30 + 10 * 30 - 1 or taken == 30 + 10 * 30


def test_keys_do_not_share_what_they_have_used() -> None:
    usage = Usage()
    assert usage.take(0, 1.0, 1, now=1.0) == 0
    assert usage.take(1, 1.0, 1, now=1.0) == 0
    assert usage.enter(0) == 1
    assert usage.enter(1) == 1


def test_workers_count_together_and_one_that_ends_takes_nothing_with_it() -> None:
    made = make_usage(3)
    first, second, third = (open_usage(made, own) for own in range(3))
    os.close(made)
    assert [one.enter(7) for one in (first, second, third, second)] == [1, 2, 3, 4]
    second.leave(7)
    assert first.enter(7) == 4
    third.forget(0)
    assert third.enter(7) == 3
    assert [one.take(7, 1.0, 2, now=5.0) for one in (first, second, third)] == [0, 0, 1.0]


def test_another_process_sees_it() -> None:
    made = make_usage(2)
    ours = open_usage(made, 0)
    ours.enter(5)
    code = (
        "import sys\n"
        "from service.security.usage import open_usage\n"
        "usage = open_usage(int(sys.argv[1]), 1)\n"
        "print(usage.enter(5), usage.take(5, 10.0, 1, now=1.0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made)], pass_fds=[made], capture_output=True, text=True, check=True
    )
    os.close(made)
    assert done.stdout.split() == ["2", "0.0"]
    assert ours.enter(5) == 3
    assert ours.take(5, 10.0, 1, now=2.0) == 9.0


def test_every_key_has_a_slot_of_its_own() -> None:
    slots = slots_of(DIGESTS)
    assert len(set(slots)) == MOST_KEYS
    assert slots_of(DIGESTS) == slots


def test_most_keys_keep_their_slot_when_others_go() -> None:
    before = dict(zip(DIGESTS, slots_of(DIGESTS), strict=True))
    left = DIGESTS[::2]
    moved = sum(before[digest] != slot for digest, slot in zip(left, slots_of(left), strict=True))
    assert moved < len(left) / 5
