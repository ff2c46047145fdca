"""Which processes a process has started, and what they hold of memory and files, as Linux tells it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
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


def serving(server: int) -> set[int]:
    """A server's process and its workers, without those that try bundles and are gone in a moment."""
    return {server, *(child for child in children_of(server) if b"trial" not in _command(child))}


def held(pids: Iterable[int]) -> tuple[float, int, int]:
    """What processes hold together, those that have gone left out: MB of memory, open files, threads."""
    memory_kb, files, threads = 0, 0, 0
    for pid in pids:
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            memory_kb += int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])
            threads += int(re.findall(r"Threads:\s+(\d+)", status)[0])
    return memory_kb * 1024 / 1e6, files, threads


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"trial"  # it has gone
