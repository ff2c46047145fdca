"""Which graphs run in this process right now: those that take too long are ended, and those it died of are known.

ONNX Runtime ends a run between two of its nodes when it is asked to, by whichever thread. And of a process that native
code has killed nobody can ask what it was at, so that stands in memory which whoever started it sees too. So do the
other workers: behind the records is a byte for each of them, 1 while there is a run.
"""

from __future__ import annotations

import logging
import math
import mmap
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import onnxruntime as ort

from service.sharing import make_memory

logger = logging.getLogger(__name__)

_PLACES: Final = 64
"""Runs of a process that are told at a time; a model has one or two."""
_RECORD = struct.Struct("=d64sI4x")
"""When a run began (0: there is none), and of which model and version."""
_BEGAN = struct.Struct("=d")
_SIZE: Final = _PLACES * (_RECORD.size + 1)
"""Bytes of a worker."""
_LOOK_EVERY_S = 1.0
_ALONE_AFTER_S = 0.05
"""Whoever has seen others run may be said to be alone again once nobody was seen for so long."""


class Running(NamedTuple):
    """A run that a process was at: since when, on the clock of `time.monotonic`, and of which model."""

    began: float
    name: str
    version: int


class Run:
    """A run, or what the next one will use.

    Attributes:
        options: ONNX Runtime's, by which it is ended.
        began: when it did; 0 while there is none.
        overdue: whether it has been ended.
        memory: where it is told,
        place: at which byte,
        flag: and at which byte it is told that there is one.
    """

    __slots__ = ("began", "flag", "memory", "options", "overdue", "place")

    def __init__(self, memory: mmap.mmap | bytearray, place: int, flag: int) -> None:
        self.options = ort.RunOptions()
        self.began = 0.0
        self.overdue = False
        self.memory = memory
        self.place = place
        self.flag = flag


class Runs:
    """The runs of one process.

    Args:
        longest_s: how long one may take.
        memory: from `make_runs`, or of this process alone.
        own: the place of the worker that is this process.
        clock: in seconds, the same for all processes.
    """

    def __init__(
        self,
        *,
        longest_s: float,
        memory: mmap.mmap | None = None,
        own: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.longest_s = longest_s
        self.clock = clock
        self.idle: list[Run] = []
        self._all: list[Run] = []
        self._memory = memory or mmap.mmap(-1, _SIZE)
        self._flags = len(self._memory) // _SIZE * _PLACES * _RECORD.size  # where they begin
        self._places = deque(range(own * _PLACES, (own + 1) * _PLACES))
        self._seen_others = -math.inf
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._watching: threading.Thread | None = None

    def of(self, name: str, version: int) -> ModelRuns:
        """The runs of one version of one model."""
        return ModelRuns(self, name, version)

    def add(self) -> Run:
        """Make room for one more run than there ever was at a time."""
        with self._changing:
            if self._places:
                place = self._places.popleft()
                run = Run(self._memory, place * _RECORD.size, self._flags + place)
            else:
                run = Run(bytearray(_RECORD.size + 1), 0, _RECORD.size)
            self._all = [*self._all, run]
            if not self._watching:
                self._watching = threading.Thread(target=self._watch, name="runs", daemon=True)
                self._watching.start()
        return run

    def give_up(self, run: Run) -> None:
        """Forget a run that was ended: its options would end the next one too."""
        with self._changing:
            self._all = [one for one in self._all if one is not run]
            if run.memory is self._memory:
                self._places.append(run.flag - self._flags)

    def end_overdue(self) -> None:
        """End what has taken too long by now."""
        now = self.clock()
        for run in self._all:
            began = run.began
            if not began or now - began <= self.longest_s or run.overdue:
                continue
            run.overdue = True
            if run.began != began:  # it has just ended by itself, and may be another one already
                run.overdue = False
                continue
            run.options.terminate = True

    def are_none(self) -> bool:
        """Whether nothing runs now in any worker, and whoever asked before has seen nothing for a moment either."""
        now = self.clock()
        if b"\1" in self._memory[self._flags :]:
            self._seen_others = now
            return False
        return now - self._seen_others > _ALONE_AFTER_S

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(_LOOK_EVERY_S, self.longest_s / 4)):
            self.end_overdue()


class ModelRuns:
    """The runs of one version of one model.

    Args:
        runs: of the process.
        name: of the model.
        version: of the model.
    """

    def __init__(self, runs: Runs, name: str, version: int) -> None:
        self._runs = runs
        self._name, self._version = name.encode(), version

    @property
    def longest_s(self) -> float:
        """How long one may take."""
        return self._runs.longest_s

    def is_alone(self) -> bool:
        """Whether a run that begins now would have the machine to itself, as far as workers can tell."""
        return self._runs.are_none()

    def begin(self) -> Run:
        """Begin a run, which is to have the options of what comes back."""
        try:
            run = self._runs.idle.pop()
        except IndexError:
            run = self._runs.add()
        began = run.began = self._runs.clock()
        _RECORD.pack_into(run.memory, run.place, began, self._name, self._version)
        run.memory[run.flag] = 1
        return run

    def end(self, run: Run) -> None:
        """Tell that a run is over, well or not."""
        run.began = 0.0
        run.memory[run.flag] = 0
        _BEGAN.pack_into(run.memory, run.place, 0.0)
        if run.overdue:
            self._runs.give_up(run)
        else:
            self._runs.idle.append(run)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around loading, which is as dangerous, and has a bound of its own."""
        run = self._runs.add()
        _RECORD.pack_into(run.memory, run.place, self._runs.clock(), self._name, self._version)
        try:
            yield
        finally:
            self.end(run)


def make_runs(workers: int) -> int:
    """Make the memory for so many workers, none of which runs anything; the descriptor of its file.

    Raises:
        OSError: there is no room for it.
    """
    return make_memory(workers * _SIZE)


def open_runs(descriptor: int) -> mmap.mmap:
    """The memory behind a descriptor from `make_runs`, which may be closed afterwards."""
    return mmap.mmap(descriptor, 0)


def take_running(memory: mmap.mmap, worker: int) -> list[Running]:
    """What a worker that is gone was at, the longest first; afterwards it is at nothing."""
    begin, length = worker * _PLACES * _RECORD.size, _PLACES * _RECORD.size
    records = _RECORD.iter_unpack(memory[begin : begin + length])
    memory[begin : begin + length] = bytes(length)
    flags = len(memory) // _SIZE * length + worker * _PLACES
    memory[flags : flags + _PLACES] = bytes(_PLACES)
    found = [Running(began, name.rstrip(b"\0").decode(errors="replace"), one) for began, name, one in records if began]
    return sorted(found)
