"""What keys have used of their limits, in memory that all workers see: limits are those of the server as a whole.

A key has a slot: when its next request would be due if they came evenly (all workers write that), and how many of its
requests each worker has in work (each writes its own, and all are added up). There is no lock. Two workers that look at
the same instant can let one more in of a rate; of what is in work at a time there are never too many.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from service.security.keys import MOST_KEYS
from service.sharing import make_memory

_SLOTS = 4 * MOST_KEYS
_TIME_BYTES, _COUNT_BYTES = 8, 4


class Usage:
    """What keys have used.

    Args:
        memory: from `make_usage`, or of this process alone.
        own: the place of the worker that counts here.
    """

    def __init__(self, memory: mmap.mmap | None = None, own: int = 0) -> None:
        view = memoryview(mmap.mmap(-1, _size(1)) if memory is None else memory)
        times = _SLOTS * _TIME_BYTES
        self._due = view[:times].cast("d")
        self._in_work = view[times:].cast("I")
        self._first = own * _SLOTS

    def take(self, slot: int, interval_s: float, burst: int, now: float) -> float:
        """Take one request of a rate, unless it would be too early.

        Args:
            slot: of the key.
            interval_s: between two requests that come evenly.
            burst: so many may come at once.
            now: on the clock of `time.monotonic`, which all processes share.

        Returns:
            0 if it was taken; else the seconds until one can be.
        """
        due = max(self._due[slot], now)
        early_s = due - now - (burst - 1) * interval_s
        if early_s > interval_s * 1e-6:
            return early_s
        self._due[slot] = due + interval_s
        return 0.0

    def enter(self, slot: int) -> int:
        """Begin a request; how many of this key all workers have in work, with it."""
        self._in_work[self._first + slot] += 1
        return sum(self._in_work[slot::_SLOTS])

    def leave(self, slot: int) -> None:
        """End a request that had been begun."""
        self._in_work[self._first + slot] -= 1

    def forget(self, worker: int) -> None:
        """Take back what a worker had in work that is no more."""
        first = worker * _SLOTS
        self._in_work[first : first + _SLOTS] = memoryview(bytes(_SLOTS * _COUNT_BYTES)).cast("I")


def slots_of(digests: Iterable[bytes]) -> list[int]:
    """A slot for each of the keys, of which there are `MOST_KEYS` at most.

    It follows from the digests in their order, so all workers find the same one for a key without a word; where the
    file changes, the others keep theirs, but for a few whose first choice has become free.
    """
    taken: set[int] = set()
    slots = []
    for digest in digests:
        slot = int.from_bytes(digest[:8], "big") % _SLOTS
        while slot in taken:
            slot = (slot + 1) % _SLOTS
        taken.add(slot)
        slots.append(slot)
    return slots


def make_usage(workers: int) -> int:
    """Make the memory for so many workers; the descriptor of its file.

    Raises:
        OSError: there is no room for it.
    """
    return make_memory(_size(workers))


def open_usage(descriptor: int, own: int = 0) -> Usage:
    """Use what `make_usage` made; the descriptor may be closed afterwards."""
    return Usage(mmap.mmap(descriptor, 0), own)


def _size(workers: int) -> int:
    return _SLOTS * (_TIME_BYTES + workers * _COUNT_BYTES)
