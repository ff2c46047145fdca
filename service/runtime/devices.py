"""What this process may compute on: how many cores it really has, and which execution providers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, at least 1: its affinity mask, cut by the CPU quota of its cgroup (v2 or v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cgroup_quota(cgroup: Path) -> float | None:
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 else None


def choose_providers(
    device: Device, *, tensorrt: bool = False, available: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The execution providers to ask ONNX Runtime for, the preferred one first.

    Args:
        device: `auto` takes a GPU where the installed ONNX Runtime was built for one.
        tensorrt: whether TensorRT comes before CUDA.
        available: what there is to choose from; by default what the installed ONNX Runtime was built with.

    Raises:
        ValueError: `cuda` was asked for and the installed ONNX Runtime was built without it.
    """
    if available is None:
        available = ort.get_available_providers()
    if device == "cuda" and CUDA not in available:
        raise ValueError(
            f"INFERD_DEVICE=cuda, but the installed ONNX Runtime offers only {', '.join(available)}; "
            "install inferd[gpu] in place of inferd[cpu]"
        )
    if device == "cpu" or CUDA not in available:
        return (CPU,)
    first = (TENSORRT,) if tensorrt and TENSORRT in available else ()
    return (*first, CUDA, CPU)
