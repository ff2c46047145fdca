"""Threads for work that would hold up the event loop, with a bound on how much of it may wait."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from service.errors import Overloaded

T = TypeVar("T")


_STEPS_BACK = 10


def step_back() -> None:
    """Let other threads and processes go before this thread, where they want the same core: its work is long anyway.

    Linux has a nice value for each thread; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _STEPS_BACK)


class Lanes:
    """So many threads at once do work that others share; who comes first goes first.

    Args:
        count: how many.

    Attributes:
        came: so many have come so far.
    """

    def __init__(self, count: int) -> None:
        self.came = 0
        self._may_go = count  # so many of those that came, be they done, at work or still waiting
        self._changed = threading.Condition()

    def do(self, work: Callable[[], T]) -> T:
        """Do `work` in this thread, once it is its turn, and return what it returns."""
        with self._changed:
            place = self.came
            self.came += 1
            self._changed.wait_for(lambda: place < self._may_go)
        try:
            return work()
        finally:
            with self._changed:
                self._may_go += 1
                self._changed.notify_all()


class BoundedThreads:
    """A pool that refuses work rather than queueing it without end.

    Args:
        threads: how many run at once.
        max_pending: how many calls may run or wait.
        name: of the threads.

    Attributes:
        threads: how many run at once.
    """

    def __init__(self, threads: int, *, max_pending: int, name: str) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=step_back)
        self._max_pending = max_pending
        self._pending = 0
        self._lock = threading.Lock()  # of the count alone: it goes up in the event loop and down in a thread

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return what it returns. Cancelling withdraws it, unless it runs already.

        Raises:
            Overloaded: too many calls wait already.
        """
        with self._lock:
            if self._pending >= self._max_pending:
                raise Overloaded(f"{self._pending} inputs are being decoded, the limit", retry_after_s=1.0)
            self._pending += 1
        future = self._pool.submit(work)
        # What runs counts until it is done, also when its caller has gone: that is what the bound is about.
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Withdraw what waits, and let the threads end once they are idle."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, _: object) -> None:
        with self._lock:
            self._pending -= 1
