"""What the benchmarks of `make bench-*` have in common: a model in process, a server of its own, the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import onnxruntime

from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.scan import scan
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


def load(models: Path, name: str) -> Bundle:
    """The newest version of a model, on one thread."""
    folders = [folder for folder in scan(models) if folder.name == name]
    if not folders:
        raise SystemExit(f"there is no model {name!r} in {models}")
    return load_bundle(folders[-1], LoadOptions.of(Settings(device="cpu", threads=1, workers=1)))


@contextmanager
def server(models: Path, workers: int, *, batch_rows: int = 64) -> Iterator[int]:
    """A server of the models on a free port, with batches of so many rows at most; the port."""
    environment = {**os.environ, "INFERD_PORT": "0", "INFERD_GRPC_PORT": "", "INFERD_WORKERS": str(workers)}
    environment |= {"INFERD_MODELS": str(models), "INFERD_THREADS": "1", "INFERD_MAX_QUEUE_S": "60"}
    environment["INFERD_MAX_BATCH_ROWS"] = str(batch_rows)
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        found = (re.search(r"running on http://[\d.]+:(\d+)", line) for line in process.stderr or ())
        port = next((int(one[1]) for one in found if one), None)
        if port is None:
            raise RuntimeError("the server ended before it listened")
        _wait_until_ready(port)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=60)


def machine(bundle: Bundle) -> dict[str, Any]:
    """What was measured, and on what."""
    return {"model": f"{bundle.folder.name} {bundle.folder.version}, {bundle.variant}", **hardware()}


def hardware() -> dict[str, Any]:
    """What it was measured on."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"model name\s*:\s*(.*)", described)
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def add(measured: dict[str, list[float]], name: str, value: float) -> None:
    """Put a measurement beside the others of its name."""
    measured.setdefault(name, []).append(value)


def _wait_until_ready(port: int) -> None:
    for _ in range(600):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError("the server is not ready")
