"""What batchers hand out: an answer to each caller, a report of each run, a snapshot of themselves.

What is made for each request is a msgspec.Struct: a frozen dataclass takes ten times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from service.batching.policy import Cause
from service.tensors import Arrays


class Answer(msgspec.Struct, frozen=True):
    """What a request gets; `queue_s` and `compute_s` (from dispatch to result) add up to its time in the batcher.

    Of the compute time, `input_s` went into joining the batch, `infer_s` into the run, `output_s` into parting it.
    It was queued at `queued_at`, on the batcher's clock. Where its runs did not follow one another, the last ended at
    `ended_at`.
    """

    outputs: Arrays
    queue_s: float
    compute_s: float
    batch_rows: int
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    queued_at: float = 0.0
    ended_at: float | None = None


class BatchReport(msgspec.Struct, frozen=True):
    """One finished batch, for metrics; `input_s`, `infer_s` and `output_s` are known of one that did not fail."""

    cause: Cause
    rows: int
    requests: int
    compute_s: float
    failed: bool
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0


class StepReport(msgspec.Struct, frozen=True):
    """One run of a step graph.

    Attributes:
        rows: how many slots were in use.
        tokens: how many of them got a new token; the others read a prompt.
        run_s: how long the run took.
        step_s: how long all of the step took, from the end of the one before if there was no pause.
        full: whether somebody waited for a slot.
    """

    rows: int
    tokens: int
    run_s: float
    step_s: float
    full: bool


@dataclass(frozen=True, slots=True)
class BatcherStatistics:
    """The state of a batcher at one moment; `batches`, `failed_batches` and `rows` count finished runs."""

    queued_requests: int
    queued_rows: int
    running_rows: int
    batches: int
    failed_batches: int
    rows: int
