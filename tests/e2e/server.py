"""A real server in a process of its own, on a free port of this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


class Server:
    """A running `inferd serve`."""

    def __init__(self, **settings: object) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERD_")}
        environment |= {"INFERD_PORT": "0", "INFERD_MODELS": str(ROOT / "models")}
        environment |= {f"INFERD_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "service.cli", "serve"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, object]] = []
        self.url = self._wait_for_address()
        self.port = int(self.url.rpartition(":")[2])

    def _wait_for_address(self) -> str:
        assert self.process.stderr
        for line in self.process.stderr:
            entry = json.loads(line)
            self.log.append(entry)
            if found := re.search(r"running on (http://[\d.]+:\d+)", str(entry["message"])):
                return found[1]
        raise AssertionError(f"the server ended with {self.process.wait()}: {self.log}")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self.get("/health/ready")
            except urllib.error.HTTPError as error:
                error.close()
                time.sleep(0.05)  # a process of its own: there is nothing to wait on but its answers
            else:
                return
        raise AssertionError("the server is not ready")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:  # noqa: S310 - our own server
            text: str = response.read().decode()
            return text

    def metric(self, name: str) -> float:
        """The sum of all series of `name`."""
        lines = [line for line in self.get("/metrics").splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the process to end; its whole log is then in `log`."""
        _, rest = self.process.communicate(timeout=STOP_TIMEOUT_S)
        self.log += [json.loads(line) for line in rest.splitlines()]
        return self.process.returncode


@contextmanager
def running_server(**settings: object) -> Iterator[Server]:
    """A server that is ready, and is ended afterwards whatever happens."""
    server = Server(**settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()
