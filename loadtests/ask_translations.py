"""Ask a server for translations on many connections at once, cheaply: `bench_translate.py` runs this beside a server.

python loadtests/ask_translations.py PORT MODEL CLIENTS SECONDS, the sentences on standard input, a line each. It prints
sentences a second and times as JSON. Each connection asks for its next sentence when it has the one before; the first
half second is not counted. It shares the machine with the server, and what it takes the server has not: so one thread
watches all sockets, and of an answer only the status and the end are looked at.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Sequence

_WARM_UP_S = 0.5
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Client:
    """One connection, on which one sentence is asked for after the other.

    Args:
        port: of the server.
        requests: of all sentences.
        place: of the first that it asks for.

    Attributes:
        taken: when an answer had come, and after how many seconds.
    """

    def __init__(self, port: int, requests: Sequence[bytes], place: int) -> None:
        self.taken: list[tuple[float, float]] = []
        self._requests = requests
        self._place = place
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._ask()

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def read(self) -> None:
        """Take what has come; at the end of an answer ask for the next sentence.

        Raises:
            ConnectionError: the server has closed the connection, or answers something else than a translation.
        """
        data = self._socket.recv(16_384)
        self._answer += data
        if not data or not self._answer.startswith(b"HTTP/1.1 200"[: len(self._answer)]):
            raise ConnectionError(f"the server answers {self._answer[:200]!r}")
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if end and length and len(body) >= int(length[1]):
            now = time.perf_counter()
            self.taken.append((now, now - self._asked_at))
            self._ask()

    def close(self) -> None:
        """Go away."""
        self._socket.close()

    def _ask(self) -> None:
        self._answer = b""
        self._asked_at = time.perf_counter()
        self._socket.sendall(self._requests[self._place % len(self._requests)])
        self._place += 1


def ask(port: int, model: str, clients: int, seconds: float, sentences: Sequence[str]) -> dict[str, float]:
    """Ask for some seconds, and say what it was like: sentences a second, and how long an answer took, in seconds."""
    bodies = [json.dumps({"inputs": sentence}).encode() for sentence in sentences]
    head = f"POST /predict/{model} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
    requests = [head.encode() + b"%d\r\n\r\n%b" % (len(body), body) for body in bodies]
    connections = [Client(port, requests, 7 * number) for number in range(clients)]
    begin = time.perf_counter() + _WARM_UP_S
    end = begin + seconds
    with selectors.DefaultSelector() as selector:
        for one in connections:
            selector.register(one, selectors.EVENT_READ)
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(end - now):
                key.fileobj.read()  # type: ignore[union-attr]
    taken = sorted(took for one in connections for when, took in one.taken if begin <= when < end)
    for one in connections:
        one.close()
    return {
        "sentences_per_s": len(taken) / seconds,
        "p50_s": statistics.median(taken),
        "p95_s": taken[int(0.95 * (len(taken) - 1))],
    }


def main() -> None:
    """Ask, and print the figures as JSON."""
    port, model, clients, seconds = sys.argv[1:]
    print(json.dumps(ask(int(port), model, int(clients), float(seconds), sys.stdin.read().splitlines())))


if __name__ == "__main__":
    main()
