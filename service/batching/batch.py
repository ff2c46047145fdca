"""Requests that run together: their run, and what becomes of each of them.

Where a run fails, each request of it runs once more, alone, so that only those fail that are at fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from service.batching.arrays import gather, misfit, scatter
from service.batching.policy import Cause, Waiting
from service.batching.records import Answer
from service.errors import InferdError, RuntimeFailure
from service.tensors import Arrays

logger = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Arrays], Arrays]

Flaw: TypeAlias = Callable[[Arrays], InferdError | None]
"""Says what is wrong with an answer, if anything is."""

Done: TypeAlias = Callable[["Answer | InferdError"], object]
"""Told what became of a request, once, in the event loop; it may not raise."""


@dataclass(slots=True, eq=False)
class Request:
    """What waits; itself alone equal to itself, so that it is its own key. To whoever asked it is a receipt.

    Attributes:
        inputs: of the graph.
        waiting: what the policy sees.
        level: of its priority.
        done: told what became of it, unless it is withdrawn.
        timer: of its deadline.
        is_over: whether it was answered or withdrawn.
        future: by which it is withdrawn too, if it is cancelled.
    """

    inputs: Arrays
    waiting: Waiting
    level: int
    done: Done
    timer: asyncio.TimerHandle | None = None
    is_over: bool = False
    future: asyncio.Future[Answer] | None = None

    def tell(self, outcome: Answer | InferdError) -> None:
        """Say what became of it, if nobody has."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self.done(outcome)
        except Exception:
            logger.exception("what was to become of an answer failed")


class Ran(msgspec.Struct, frozen=True):
    """What a run gave: the outputs of each request in order, or its error; and where the time went."""

    shares: Sequence[Arrays | InferdError]
    input_s: float
    infer_s: float
    output_s: float


class RanApart(msgspec.Struct, frozen=True):
    """What became of each request of a batch that failed, when it was run alone."""

    outcomes: Sequence[Ran | InferdError]


Outcome: TypeAlias = Ran | RanApart | InferdError


class Batch(msgspec.Struct):
    """Requests that run together; `compute_s` is known afterwards."""

    requests: Sequence[Request]
    rows: int
    cause: Cause
    started_at: float
    predicted_end: float
    compute_s: float = 0.0

    @property
    def predicted_s(self) -> float:
        """How long its run was predicted to take."""
        return self.predicted_end - self.started_at

    def hand_out(self, outcome: Outcome) -> None:
        """Tell those who still listen what became of their requests."""
        if isinstance(outcome, Ran):
            for request, share in zip(self.requests, outcome.shares, strict=True):
                request.tell(self._answer(request, outcome, share, self.rows))
            return
        outcomes = outcome.outcomes if isinstance(outcome, RanApart) else [outcome] * len(self.requests)
        for request, own in zip(self.requests, outcomes, strict=True):
            if isinstance(own, InferdError):
                request.tell(own)
            else:
                (share,) = own.shares
                request.tell(self._answer(request, own, share, request.waiting.rows))

    def _answer(self, request: Request, ran: Ran, share: Arrays | InferdError, rows: int) -> Answer | InferdError:
        if isinstance(share, InferdError):
            return share
        queued_at = request.waiting.enqueued_at
        times = (ran.input_s, ran.infer_s, ran.output_s)
        return Answer(share, self.started_at - queued_at, self.compute_s, rows, *times, queued_at)


class Runner:
    """Runs the requests of a batch, in the event loop or in a thread.

    Args:
        run: the model: arrays in, arrays out.
        clock: of measurements.
        batched: whether the first axis of every array is the batch.
        flaw: of an answer that is not given; those that shared its run are.
    """

    def __init__(self, run: Run, *, clock: Callable[[], float], batched: bool, flaw: Flaw | None) -> None:
        self._run = run
        self._clock = clock
        self._batched = batched
        self._flaw = flaw

    def run(self, batch: Batch) -> Outcome:
        """Run a batch, and where that fails each request alone. An error is returned, not raised."""
        outcome = self._run_once(batch.requests, batch.rows)
        if isinstance(outcome, InferdError) and len(batch.requests) > 1:
            return RanApart([self._run_once([one], one.waiting.rows) for one in batch.requests])
        return outcome

    def _run_once(self, requests: Sequence[Request], rows: int) -> Ran | InferdError:
        clock = self._clock
        try:
            started = clock()
            inputs = gather([request.inputs for request in requests])
            joined = clock()
            outputs = self._run(inputs)
            ran = clock()
            if self._batched and (wrong := misfit(outputs, rows)):
                raise RuntimeFailure(f"the model is at fault: output {wrong}")
            shares: list[Arrays | InferdError] = list(scatter(outputs, [request.waiting.rows for request in requests]))
            if (flaw := self._flaw) and flaw(outputs):
                shares = [flaw(share) or share for share in shares]  # type: ignore[arg-type] # none is an error yet
            return Ran(shares, joined - started, ran - joined, clock() - ran)
        except Exception as error:
            return failure_of(error)


def failure_of(error: BaseException) -> InferdError:
    """Keep an error of our own; wrap a foreign one, as its cause."""
    if isinstance(error, InferdError):
        return error
    failure = RuntimeFailure(f"the model failed: {error!r}")
    failure.__cause__ = error
    return failure
