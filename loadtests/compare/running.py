"""Starts a server that inferd is compared with, in its own environment, and ends all of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final

from loadtests.compare.peers import HERE, WORKERS, Peer, Setting
from loadtests.compare.wires import Floats
from service.bench.address import Address
from service.bench.messages import Request

ENVIRONMENTS: Final = HERE.parents[1] / ".venv" / "compare"
_MARK: Final = "COMPARED_SERVER"
_START_TIMEOUT_S, _END_TIMEOUT_S, _ASK_TIMEOUT_S = 120.0, 15.0, 30.0
_ASKED_EVERY_S, _LOOKED_EVERY_S = 0.2, 0.05
_LONGEST_REASON: Final = 300
_TELLING = re.compile(r"\b\w*(?:Error|Exception|error)\b.*:|^ERROR")


class NotServed(Exception):
    """A server could not be started; why, in a line."""


def python_of(peer: Peer) -> Path:
    """The Python of a peer's environment.

    Raises:
        NotServed: there is none, or it could not be made.
    """
    folder = ENVIRONMENTS / peer.name
    if (folder / "bin" / ".ready").exists():
        return folder / "bin" / "python"
    log = ENVIRONMENTS / f"{peer.name}.log"
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    raise NotServed(f"it could not be installed: {reason_in(said) or f'make .venv/compare/{peer.name}/bin/.ready'}")


@contextmanager
def serving(peer: Peer, setting: Setting, model: Path, workers: int, picture: Floats) -> Iterator[Address]:
    """A server that answers.

    Args:
        peer: which,
        setting: and how it is set up.
        model: the ONNX file that it serves.
        workers: how many processes shall run it.
        picture: that it is asked for until it answers.

    Raises:
        NotServed: it does not start, or does not answer within two minutes.
    """
    python = python_of(peer)
    with tempfile.TemporaryDirectory(prefix="compared-", ignore_cleanup_errors=True) as folder:
        address, mark, log = Address("127.0.0.1", _free_port()), uuid.uuid4().hex, Path(folder) / "log"
        arguments = [str(workers) if one == WORKERS else one for one in setting.arguments]
        environment = {
            **os.environ,
            "HOME": folder,
            "PYTHONPATH": str(HERE / "shared"),
            "OMP_NUM_THREADS": "1",
            "COMPARED_MODEL": str(model),
            "COMPARED_FOLDER": folder,
            _MARK: mark,
            **peer.environment,
        }
        with log.open("wb") as said:
            process = subprocess.Popen(
                [python, peer.program, str(address.port), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_until_it_answers(process, address, setting.wire.request(address, picture), log)
            yield address
        finally:
            _end(process, mark)


def ask(address: Address, request: Request) -> tuple[int, bytes]:
    """Send a request as the load does, and read the answer: its status and its body.

    Raises:
        OSError: there is no answer.
    """
    family, where = address.resolved()
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ASK_TIMEOUT_S)
        connection.connect(where)
        connection.sendall(request.content)
        response = HTTPResponse(connection)
        try:
            response.begin()
            return response.status, response.read()
        except HTTPException as error:
            raise ConnectionError(f"{address} answers no HTTP: {error}") from error
        finally:
            response.close()


def reason_in(log: str) -> str:
    """The line of a log that most likely says what went wrong: the last that tells an error, else the last."""
    lines = [one.strip() for one in log.splitlines() if one.strip()]
    telling = [one for one in lines if _TELLING.search(one)]
    reason = (telling or lines or [""])[-1]
    return reason.replace(f"{HERE.parents[1]}/", "")[:_LONGEST_REASON]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: Address, request: Request, log: Path) -> None:
    said = "nothing"
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            told = reason_in(log.read_text(encoding="utf-8", errors="replace"))
            raise NotServed(f"it ended with {process.returncode} before it answered: {told}")
        try:
            status, body = ask(address, request)
        except OSError as error:
            said = str(error)
        else:
            if status == 200:
                return
            said = f"{status} {body[:_LONGEST_REASON].decode(errors='replace')}"
        time.sleep(_ASKED_EVERY_S)
    told = reason_in(log.read_text(encoding="utf-8", errors="replace"))
    raise NotServed(f"it did not answer within {_START_TIMEOUT_S:g} s ({said}): {told}"[:_LONGEST_REASON])


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a server in order if it can be, and then whatever is left of it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Some put processes into sessions of their own; the environment that they were started with tells whose they are.
    until = time.monotonic() + _END_TIMEOUT_S
    while (left := _marked(mark)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(_LOOKED_EVERY_S)
    process.wait()


def _marked(mark: str) -> list[int]:
    sought = f"{_MARK}={mark}".encode()
    found = []
    for one in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it is gone, or not ours
            if sought in one.read_bytes().split(b"\0"):
                found.append(int(one.parent.name))
    return found
