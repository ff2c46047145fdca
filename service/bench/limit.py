"""The limit that a server is measured by: what ONNX Runtime alone gives of the same model, one thread a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import msgspec

from service.bench.lines import Done, Order, Ready, Task
from service.repository.scan import BundleFolder
from service.settings import Settings

T = TypeVar("T")

_END_TIMEOUT_S = 10
_ENDED = "the process that ran its graphs alone has ended; what it said is above"


@dataclass(frozen=True)
class Measured:
    """One measurement of the limit.

    Attributes:
        processes: that ran at once, each on one thread.
        batch_size: rows that each of them ran at once.
        units_per_s: what all of them gave, in the scenario's unit.
        run_ms: how long a run took.
    """

    processes: int
    batch_size: int
    units_per_s: float
    run_ms: float


class Limit:
    """Processes that run a model's graphs in bare loops; to be used in a `with`.

    Args:
        folder: of the model.
        settings: of the server that is compared with it.
        processes: how many.
        threads: of each.

    Raises:
        ValueError: the model can't be run; the message says why.
    """

    def __init__(self, folder: BundleFolder, settings: Settings, processes: int, threads: int = 1) -> None:
        self.ready = Ready()
        self._running = ExitStack()
        alone = settings.model_copy(update={"threads": threads, "workers": 1})
        order = Order(alone.to_json().decode(), folder.name, folder.version, str(folder.path.absolute()))
        with ExitStack() as running:
            self._processes = [running.enter_context(_Bare(order)) for _ in range(processes)]
            for one in self._processes:  # they load at the same time
                self.ready = one.take(Ready)
                if self.ready.error:
                    raise ValueError(self.ready.error)
            self._running = running.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def measure(
        self,
        processes: int,
        batch_size: int,
        seconds: float,
        texts: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Measured:
        """Run in so many of the processes at once.

        Args:
            processes: at most as many as there are.
            batch_size: rows that each runs at once; 1 where the model has no batches.
            seconds: at least for so long.
            texts: that a translator translates,
            parameters: and how.

        Raises:
            ValueError: a process failed.
        """
        chosen = self._processes[:processes]
        for one in chosen:
            one.tell(Task(batch_size, seconds, list(texts), dict(parameters or {})))
        done = [one.take(Done) for one in chosen]
        return Measured(
            processes,
            batch_size,
            units_per_s=sum(one.units / one.seconds for one in done),
            run_ms=1000 * sum(one.seconds / one.runs for one in done) / len(done),
        )


class _Bare:
    """A process that answers lines; see `service.bench.bare`."""

    def __init__(self, order: Order) -> None:
        command = [sys.executable, "-P", "-m", "service.bench.bare"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ours
        self.tell(order)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        with suppress(BrokenPipeError):  # it has ended before it read what it was told
            _stream(self._process.stdin).close()  # which ends it
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _stream(self._process.stdout).close()

    def tell(self, content: object) -> None:
        stream = _stream(self._process.stdin)
        try:
            stream.write(msgspec.json.encode(content) + b"\n")
            stream.flush()
        except BrokenPipeError as error:
            raise ValueError(_ENDED) from error

    def take(self, kind: type[T]) -> T:
        line = _stream(self._process.stdout).readline()
        if not line:
            raise ValueError(_ENDED)
        return msgspec.json.decode(line, type=kind)


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - both were asked for
    return stream
