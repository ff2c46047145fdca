"""Read many streams of text at once, cheaply, and tell how fast they came: `bench_text.py` runs this beside a server.

It shares the machine with the server, and what it takes the server has not. So events are counted, not parsed; and only
a few connections are read as soon as something comes, for the times, while the others are emptied every 20 ms, as if
they were far away. Every connection asks again as soon as its text has been read. The first texts are of different
lengths, so that texts begin and end at different times ever after.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Iterable

TIMED = 8
"""Connections that are read at once and timed."""

EMPTIED_EVERY_S = 0.02
WARM_UP_S = 1.0

_EVENT = b"data: "
_END = b"0\r\n\r\n"
_READ_BYTES = 16_384


class Figures:
    """What all timed connections have seen.

    Attributes:
        first: when a first token came, and after what time.
        gaps: when tokens came that were not the first, after what time, and how many.
    """

    def __init__(self) -> None:
        self.first: list[tuple[float, float]] = []
        self.gaps: list[tuple[float, float, int]] = []


class Connection:
    """One connection, on which one text is asked for after the other.

    Args:
        port: of the server.
        first: the request for the first text.
        others: the request for all others.
        figures: where times go; None = they are not of interest.

    Attributes:
        events: how many have come.
    """

    def __init__(self, port: int, first: bytes, others: bytes, figures: Figures | None) -> None:
        self.events = 0
        self._others = others
        self._figures = figures
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._ask(first)

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def read(self) -> None:
        """Take all that has come; ask again at the end of a text.

        Raises:
            ConnectionError: the server has closed the connection, or answers something else than a text.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        now = time.perf_counter()
        if not self._tail and not data.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"the server answers {data[:100]!r}")
        text = self._tail + data
        events = text.count(_EVENT)
        self._tail = text[-(len(_EVENT) - 1) :]
        self.events += events
        if events and self._figures:
            if self._waits:
                self._figures.first.append((now, now - self._last))
            else:
                # Tokens that came together: the first of them waited, the others did not.
                self._figures.gaps.append((now, now - self._last, events))
            self._waits, self._last = False, now
        if text.endswith(_END):
            self._ask(self._others)
        elif len(data) == _READ_BYTES:
            self.read()

    def close(self) -> None:
        """Go away."""
        self._socket.close()

    def _ask(self, request: bytes) -> None:
        self._tail = b""
        self._waits = True
        self._last = time.perf_counter()
        self._socket.sendall(request)


def read(port: int, model: str, prompt: str, streams: int, seconds: float, length: int) -> dict[str, float]:
    """Read for some seconds, the warm-up not counted."""
    figures = Figures()

    def request(characters: int) -> bytes:
        parameters = {"max_tokens": characters, "temperature": 1.0}
        body = json.dumps({"text_input": prompt, "parameters": parameters}).encode()
        head = f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        return head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body

    others = request(length)
    made = [
        Connection(port, request(max(1, length * place // streams)), others, figures if place <= TIMED else None)
        for place in range(1, streams + 1)
    ]
    timed, rest = made[:TIMED], made[TIMED:]
    with selectors.DefaultSelector() as selector:
        for one in timed:
            selector.register(one, selectors.EVENT_READ)
        _read_for(WARM_UP_S, selector, rest)
        started, before = time.perf_counter(), _events(made)
        _read_for(seconds, selector, rest)
        ended, after = time.perf_counter(), _events(made)
    for one in made:
        one.close()
    gaps: list[float] = []
    for when, gap, events in figures.gaps:
        if started <= when < ended:
            gaps += [gap, *([0.0] * (events - 1))]
    first = [seconds for when, seconds in figures.first if started <= when < ended]
    return {
        "characters_per_s": (after - before) / (ended - started),
        "first_token_p95_s": percentile(first, 0.95),
        "between_tokens_p99_s": percentile(gaps, 0.99),
    }


def _read_for(seconds: float, selector: selectors.BaseSelector, rest: Iterable[Connection]) -> None:
    """Read what `selector` watches as it comes, and the rest now and then."""
    now = time.perf_counter()
    until, emptied_at = now + seconds, now
    while now < until:
        for key, _ in selector.select(max(0.0, min(until, emptied_at + EMPTIED_EVERY_S) - now)):
            key.fileobj.read()  # type: ignore[union-attr]
        now = time.perf_counter()
        if now >= emptied_at + EMPTIED_EVERY_S:
            emptied_at = now
            for one in rest:
                one.read()


def _events(connections: Iterable[Connection]) -> int:
    """How many have come by now on all of them."""
    total = 0
    for one in connections:
        one.read()
        total += one.events
    return total


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of `values` do not pass; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    """Read, and print the figures as JSON."""
    port, model, prompt, streams, seconds, length = sys.argv[1:]
    figures = read(int(port), model, prompt, int(streams), float(seconds), int(length))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
