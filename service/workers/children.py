"""The processes that a server starts for itself: their command, their end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from asyncio.subprocess import Process
from pathlib import Path
from typing import IO

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def python(*arguments: str) -> list[str]:
    """The command of `service.process`: this interpreter and this inferd, not what lies in the working folder."""
    return [sys.executable, "-P", "-m", "service.process", *arguments]


def end_with_parent(given: IO[bytes]) -> None:
    """End this process, whatever it is doing by then, when the one that started it is gone.

    Args:
        given: what the parent holds open for as long as it lives, and writes nothing more to.
    """

    def wait() -> None:
        # Not by `given` itself: a thread that holds its lock would have the interpreter abort at its end.
        while os.read(given.fileno(), 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def bound_memory(most_bytes: int) -> None:
    """Have this process get no more memory than that: who asks for more is told that there is none.

    What is counted is what it may write to, whether it does or not. Nothing is bounded where the system can't.
    """
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def be_first_to_go() -> None:
    """Have the kernel end this process before others where the machine's memory is used up."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def kill(process: Process) -> None:
    """End a process at once, if it has not ended.

    `Process.kill` would look whether it has, and so take its exit code from under the event loop.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it has, and the event loop is yet to be told
            os.kill(process.pid, signal.SIGKILL)


def describe_end(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
