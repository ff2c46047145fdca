"""What hostile requests do to a server and to its other clients: `make bench-hostile`.

A server of its own, two workers with every bundled model and short time-outs, is asked for classifications by four
clients; meanwhile each kind of `attacks.py` comes a hundred times, twenty at once. Told of each kind: what the server
answered, how much memory its workers hold at most meanwhile and some seconds afterwards, beside before, and how long
the other clients' slowest hundredth waited, by what it waited with no attack, and by what it waited while a process
that asks the server nothing copied memory: who attacks, who asks and who answers share the machine here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from attacks import attacks
from benching import ROOT, hardware
from processes import children_of, resident_mb
from speed import Bench, Record

from service.bench.own_server import own_server
from service.settings import Settings

AFTERWARDS_MB = 8.0
SLOWER = 2.0
_SHORT = {"INFERD_HEAD_TIMEOUT_S": "3", "INFERD_BODY_TIMEOUT_S": "5", "INFERD_SEND_TIMEOUT_S": "3"}
_SETTLE_S = 3.0
_MEASURED_S = 0.2
"""An attack begins so long after the other clients are measured: some are over in less than a second."""
_COPIES = "import os; os.nice(10); content = bytearray(15 * 2**20)\nwhile True: bytes(content)"


class Peak(threading.Thread):
    """Looks at a server's memory until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.mb = resident_mb(pid)
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        """Look."""
        while not self._ended.wait(0.05):
            self.mb = max(self.mb, resident_mb(self._pid))

    def stop(self) -> float:
        """The most that was seen."""
        self._ended.set()
        self.join()
        return self.mb


def main() -> int:
    """Measure, print a table and write it as JSON; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=list(attacks()), help="which; default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load of the other clients")
    parser.add_argument("--output", type=Path, help="a folder: hostile.json and hostile.md are written into it")
    given = parser.parse_args()
    os.environ.update(_SHORT)
    settings = Settings(models=ROOT / "models", workers=2, threads=1)
    rows: dict[str, dict[str, Any]] = {}
    before_us = children_of(os.getpid())
    with own_server(settings) as address:
        (server,) = children_of(os.getpid()) - before_us
        bench = Bench(address, Record(), seconds=given.seconds, warm_up_s=0.5)
        quiet = [p99(bench) for _ in range(3)]
        beside = [beside_a_stranger(bench) for _ in range(3)]
        for kind in given.kinds:
            attack(kind, server, bench)  # what is loaded once, on the first of its kind, stays
            rows[kind] = {**attack(kind, server, bench), "quiet_p99_ms": (alone := p99(bench))}
            quiet.append(alone)
            print(f"{kind}: {rows[kind]}", file=sys.stderr)
    usual, shared = statistics.median(quiet), statistics.median(beside)
    for row in rows.values():
        row["slower"] = row["p99_ms"] / usual
        row["slower_by_it"] = row["p99_ms"] / max(usual, shared)
    written = report(rows, usual, shared)
    print(written)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        result = {"machine": hardware(), "usual_p99_ms": usual, "shared_p99_ms": shared, "kinds": rows}
        (given.output / "hostile.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.output / "hostile.md").write_text(written + "\n", encoding="utf-8")
    kept = all(row["afterwards_mb"] <= AFTERWARDS_MB and row["slower_by_it"] <= SLOWER for row in rows.values())
    return 0 if kept else 1


def attack(kind: str, server: int, bench: Bench) -> dict[str, Any]:
    """Put a kind of attack on the server while others ask it."""
    before = resident_mb(server)
    peak = Peak(server)
    peak.start()
    command = [sys.executable, str(ROOT / "loadtests" / "attacks.py"), kind, str(bench.address.port)]
    attacking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert attacking.stdin
    assert attacking.stdout
    attacking.stdout.readline()  # what it sends is made
    begin = threading.Timer(bench.warm_up_s + _MEASURED_S, lambda: print(file=attacking.stdin, flush=True))
    begin.start()
    waited = [p99(bench)]
    while attacking.poll() is None:
        waited.append(p99(bench))
    answered, _ = attacking.communicate()
    time.sleep(_SETTLE_S)
    return {
        "answered": json.loads(answered),
        "peak_mb": peak.stop() - before,
        "afterwards_mb": resident_mb(server) - before,
        "p99_ms": max(waited),
    }


def beside_a_stranger(bench: Bench) -> float:
    """What `p99` is while a process that has nothing to do with the server copies memory, as nice as the attackers."""
    command = [sys.executable, "-c", _COPIES]
    stranger = subprocess.Popen(command)
    try:
        return p99(bench)
    finally:
        stranger.kill()
        stranger.wait()


def p99(bench: Bench) -> float:
    """How long the slowest hundredth of four clients' requests waits, in ms."""
    figures = bench.closed("others", "fashion-classifier", "predict", 4)
    if figures.errors or not figures.latency_ms:
        raise RuntimeError(f"other clients were not answered: {figures.errors}")
    return figures.latency_ms.p99


def report(rows: dict[str, dict[str, Any]], usual: float, shared: float) -> str:
    """The table as Markdown."""
    lines = [
        "# Hostile requests",
        "",
        "Written by `make bench-hostile`. On "
        + "; ".join(f"{name} {value}" for name, value in hardware().items())
        + ".",
        "",
        f"A hundred of each kind, twenty at once; time-outs of {', '.join(_SHORT.values())} s. Four other clients; "
        f"their slowest hundredth waits {usual:.1f} ms when nobody attacks, and {shared:.1f} ms while one process that "
        "has nothing to do with the server copies memory on the same machine. Memory is that of all the server's "
        "processes.",
        "",
        f"| kind | answered | peak, MB | afterwards, MB (at most {AFTERWARDS_MB:g}) | others' p99, by that when nobody "
        f"attacks | by that beside a process that copies (at most {SLOWER:g}) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for kind, row in rows.items():
        answered = ", ".join(f"{status}: {count}" for status, count in sorted(row["answered"].items()))
        lines.append(
            f"| {kind} | {answered} | {row['peak_mb']:+.1f} | {row['afterwards_mb']:+.1f} | {row['slower']:.1f} "
            f"| {row['slower_by_it']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
