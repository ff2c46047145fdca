"""Requests to a server in a container."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from typing import Any, Final

from tests.deploy.containers import ROOT, START_TIMEOUT_S, Container

PICTURE: Final = (ROOT / "docs" / "examples" / "shoe.png").read_bytes()
LOCAL: Final = {"INFERD_HOST": "127.0.0.1", "INFERD_PORT": 0, "INFERD_GRPC_PORT": 0, "INFERD_METRICS_PORT": 0}
"""Containers share the network of the machine: nobody else may reach them, and each has ports of its own."""


class Served:
    """The server in a container: where it answers, and what it answers; it is ready once this is made."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.port = int(self._logged(r"running on http://127\.0\.0\.1:(\d+)"))
        self.metrics_port = int(self._logged(r"metrics are served on 127\.0\.0\.1:(\d+)"))
        self.wait_until_ready()

    def _logged(self, pattern: str) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.container.log()):
                return found[1]
            assert self.container.state()["Running"], self.container.log()
        raise AssertionError(f"the server did not say {pattern!r}: {self.container.log()}")

    def wait_until_ready(self) -> None:
        """Wait until it says that it is."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.get("/health/ready")[0] != 200:
            assert time.monotonic() < deadline, self.container.log()
            time.sleep(0.05)  # a process of its own: there is nothing to wait on but its answers

    def get(self, path: str, *, port: int | None = None) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.port}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def post(self, path: str, content: bytes | dict[str, Any]) -> bytes:
        """The body of the answer to a picture, or to JSON, which must be 200."""
        kind = "image/png" if isinstance(content, bytes) else "application/json"
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"content-type": kind})
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own server
            answer: bytes = response.read()
            return answer

    def metric(self, name: str) -> float:
        """The sum of all series of `name`."""
        status, text = self.get("/metrics", port=self.metrics_port)
        assert status == 200, text
        lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
        assert lines, f"there is no {name} in {text}"
        return sum(float(line.rpartition(" ")[2]) for line in lines)


class Client(threading.Thread):
    """Has a picture classified again and again, until the server is gone, and remembers what came of each request."""

    def __init__(self, port: int, *, keep_alive: bool) -> None:
        super().__init__()
        self.port = port
        self.keep_alive = keep_alive
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        for _ in range(50_000):
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
            try:
                connection.request("POST", "/predict/fashion-classifier", PICTURE, {"content-type": "image/png"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            if response.status == 200:
                self.answered += 1
            else:
                self.lost.append(f"status {response.status}")
            if not self.keep_alive or response.getheader("connection") == "close":
                connection.close()
                connection = None
        self.lost.append("the server never ended")
