"""How much of the machine this process may use: its cores and its memory, where containers cut them; and what it is."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls them (malloc.h)."""


def cpu_quota(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use, at least 1: its affinity mask, cut by the CPU quota of its cgroup (v2 or v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor is called, or its architecture where nobody says."""
    try:
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def memory_limit(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process may use: the machine's memory, cut by the limit of its cgroup (v2 or v1)."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(machine, int((cgroup / name).read_text()))
        except (OSError, ValueError):
            continue  # there is no such cgroup, or it says "max"
    return machine


def allow_files(needed: int) -> int:
    """Have the system allow this process, and those that it starts, `needed` open files, as far as it may be asked to.

    Returns:
        How many it allows.
    """
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if soft != resource.RLIM_INFINITY and soft < allowed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            return allowed
        return needed if soft == resource.RLIM_INFINITY else soft
    return needed


def keep_memory(*, blocks_below: int, at_most: int) -> None:
    """Say what is kept of memory that was freed, where the C library can be told: for who needs it next.

    By itself glibc keeps blocks as large as the largest that was freed once, so that whatever a few large requests have
    needed at once the process holds for ever; and where it is told not to, it gives back so much else that every
    request of some hundred kilobytes has its memory mapped and cleared anew, a page at a time.

    Args:
        blocks_below: blocks of so many bytes or more go back to the system as soon as they are freed.
        at_most: so many bytes of smaller ones are kept, until `trim_memory`.
    """
    with contextlib.suppress(OSError, AttributeError):  # there is no such library, or no such call in it
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, blocks_below)
        library.mallopt(_M_TRIM_THRESHOLD, at_most)


def trim_memory() -> None:
    """Have the C library give back to the system what is free, where it can do that; from any thread."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


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
