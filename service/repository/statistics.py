"""What a version of a model has done, counted as Triton's statistics extension counts.

A worker has one `VersionStatistics` for each version that it serves; they add up over workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from service.batching.records import Answer, BatchReport


class Duration(msgspec.Struct):
    """How often something happened and how long it took in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += round(seconds * 1e9)

    def merge(self, other: Duration) -> None:
        """Add what another worker counted."""
        self.count += other.count
        self.ns += other.ns


class BatchStatistics(msgspec.Struct):
    """The runs of one batch size."""

    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)

    def merge(self, other: BatchStatistics) -> None:
        """Add what another worker counted."""
        self.compute_input.merge(other.compute_input)
        self.compute_infer.merge(other.compute_infer)
        self.compute_output.merge(other.compute_output)


class VersionStatistics(msgspec.Struct):
    """All counts of one version of one model.

    Attributes:
        name: of the model.
        version: of the model.
        last_inference_ms: when the last request was answered, in milliseconds since the epoch; 0 = never.
        inference_count: rows that were answered; a request for n rows counts n.
        execution_count: runs.
        success: requests that were answered, from their arrival on.
        fail: requests that were not.
        queue: how long answered requests waited.
        compute_input: how long the batches of answered requests took to be put together.
        compute_infer: ... to run.
        compute_output: ... to be parted again.
        batches: runs by their number of rows.
    """

    name: str
    version: int
    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    queue: Duration = msgspec.field(default_factory=Duration)
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)
    batches: dict[int, BatchStatistics] = msgspec.field(default_factory=dict)

    def merge(self, other: VersionStatistics) -> None:
        """Add what another worker counted of the same version."""
        self.last_inference_ms = max(self.last_inference_ms, other.last_inference_ms)
        self.inference_count += other.inference_count
        self.execution_count += other.execution_count
        for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
            getattr(self, name).merge(getattr(other, name))
        for rows, batch in other.batches.items():
            self.batches.setdefault(rows, BatchStatistics()).merge(batch)

    def count_answer(self, answer: Answer, rows: int) -> None:
        """Count an answered request of `rows` rows, but for its duration as a whole."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inference_count += rows
        self.queue.add(answer.queue_s)
        self.compute_input.add(answer.input_s)
        self.compute_infer.add(answer.infer_s)
        self.compute_output.add(answer.output_s)

    def count_batch(self, report: BatchReport) -> None:
        """Count a run that did not fail."""
        self.execution_count += 1
        batch = self.batches.setdefault(report.rows, BatchStatistics())
        batch.compute_input.add(report.input_s)
        batch.compute_infer.add(report.infer_s)
        batch.compute_output.add(report.output_s)


def merged(parts: Iterable[VersionStatistics]) -> list[VersionStatistics]:
    """Add up what several workers counted, by name and version; `parts` are left as they are."""
    totals: dict[tuple[str, int], VersionStatistics] = {}
    for part in parts:
        key = (part.name, part.version)
        totals.setdefault(key, VersionStatistics(part.name, part.version)).merge(part)
    return [totals[key] for key in sorted(totals)]
