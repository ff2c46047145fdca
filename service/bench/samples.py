"""What was seen of the answers to one load, and the figures that follow from it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.bench.messages import BATCH_SIZE, COMPUTE_MS, QUEUE_MS, Answer

REFUSED = 429
_SHARES = (0.5, 0.95, 0.99)


def _floats() -> array[float]:
    return array("d")


@dataclass
class Samples:
    """What was measured, the warm-up left out.

    Attributes:
        seconds: for how long.
        statuses: of answers; a stream that tells an error counts as 500.
        lost: requests without an answer, by why.
        units: that the good answers gave.
        tokens: events of streams.
        taken_s: how long a good answer took, from when its request was due.
        first_s: how long the first event of a stream took, likewise.
        gaps_s: between events of a stream; those that came together count as none.
        late_s: how long after it was due a request was sent (open loop).
        queue_ms, compute_ms, rows: what good answers say of themselves.
        processor_s: what the load itself took of a core.
        shown: how the body of one answer that is no good begins.
    """

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    units: float = 0.0
    tokens: int = 0
    taken_s: array[float] = field(default_factory=_floats)
    first_s: array[float] = field(default_factory=_floats)
    gaps_s: array[float] = field(default_factory=_floats)
    late_s: array[float] = field(default_factory=_floats)
    queue_ms: array[float] = field(default_factory=_floats)
    compute_ms: array[float] = field(default_factory=_floats)
    rows: array[float] = field(default_factory=_floats)
    processor_s: float = 0.0
    shown: str = ""

    def count(self, answer: Answer, taken_s: float | None, units: float) -> None:
        """Count an answer that is complete; `taken_s` is None where nobody looked when it was."""
        status = 500 if answer.failed else answer.status
        self.statuses[status] += 1
        if status != 200:
            self.shown = self.shown or f"{status}: {answer.shown.decode(errors='replace')}"
            return
        self.units += units
        if taken_s is not None:
            self.taken_s.append(taken_s)
        queue_ms = answer.number(QUEUE_MS)
        if queue_ms is not None:
            self.queue_ms.append(queue_ms)
            self.compute_ms.append(answer.number(COMPUTE_MS) or 0.0)
            self.rows.append(answer.number(BATCH_SIZE) or 0.0)


@dataclass(frozen=True)
class Spread:
    """How values lie: mean, percentiles (the smallest value that so many do not pass), largest."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float], factor: float = 1.0) -> Spread | None:
        """The spread of values times `factor`; None of none."""
        if not len(values):
            return None
        numbers: NDArray[np.float64] = np.asarray(values, np.float64) * factor
        p50, p95, p99 = np.quantile(numbers, _SHARES, method="inverted_cdf").tolist()
        return cls(float(numbers.mean()), p50, p95, p99, float(numbers.max()))


@dataclass(frozen=True)
class Figures:
    """What became of one load. Those that end with `_ms` are of good answers alone; None where nothing tells it.

    Attributes:
        seconds: for how long it was measured.
        answered: requests that got a good answer,
        per_s: and so many a second.
        units_per_s: what they gave, in the scenario's unit; of streams, events.
        refused: requests that were answered 429.
        errors: others that failed, by status or by why there was no answer.
        error: how one of those answers begins.
        latency_ms: from when a request was due until its answer was complete.
        first_token_ms: from then until its first event.
        between_tokens_ms: from event to event.
        late_ms: how much later than it was due a request was sent, for want of a connection or of time.
        queue_ms: that the request waited in the server, as its answer says;
        compute_ms: that its runs took, likewise,
        batch_size: and how many rows shared them.
        generator_cpu: the share of a core that the load itself took.
    """

    seconds: float
    answered: int
    per_s: float
    units_per_s: float
    refused: int
    errors: dict[str, int]
    error: str
    latency_ms: Spread | None
    first_token_ms: Spread | None
    between_tokens_ms: Spread | None
    late_ms: Spread | None
    queue_ms: Spread | None
    compute_ms: Spread | None
    batch_size: Spread | None
    generator_cpu: float

    @classmethod
    def of(cls, samples: Samples) -> Figures:
        """The figures that follow from `samples`."""
        answered = samples.statuses[200]
        bad = {str(status): count for status, count in sorted(samples.statuses.items()) if status not in (200, REFUSED)}
        units = samples.tokens or samples.units
        return cls(
            seconds=samples.seconds,
            answered=answered,
            per_s=answered / samples.seconds,
            units_per_s=units / samples.seconds,
            refused=samples.statuses[REFUSED],
            errors=bad | dict(samples.lost),
            error=samples.shown,
            latency_ms=Spread.of(samples.taken_s, 1000),
            first_token_ms=Spread.of(samples.first_s, 1000),
            between_tokens_ms=Spread.of(samples.gaps_s, 1000),
            late_ms=Spread.of(samples.late_s, 1000),
            queue_ms=Spread.of(samples.queue_ms),
            compute_ms=Spread.of(samples.compute_ms),
            batch_size=Spread.of(samples.rows),
            generator_cpu=samples.processor_s / samples.seconds,
        )
