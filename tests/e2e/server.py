"""A real server in a process of its own, on a free port of this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
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
    """A running `inferd serve`, by the interpreter `python`."""

    def __init__(self, *, python: str | Path = sys.executable, **settings: object) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERD_")}
        environment |= {"INFERD_PORT": "0", "INFERD_GRPC_PORT": "0", "INFERD_MODELS": str(ROOT / "models")}
        environment |= {"INFERD_WORKERS": "1"}
        environment |= {f"INFERD_{name.upper()}": str(value) for name, value in settings.items()}
        self.workers = int(environment["INFERD_WORKERS"])
        command = [python, "-m", "service.cli", "serve"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, object]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        self.url = self.logged(r"running on (https?://[\d.]+:\d+)")
        self.port = int(self.url.rpartition(":")[2])

    def logged(self, pattern: str) -> str:
        """Wait until a line of the log has `pattern`, and return its first group."""

        def find() -> str | None:
            found = (re.search(pattern, str(entry["message"])) for entry in self.log)
            return next((one[1] for one in found if one), None)

        with self._changed:
            self._changed.wait_for(lambda: find() or not self._reader.is_alive(), START_TIMEOUT_S)
            text = find()
            assert text, f"the server did not say {pattern!r}: {self.log}"
        return text

    @property
    def grpc(self) -> str:
        """The address of its gRPC port."""
        return self.logged(r"gRPC is served on (\S+)")

    def _read_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                self.log.append(json.loads(line) if line.startswith("{") else {"message": line})
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

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

    def metric(self, name: str, label: str = "") -> float:
        """The sum of all series of `name` that have `label`, such as `worker="0"`."""
        lines = [line for line in self.get("/metrics").splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if label in line)

    def answered(self) -> list[float]:
        """How many requests each worker has answered, where there are several: asking is a request for each of them."""
        workers = range(self.workers) if self.workers > 1 else ()
        return [self.metric("inferd_worker_requests_total", f'worker="{worker}"') for worker in workers]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the process to end; its whole log is then in `log`."""
        code = self.process.wait(STOP_TIMEOUT_S)
        self.close()
        return code

    def close(self) -> None:
        """End the process, if it has not ended, and read the rest of its log."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)
        assert self.process.stderr
        self.process.stderr.close()


@contextmanager
def running_server(*, python: str | Path = sys.executable, **settings: object) -> Iterator[Server]:
    """A server that is ready, and is ended afterwards whatever happens."""
    server = Server(python=python, **settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()
