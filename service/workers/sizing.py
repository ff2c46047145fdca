"""How many workers a machine can use."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from service.machine import cpu_quota, memory_limit
from service.settings import Settings

_MOST = 8
_WORKER_BYTES = 200 * 2**20
"""What a worker takes with small models: about 130 MB measured, and room for requests."""

_LEAST_LOAD_BYTES = 2**30

_BYTES_A_MODEL_BYTE = 3
"""What a loaded model takes for each byte of its files, while another version of it is loaded."""

_FILES_BESIDE_CONNECTIONS = 256


def count_workers(settings: Settings) -> int:
    """How many workers `settings` ask for; `auto` is one a core and what memory allows, at most 8, and 1 on a GPU."""
    if settings.workers != "auto":
        return settings.workers
    if settings.device != "cpu" and _has_gpu_runtime():
        return 1
    of_memory = memory_limit() // (_WORKER_BYTES + _BYTES_A_MODEL_BYTE * _bytes_under(settings.models))
    return max(1, min(cpu_quota(), of_memory, _MOST))


def files_of(settings: Settings, workers: int) -> int:
    """How many files each of so many workers may have to keep open: its connections, and what else there is."""
    ports = 1 if settings.grpc_port is None else 2
    return ports * (settings.max_connections // workers) + _FILES_BESIDE_CONNECTIONS


def default_load_memory() -> int:
    """Bytes that trying a bundle may take where nobody has said it: half of what there is, but enough for a small one.

    Whoever serves it needs as much again.
    """
    return max(memory_limit() // 2, _LEAST_LOAD_BYTES)


def _has_gpu_runtime(find: Callable[[str], object] = distribution) -> bool:
    """Whether the ONNX Runtime that is installed is the one for GPUs, told without importing it."""
    try:
        find("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return True


def _bytes_under(folder: Path) -> int:
    return sum(_bytes_of(path) for path in folder.glob("*/*/*.onnx"))


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it leads nowhere, or has gone
