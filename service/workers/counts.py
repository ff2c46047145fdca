"""How many connections each worker has, in memory that all of them see: whoever has most leaves the next to others.

Behind the workers' numbers stands who took the last one: of those that have equally many it is another's turn.
"""

from __future__ import annotations

import mmap
import os
import struct

from service.sharing import make_memory

_NUMBER = struct.Struct("=I")
_NOBODY = 0xFFFF_FFFF
_NO_LEAD = 16


class Counts:
    """A number a worker; each writes its own, and reads all.

    There is no lock: a number is written in one piece, and one that is a moment old does no harm.

    Args:
        descriptor: of a file from `make_counts`; it may be closed afterwards.
        own: the place of the worker whose numbers are written.
    """

    def __init__(self, descriptor: int, own: int = 0) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._own = own

    def put(self, count: int | None) -> None:
        """Say how many this worker has; None: it takes none."""
        self.put_at(self._own, count)

    def put_at(self, place: int, count: int | None) -> None:
        """Say how many the worker at `place` has."""
        _NUMBER.pack_into(self._memory, place * _NUMBER.size, _NOBODY if count is None else count)

    def took(self) -> None:
        """Say that this worker took the last connection."""
        self._memory[-_NUMBER.size :] = _NUMBER.pack(self._own)

    def is_ahead(self) -> bool:
        """Whether the next connection is for another: one with fewer, or with as many if this one took the last."""
        own, fewest, last = self._look()
        return fewest is not None and (fewest < own or (fewest == own and last == self._own))

    def is_far_ahead(self) -> bool:
        """Whether this one has so many more than another that it should not even take what has come with the last.

        Where there are many, a lead of a sixteenth is none: it makes no difference, and waiting for one's turn would.
        """
        own, fewest, _ = self._look()
        return fewest is not None and fewest < own - own // _NO_LEAD

    def _look(self) -> tuple[int, int | None, int]:
        """How many this worker has and the fewest that another has, if there is one; who took the last."""
        *numbers, last = (number for (number,) in _NUMBER.iter_unpack(self._memory))
        own = numbers.pop(self._own)
        return own, min((number for number in numbers if number != _NOBODY), default=None), last

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def make_counts(workers: int) -> int:
    """Make the memory for so many workers, of which none takes connections yet; the descriptor of its file.

    Raises:
        OSError: there is no room for it.
    """
    nobody = _NUMBER.pack(_NOBODY) * (workers + 1)
    descriptor = make_memory(len(nobody))
    os.write(descriptor, nobody)
    return descriptor
