"""Which processes a process has started, and how much memory they hold, as Linux tells it."""

from __future__ import annotations

import re
from pathlib import Path


def children_of(pid: int) -> set[int]:
    """The processes that a process's first thread has started and that are still there."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()}


def resident_mb(pid: int) -> float:
    """The resident set of a process and of all below it, in MB; pages that several share are counted for each."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    if not found:
        raise RuntimeError("this system does not tell a process's resident memory")
    return int(found[1]) * 1024 / 1e6 + sum(map(resident_mb, children_of(pid)))
