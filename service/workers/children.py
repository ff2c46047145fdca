"""The processes that a server starts for itself: their command, their end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process


def python(*arguments: str) -> list[str]:
    """The command of `service.process`: this interpreter and this inferd, not what lies in the working folder."""
    return [sys.executable, "-P", "-m", "service.process", *arguments]


def kill(process: Process) -> None:
    """End a process at once, if it has not ended.

    `Process.kill` would look whether it has, and so take its exit code from under the event loop.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it has, and the event loop is yet to be told
            os.kill(process.pid, signal.SIGKILL)


def describe_end(code: int) -> str:
    """Say how a process ended."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
