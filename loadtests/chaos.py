"""What it costs that workers are killed under load: `make chaos`.

A server of two workers answers sixteen clients, each of which asks again when it was answered; meanwhile one of its
workers after the other is ended by SIGKILL, whenever there are two, until it was fifty. Told: how many requests were
answered, how many were lost with their connections, how many were refused, what the longest wait was, and how every
worker ended that was replaced. Fails where anything but a request in flight is lost, or anybody waits longer than a
time-out. `--proxy nginx` puts nginx between: what is lost is a 502 then.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from benching import ROOT, hardware
from processes import children_of
from proxying import nginx
from speed import Bench, Record

from service.bench.address import Address
from service.bench.own_server import own_server
from service.settings import Settings

CLIENTS = 16
LONGEST_WAIT_S = 30.0
_LOST = {None: "disconnected", "nginx": "502"}
"""What becomes of a request that a worker dies with, by what is between."""

_END = re.compile(r"worker \d+ ended with (.+); it is replaced")


class Killer(threading.Thread):
    """Kills workers, one at a time, until it was so many or it is told to stop."""

    def __init__(self, address: Address, server: int, kills: int) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self.ended = threading.Event()
        self._address = address
        self._server = server
        self._kills = kills

    def run(self) -> None:
        """Kill."""
        while self.killed < self._kills and not self.ended.wait(0.2):
            workers = sorted(children_of(self._server))
            if len(workers) == 2 and metric(self._address, "inferd_workers") == 2:
                os.kill(workers[self.killed % 2], signal.SIGKILL)
                self.killed += 1


def main() -> int:
    """Measure, print and write what was found; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of each load, of which there are as many as it takes"
    )
    parser.add_argument("--proxy", choices=("nginx",), help="what is between clients and server; default: nothing")
    parser.add_argument("--output", type=Path, help="a folder: chaos.json, or chaos-nginx.json, is written into it")
    given = parser.parse_args()
    settings = Settings(models=ROOT / "models", workers=2, threads=1)
    before_us = children_of(os.getpid())
    ends, told = Counter[str](), list[str]()

    def hear(line: str) -> None:
        message, level = _entry(line)
        if end := _END.search(message):
            ends[end[1]] += 1
        elif level not in ("debug", "info"):
            told.append(message[:500])

    with (
        own_server(settings, "fashion-classifier", hear=hear) as address,
        nginx(address) if given.proxy else nullcontext(address) as asked,
    ):
        (server,) = _running(children_of(os.getpid()) - before_us)
        bench = Bench(asked, Record(), seconds=given.seconds, warm_up_s=0.0)
        killer = Killer(address, server, given.kills)
        killer.start()
        answered, refused, longest_s, errors = 0, 0, 0.0, Counter[str]()
        until = time.monotonic() + 20 * given.kills
        while killer.is_alive() and time.monotonic() < until:
            figures = bench.closed("under fire", "fashion-classifier", "predict", CLIENTS)
            answered += figures.answered
            refused += figures.refused
            errors.update(figures.errors)
            longest_s = max(longest_s, figures.latency_ms.max / 1e3 if figures.latency_ms else 0.0)
        killer.ended.set()
        killer.join()
        time.sleep(3)
        restarts = metric(address, "inferd_worker_restarts_total")
    lost = _LOST[given.proxy]
    kept = (
        killer.killed == given.kills == restarts == ends["SIGKILL"]
        and set(errors) <= {lost}
        and errors[lost] <= CLIENTS * given.kills
        and not refused
        and longest_s < LONGEST_WAIT_S
    )
    result = {
        "machine": hardware(),
        "killed": killer.killed,
        "proxy": given.proxy,
        "replaced": restarts,
        "ends": ends,
        "told": told,
        "answered": answered,
        "refused": refused,
        "errors": errors,
        "longest_wait_s": longest_s,
        "kept": kept,
    }
    print(json.dumps(result, indent=2))
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        name = f"chaos-{given.proxy}.json" if given.proxy else "chaos.json"
        (given.output / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if kept else 1


def _entry(line: str) -> tuple[str, str]:
    """Message and level of a line of the log."""
    try:
        entry = json.loads(line)
        return str(entry["message"]), str(entry["level"])
    except (ValueError, LookupError, TypeError):
        return line.rstrip(), "error"


def _running(pids: set[int]) -> set[int]:
    """Which of these processes run inferd."""
    return {one for one in pids if b"service.cli" in Path(f"/proc/{one}/cmdline").read_bytes()}


def metric(address: Address, name: str) -> float:
    """What the server counts in a series without labels."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as response:
        found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
