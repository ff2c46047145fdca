"""Read many streams of text at once, cheaply, and tell how fast they came: `bench_text.py` runs this beside a server.

Every connection asks again as soon as a text has ended. Events are counted, not parsed: parsing would take more of the
machine than serving them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

EVENT = b"data: "
WARM_UP_S = 0.5


class Reader(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, figures: Figures) -> None:
        self._request = request
        self._figures = figures
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first text."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count what has come; ask again at the end of a text."""
        now = time.perf_counter()
        text = self._tail + data
        events = text.count(EVENT)
        self._tail = text[-(len(EVENT) - 1) :]
        if self._first is None:
            if not events:
                return
            self._first = now
            self._figures.first.append((now, now - self._asked))
        elif events:
            # Tokens that came together: the first of them waited, the others did not.
            self._figures.gaps.append((now, now - self._last, events))
        self._last = now
        self._figures.tokens.append((now, events))
        if text.endswith(b"0\r\n\r\n"):
            self._tail = b""
            self._ask()

    def _ask(self) -> None:
        self._asked = self._last = time.perf_counter()
        self._first: float | None = None
        self._transport.write(self._request)  # type: ignore[attr-defined]


class Figures:
    """What all connections have seen."""

    def __init__(self) -> None:
        self.first: list[tuple[float, float]] = []
        self.gaps: list[tuple[float, float, int]] = []
        self.tokens: list[tuple[float, int]] = []


async def read(port: int, model: str, prompt: str, streams: int, seconds: float, length: int) -> dict[str, float]:
    """Read for some seconds, the warm-up not counted."""
    figures = Figures()
    loop = asyncio.get_running_loop()
    body = json.dumps({"text_input": prompt, "parameters": {"max_tokens": length, "temperature": 1.0}}).encode()
    head = f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request = head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body
    made = [await loop.create_connection(lambda: Reader(request, figures), "127.0.0.1", port) for _ in range(streams)]
    await asyncio.sleep(WARM_UP_S)
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    ended = time.perf_counter()
    for transport, _ in made:
        transport.close()
    characters = sum(events for when, events in figures.tokens if started <= when < ended)
    gaps: list[float] = []
    for when, gap, events in figures.gaps:
        if started <= when < ended:
            gaps += [gap, *([0.0] * (events - 1))]
    first = [seconds for when, seconds in figures.first if started <= when < ended]
    return {
        "characters_per_s": characters / (ended - started),
        "first_token_p95_s": percentile(first, 0.95),
        "between_tokens_p99_s": percentile(gaps, 0.99),
    }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of `values` do not pass; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    """Read, and print the figures as JSON."""
    port, model, prompt, streams, seconds, length = sys.argv[1:]
    figures = uvloop.run(read(int(port), model, prompt, int(streams), float(seconds), int(length)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
