"""A server that is started to be measured: `inferd serve` on a free port of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from service.bench.address import Address
from service.settings import Settings

_START_TIMEOUT_S = 60.0
_LOAD_TIMEOUT_S = 600.0
_END_TIMEOUT_S = 60.0
_ASKED_EVERY_S = 0.05
_SHOWN_LINES = 20
_RUNNING = re.compile(r"running on (http://\S+?:\d+)")


@contextmanager
def own_server(
    settings: Settings, *models: str, hear: Callable[[str], object] = lambda _line: None
) -> Iterator[Address]:
    """A server that is ready, with the settings of the environment but where it listens and what it serves.

    Args:
        settings: that say where models are and how many workers there shall be.
        models: that it loads; all that there are if none is named.
        hear: is told every line of its log, in a thread of its own.

    Raises:
        ValueError: it does not start, or refuses the model.
    """
    environment = {
        **os.environ,
        "INFERD_HOST": "127.0.0.1",
        "INFERD_PORT": "0",
        "INFERD_GRPC_PORT": "",
        "INFERD_METRICS_PORT": "",
        "INFERD_MODELS": str(settings.models.absolute()),
        "INFERD_WORKERS": str(settings.workers),
        "INFERD_MODEL_CONTROL": "explicit",
        "INFERD_LOAD_AT_START": ",".join(models) or "*",
        "INFERD_LOG_LEVEL": "info",
        # What is measured is open, and not encrypted.
        **dict.fromkeys(("INFERD_API_KEYS_FILE", "INFERD_TLS_CERT_FILE", "INFERD_TLS_KEY_FILE"), ""),
        "INFERD_TLS_CLIENT_CA_FILE": "",
        "INFERD_PREDICT_ACCESS": "open",
        "INFERD_METRICS_ACCESS": "auto",
    }
    command = [sys.executable, "-P", "-m", "service.cli", "serve"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
    log = _Log(process, hear)
    try:
        address = Address.of(log.wait_for(_RUNNING))
        _wait_until_ready(address, models, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


class _Log:
    """What a server says, read so that it never has to wait for a reader."""

    def __init__(self, process: subprocess.Popen[str], hear: Callable[[str], object]) -> None:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        self._stream = process.stderr
        self._hear = hear
        self._lines: deque[str] = deque(maxlen=_SHOWN_LINES)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, pattern: re.Pattern[str]) -> str:
        """The first group of the first line that has `pattern`."""

        def find() -> str | None:
            found = (pattern.search(line) for line in self._lines)
            return next((one[1] for one in found if one), None)

        with self._changed:
            self._changed.wait_for(lambda: find() or not self._thread.is_alive(), _START_TIMEOUT_S)
            if text := find():
                return text
        raise ValueError(f"the server did not start: {self}")

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def close(self) -> None:
        self._thread.join()
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            self._hear(line)
            with self._changed:
                self._lines.append(_message_of(line))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def _message_of(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line.rstrip()


def _wait_until_ready(address: Address, models: Collection[str], process: subprocess.Popen[str], log: _Log) -> None:
    until = time.monotonic() + _LOAD_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        states = address.get("/health/ready", allowed=(200, 503))
        if states["ready"]:
            return
        for one in states["models"]:
            if (not models or one["name"] in models) and one["state"] == "UNAVAILABLE" and one["reason"]:
                raise ValueError(f"the server does not serve {one['name']}: {one['reason']}")
        time.sleep(_ASKED_EVERY_S)
    raise ValueError(f"the server is not ready: {log}")
