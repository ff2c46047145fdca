from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from service.workers.children import describe_end, kill, python


async def child(code: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code)


def test_a_child_is_of_this_interpreter_and_does_not_import_what_lies_in_the_working_folder() -> None:
    command = python("worker", "--index", "1")
    assert command[0] == sys.executable
    assert command.index("-P") < command.index("-m")
    assert command[-4:] == ["service.process", "worker", "--index", "1"]


def test_a_child_that_runs_is_ended_at_once() -> None:
    async def scenario() -> None:
        process = await child("import time; time.sleep(60)")
        kill(process)
        assert await process.wait() == -signal.SIGKILL

    asyncio.run(scenario())


def test_a_child_that_has_ended_is_left_alone_whether_or_not_that_is_known_yet() -> None:
    async def scenario() -> None:
        process = await child("")
        # It ends while the event loop can't take note; what waits for it in a thread, if anything does, can.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        time.sleep(0.1)  # noqa: ASYNC251
        assert process.returncode is None
        kill(process)
        assert await process.wait() == 0
        kill(process)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-signal.SIGSEGV, "SIGSEGV"), (-9, "SIGKILL")]
)
def test_an_end_is_described(code: int, text: str) -> None:
    assert describe_end(code) == text


def test_a_child_ends_when_its_parent_is_gone_whatever_it_is_doing() -> None:
    busy = "import sys; from service.workers.children import end_with_parent; end_with_parent(sys.stdin.buffer)\n"
    busy += "print('busy', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        assert child.stdout.readline() == b"busy\n"
        assert child.poll() is None
        child.stdin.close()  # as the kernel does for a parent that was killed
        assert child.wait(30) == 1
