from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from service.errors import Overloaded
from service.threads import BoundedThreads, Lanes

PATIENCE_S = 10.0
"""After which a thread goes on that a defect would have wait for ever."""


@pytest.fixture
def pool() -> Iterator[BoundedThreads]:
    threads = BoundedThreads(1, max_pending=2, name="test")
    yield threads
    threads.close()


def test_work_is_done_in_a_thread_of_that_name_and_its_result_comes_back(pool: BoundedThreads) -> None:
    def work() -> str:
        return threading.current_thread().name

    assert asyncio.run(pool.run(work)).startswith("test")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no nice value")
def test_it_lets_the_event_loop_go_before(pool: BoundedThreads) -> None:
    def work() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert asyncio.run(pool.run(work)) == min(19, before + 10)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_the_work_raises_comes_back(pool: BoundedThreads) -> None:
    def work() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        asyncio.run(pool.run(work))


def test_too_much_work_is_refused_at_once_and_told_when_to_come_again(pool: BoundedThreads) -> None:
    async def main() -> None:
        gate = threading.Event()
        running = [asyncio.ensure_future(pool.run(partial(gate.wait, PATIENCE_S))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 inputs are being decoded, the limit") as refused:
            await pool.run(lambda: 8)
        assert refused.value.retry_after_s > 0
        gate.set()
        assert await asyncio.gather(*running) == [True, True]
        assert await pool.run(lambda: 9) == 9

    asyncio.run(main())


def test_what_runs_counts_until_it_is_done_and_what_waits_is_withdrawn_when_its_caller_goes(
    pool: BoundedThreads,
) -> None:
    async def main() -> None:
        begun, gate, ran = threading.Event(), threading.Event(), threading.Event()

        def busy() -> None:
            begun.set()
            gate.wait(PATIENCE_S)

        gone = [asyncio.ensure_future(pool.run(busy)), asyncio.ensure_future(pool.run(ran.set))]
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE_S)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert all(task.cancelled() for task in gone)

        waiting = asyncio.ensure_future(pool.run(lambda: 7))  # in the place of what was withdrawn
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):  # what runs is counted still
            await pool.run(lambda: 8)
        gate.set()
        assert await waiting == 7
        assert not ran.is_set()

    asyncio.run(main())


# Lanes


class Worker(threading.Thread):
    """Does something in a lane, and then again: says so, and is done when it is told to be; it has come when made."""

    def __init__(self, lanes: Lanes, begun: list[str], name: str, *, times: int = 1) -> None:
        super().__init__(name=name, daemon=True)
        self.may_end = threading.Semaphore(0)
        self.results: list[str] = []
        self._lanes = lanes
        self._begun = begun
        self._times = times
        came = lanes.came
        self.start()
        wait_until_so_many_came(lanes, came + 1)

    def run(self) -> None:
        for _ in range(self._times):
            self.results.append(self._lanes.do(self._work))

    def _work(self) -> str:
        self._begun.append(self.name)
        assert self.may_end.acquire(timeout=PATIENCE_S)
        return f"{self.name} is done"


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def wait_until_so_many_came(lanes: Lanes, count: int) -> None:
    wait_until(lambda: lanes.came >= count)


def assert_begun(begun: list[str], *names: str) -> None:
    """These begin, in this order, and, given a moment, nobody else does."""
    wait_until(lambda: len(begun) >= len(names))
    time.sleep(0.02)
    assert begun == list(names)


def test_as_many_as_there_are_lanes_work_at_once_and_the_next_when_one_is_done() -> None:
    lanes, begun = Lanes(2), list[str]()
    workers = [Worker(lanes, begun, name) for name in ("first", "second", "third")]
    wait_until(lambda: len(begun) == 2)
    assert_begun(begun, *begun)
    assert set(begun) == {"first", "second"}
    workers[1].may_end.release()
    assert_begun(begun, *begun[:2], "third")
    for worker in (workers[0], workers[2]):
        worker.may_end.release()
    for worker in workers:
        worker.join(PATIENCE_S)
        assert worker.results == [f"{worker.name} is done"]


def test_who_came_first_goes_first_whoever_comes_again_at_once() -> None:
    lanes, begun = Lanes(1), list[str]()
    workers = [Worker(lanes, begun, name, times=2) for name in ("first", "second", "third")]
    for number in range(6):
        turns = [workers[turn % 3].name for turn in range(number + 1)]
        assert_begun(begun, *turns)
        wait_until_so_many_came(lanes, min(6, number + 3))  # who was done is back
        workers[number % 3].may_end.release()
    for worker in workers:
        worker.join(PATIENCE_S)
        assert not worker.is_alive()


def test_work_that_fails_leaves_its_lane() -> None:
    def fail() -> None:
        raise KeyError("broken")

    lanes = Lanes(1)
    with pytest.raises(KeyError, match="broken"):
        lanes.do(fail)
    assert lanes.do(lambda: 8) == 8
