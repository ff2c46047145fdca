"""Clients that ask for something over and over, and what became of each request."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.deploy.chart.rendering import ROOT

JSON: Final = {"content-type": "application/json"}
PICTURE: Final = (ROOT / "docs" / "examples" / "shoe.png").read_bytes()
TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Ask:
    """A request."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


CLASSIFY: Final = Ask("/predict/fashion-classifier", PICTURE, {"content-type": "image/png"})
WRITE: Final = Ask("/predict/shakespeare", b'{"inputs": "ROMEO:", "parameters": {"max_new_tokens": 60}}', JSON)
TRANSLATE: Final = Ask("/predict/en-de", b'{"inputs": "I would like a cup of coffee, please."}', JSON)
DRAW: Final = Ask("/predict/fashion-gan", b'{"inputs": "an ankle boot"}', JSON)
ALL_TASKS: Final = (CLASSIFY, WRITE, TRANSLATE, DRAW)


class Load:
    """What clients were answered; see `load`.

    Attributes:
        outcomes: how often each status came, or each reason why none did.
        failed: when requests began that failed (by any status but 200, or none), in seconds of the monotonic clock.
    """

    def __init__(self, port: int, asks: Sequence[Ask], *, pause_s: float = 0.0) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failed: list[float] = []
        self._port = port
        self._asks = asks
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def answered(self) -> int:
        """How many requests were answered with 200."""
        return self.outcomes["200"]

    @property
    def failures(self) -> dict[str, int]:
        """All that was not 200."""
        return {outcome: count for outcome, count in self.outcomes.items() if outcome != "200"}

    def ask(self, one: Ask) -> str:
        """Ask once, on a connection of its own; gives the status, or why there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", one.path, one.body, {**one.headers, "connection": "close"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()
        return str(response.status)

    def run(self, number: int) -> None:
        """Ask until the end."""
        turn = number
        while not self._ended.is_set():
            began = time.monotonic()
            outcome = self.ask(self._asks[turn % len(self._asks)])
            with self._lock:
                self.outcomes[outcome] += 1
                if outcome != "200":
                    self.failed.append(began)
            turn += 1
            if self._pause_s:
                self._ended.wait(self._pause_s)

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()


@contextmanager
def load(port: int, asks: Sequence[Ask], *, clients: int, pause_s: float = 0.0) -> Iterator[Load]:
    """Put load on a port of this machine, until the end of the block; then every request has been answered."""
    one = Load(port, asks, pause_s=pause_s)
    threads = [threading.Thread(target=one.run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield one
    finally:
        one.stop()
        for thread in threads:
            thread.join()
