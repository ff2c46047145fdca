"""How long `inferd serve` takes to be ready, and how much memory it then holds: `python loadtests/startup.py`.

Run it with the environment that serves (`.venv/serve/bin/python`). Each run is a new process on a free port; ready is
the first 200 of /health/ready, asked every 10 ms; memory is the resident set then, and again after some requests, of
the server and all its workers together.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from processes import resident_mb

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "shoe.png"
REQUESTS = 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="fashion-classifier")
    parser.add_argument("--workers", default="1", help="as INFERD_WORKERS")
    given = parser.parse_args()
    seconds, memory, memory_later = zip(*(measure(given.model, given.workers) for _ in range(given.runs)), strict=True)
    print(f"workers: {given.workers}; runs: {given.runs}; median (smallest to largest)")
    for name, values, unit in (
        ("time to ready", seconds, "s"),
        ("resident memory when ready", memory, "MB"),
        (f"resident memory after {REQUESTS} requests", memory_later, "MB"),
    ):
        print(f"{name}: {statistics.median(values):.2f} {unit} ({min(values):.2f} to {max(values):.2f})")


def measure(model: str, workers: str) -> tuple[float, float, float]:
    """Start a server, and return seconds to ready, then resident MB before and after some requests."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"],
        env={**os.environ, "INFERD_PORT": "0", "INFERD_GRPC_PORT": "0", "INFERD_WORKERS": workers},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = _address(process)
        while not _is_ready(url):
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        memory = resident_mb(process.pid)
        for _ in range(REQUESTS):
            headers = {"content-type": "image/png"}
            request = urllib.request.Request(f"{url}/predict/{model}", PICTURE.read_bytes(), headers)
            with urllib.request.urlopen(request, timeout=30) as response:
                response.read()
        return seconds, memory, resident_mb(process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _address(process: subprocess.Popen[str]) -> str:
    if process.stderr:
        for line in process.stderr:
            if found := re.search(r"running on (http://[\d.]+:\d+)", json.loads(line)["message"]):
                return found[1]
    raise RuntimeError("the server ended before it listened")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


if __name__ == "__main__":
    main()
