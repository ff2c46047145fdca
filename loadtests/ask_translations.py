"""Ask a server for translations from many connections at once, a sentence a request: `bench_translate.py` starts it.

python loadtests/ask_translations.py PORT MODEL CLIENTS SECONDS, the sentences on standard input, a line each. It prints
sentences a second and times as JSON. Each client asks for its next sentence when it has the one before; the first half
second is not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from http.client import HTTPConnection

_WARM_UP_S = 0.5


def main() -> None:
    """Ask for as long as was said, and print what it was like."""
    port, model, clients, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    bodies = [json.dumps({"inputs": line.rstrip("\n")}).encode() for line in sys.stdin]
    begin = time.perf_counter() + _WARM_UP_S
    end = begin + seconds
    taken: list[float] = []
    failures: list[str] = []

    def ask(number: int) -> None:
        try:
            taken.extend(_ask(port, model, bodies, number, begin, end))
        except (OSError, ValueError) as error:
            failures.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0])
    taken.sort()
    print(
        json.dumps(
            {
                "sentences_per_s": len(taken) / seconds,
                "p50_s": statistics.median(taken),
                "p95_s": taken[int(0.95 * (len(taken) - 1))],
            }
        )
    )


def _ask(port: int, model: str, bodies: list[bytes], number: int, begin: float, end: float) -> list[float]:
    """The seconds that each answer of one client took."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    place = 7 * number
    taken = []
    while (started := time.perf_counter()) < end:
        body = bodies[place % len(bodies)]
        place += 1
        connection.request("POST", f"/predict/{model}", body, {"content-type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise ValueError(f"{response.status} {content!r}")
        now = time.perf_counter()
        if begin <= now < end:
            taken.append(now - started)
    connection.close()
    return taken


if __name__ == "__main__":
    main()
