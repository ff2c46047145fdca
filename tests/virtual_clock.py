"""An event loop whose time is virtual, so that a test of seconds takes microseconds and never sleeps.

When nothing is ready, the clock jumps to the next timer. Threads are real: while work of `run_in_executor` is
unfinished the clock stands still, so to a test such work takes no time. A test that would hang fails instead.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE_S: Final = 0.5
PATIENCE_WITH_THREADS_S: Final = 10.0
"""Real seconds without any event after which a test is declared hung."""


class _JumpingSelector(selectors.SelectSelector):
    """Moves `now` where a common selector would sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        polls = timeout is not None and timeout <= 0
        if polls or (timeout is not None and not self.threads):
            events = super().select(0)
            if not events:
                self.now += max(0.0, timeout or 0.0)
            return events
        events = super().select(PATIENCE_WITH_THREADS_S if self.threads else PATIENCE_S)
        if not events:
            raise RuntimeError("no timer, no thread and no socket is left to wake this test: it would hang")
        return events


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """The loop: `time()` is virtual and starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._jumping.now

    def advance(self, seconds: float) -> None:
        """Let time pass within a callback, as work does that blocks the loop."""
        self._jumping.now += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Do as the base class does, and hold the clock until the work is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh virtual clock."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
