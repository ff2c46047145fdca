"""What may wait and what runs next, decided purely.

These functions see numbers (rows, times, limits) and return decisions; they read no clock, touch no event loop and
keep nothing between calls, so that every rule of the queue can be tested without one. The rules are:

- The queue is bounded by the *predicted* wait, because a row count says nothing about how long a model takes.
- There is no artificial delay: when the runtime is idle and something waits, something runs.
- Higher levels first, and within a level first come, first served. Who is first in that order is in the next batch, and
  no smaller request overtakes a larger one: only those that can't be joined with the batch are passed over.
- A lower level gets the room that higher ones leave in a batch, and waits as long as they leave none: it may starve.
  What bounds its wait is its deadline; what bounds the queue is the count of rows, over all levels.
- What can't meet its deadline isn't run: its caller has gone, and others wait.
- A decision costs what it takes and expires, not what waits: beyond the batch nobody looks, as whoever has a deadline
  has a timer (`give_up_at`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Final, Literal

import msgspec

from service.errors import BadInput, Overloaded, TooLarge

SHORTEST_RETRY_S: Final = 0.001

DISPATCH_S: Final = 0.0002
"""What a batch takes beside its run: handing it to a thread, waking up again, and giving everyone his rows."""
NEARLY: Final = 0.95
"""The share of the best rate at which a batch is large enough."""

PRIORITY_LEVELS: Final = 3
"""Level 1 is served first."""
DEFAULT_PRIORITY_LEVEL: Final = 2

_SHORTEST_QUEUE_S: Final = 0.01
_BATCHES_WAITED: Final = 3
"""What a queue holds at least, however overloaded: seconds, and batches."""

_WEIGHT: Final = 0.05
_MOST_OF_ONE: Final = 10.0

LOOK_PAST: Final = 128
"""How many requests that can't be joined a batch passes over at most to fill up with such as can."""

TIMER_TICK_S: Final = 0.002
"""By how much a timer of an event loop may be early: uvloop counts in whole milliseconds, at both ends."""

Cause = Literal["full", "idle", "deadline"]
"""Why a batch ended where it did; see `next_batch`."""


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """How long one run takes, as measured at a few batch sizes.

    Args:
        points: pairs of (rows, seconds), by rising number of rows.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        sizes = [rows for rows, _ in self.points]
        if not sizes or sizes[0] < 1 or any(low >= high for low, high in pairwise(sizes)):
            raise ValueError(f"a latency profile needs rising batch sizes from 1 on, not {sizes}")
        if not all(0 < seconds < math.inf for _, seconds in self.points):
            raise ValueError("a latency profile needs positive, finite seconds")

    def seconds(self, rows: int) -> float:
        """Predict a run's time: between two points on their line, past the last one in proportion to the rows."""
        above = bisect_left(self.points, rows, key=itemgetter(0))
        if above == 0:
            return self.points[0][1]
        low_rows, low_s = self.points[above - 1]
        if above == len(self.points):
            return low_s * rows / low_rows
        high_rows, high_s = self.points[above]
        return low_s + (high_s - low_s) * (rows - low_rows) / (high_rows - low_rows)

    def worthwhile_rows(self, most: int) -> int:
        """Return the fewest rows with which a batch is nearly as good as with any number up to `most`.

        That is by rows a second, what it takes to send a batch on its way included: beyond it a larger batch answers
        later and gains next to nothing. Only what was measured is compared, and `most`.
        """
        sizes = [rows for rows, _ in self.points if rows < most] + [most]
        rates = [rows / (DISPATCH_S + self.seconds(rows)) for rows in sizes]
        enough = NEARLY * max(rates)
        return next(rows for rows, rate in zip(sizes, rates, strict=True) if rate >= enough)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once and how much may wait.

    Args:
        max_batch_rows: rows in one run, and so in one request.
        max_queue_rows: rows that may wait, whatever the prediction says; at least one batch.
        max_queue_s: the longest predicted wait of a new request.
        full_batch_rows: up to so many rows requests are gathered; a larger one runs alone. None = as many as may run.
    """

    max_batch_rows: int
    max_queue_rows: int
    max_queue_s: float = 1.0
    full_batch_rows: int | None = None

    @property
    def full_rows(self) -> int:
        """With how many rows a batch is full."""
        return self.max_batch_rows if self.full_batch_rows is None else self.full_batch_rows

    def __post_init__(self) -> None:
        if not 1 <= self.full_rows <= self.max_batch_rows:
            raise ValueError("limits need 1 <= full_batch_rows <= max_batch_rows")
        if not 1 <= self.max_batch_rows <= self.max_queue_rows:
            raise ValueError("limits need 1 <= max_batch_rows <= max_queue_rows")
        if not self.max_queue_s > 0:
            raise ValueError("limits need max_queue_s > 0")


class Waiting(msgspec.Struct, frozen=True):
    """A queued request as the policy sees it.

    Args:
        rows: how many rows it adds to a batch.
        enqueued_at: when it was accepted.
        deadline: when its answer becomes worthless, on the same clock, if ever.
        layout: what must be equal within a batch (names, dtypes and shapes of the rows).
    """

    rows: int
    enqueued_at: float
    deadline: float | None = None
    layout: Hashable = None


class Decision(msgspec.Struct, frozen=True):
    """Indices into what waited: which can't be met any more, and which run now, in order."""

    expired: tuple[int, ...]
    take: tuple[int, ...]
    cause: Cause


def adapted(slowdown: float, predicted_s: float, taken_s: float) -> float:
    """The `slowdown` of `admit` after a batch that took `taken_s` from its start until the next one could start.

    The average of about the last twenty, to which one adds little: a pause of the system is no change of pace.
    """
    return slowdown + _WEIGHT * (min(taken_s / predicted_s, _MOST_OF_ONE * slowdown) - slowdown)


def overloaded_wait_s(profile: LatencyProfile, limits: Limits, slowdown: float) -> float:
    """How long a request may wait in an overload: for a few batches, so that there is always one to run."""
    return min(
        limits.max_queue_s, max(_SHORTEST_QUEUE_S, _BATCHES_WAITED * slowdown * profile.seconds(limits.full_rows))
    )


def level_of(priority: int) -> int:
    """Return the level at which a request is served: 0, and whatever is no level, means the default."""
    return priority if 1 <= priority <= PRIORITY_LEVELS else DEFAULT_PRIORITY_LEVEL


def admit(
    rows: int,
    queued_rows: int,
    running_s_left: float,
    profile: LatencyProfile,
    limits: Limits,
    rows_behind: int = 0,
    slowdown: float = 1.0,
    longest_wait_s: float | None = None,
) -> None:
    """Return if a new request may wait, and raise if not.

    A queue with nothing in front of the request takes it if it fits a batch, or a model slower than `max_queue_s` could
    never be called. The prediction counts rows as if batches packed tightly.

    Args:
        rows: rows of the new request.
        queued_rows: rows that wait already, those in flight not counted.
        running_s_left: predicted seconds until the runtime is idle.
        profile: the model's measured times.
        limits: what is allowed.
        rows_behind: how many of `queued_rows` wait at lower levels: they take room, but nobody waits for them.
        slowdown: how many times as long as `profile` says batches take now, with all that goes on beside them.
        longest_wait_s: in place of `limits.max_queue_s`.

    Raises:
        BadInput: the request has no rows.
        TooLarge: the request alone passes `max_batch_rows`.
        Overloaded: the queue is too long, by count or by predicted wait.
    """
    most = limits.max_batch_rows
    if rows < 1:
        raise BadInput("a request needs at least one row")
    if rows > most:
        raise TooLarge(f"a request may have at most {most} rows; this one has {rows}")
    if queued_rows == 0:
        return

    longest_wait_s = limits.max_queue_s if longest_wait_s is None else longest_wait_s
    full = limits.full_rows
    full_batch_s = slowdown * profile.seconds(full)

    def seconds_until_started(first_rows: int) -> float:
        return running_s_left + (first_rows - 1) // full * full_batch_s

    wait_s = fits_after_s = 0.0
    if rows_ahead := queued_rows - rows_behind:
        full_batches, rest = divmod(rows_ahead, full)
        wait_s = running_s_left + full_batches * full_batch_s
        if rest and rest + rows > full:
            wait_s += slowdown * profile.seconds(rest)
        # Nothing is in front of the request once those have started, so it fits then at the latest.
        fits_after_s = min(wait_s - longest_wait_s, seconds_until_started(rows_ahead))

    rows_over = queued_rows + rows - limits.max_queue_rows
    if rows_over > 0:
        message = f"the queue is full: {queued_rows} rows wait, and {limits.max_queue_rows} may"
        fits_after_s = max(fits_after_s, seconds_until_started(rows_over))
    elif wait_s > longest_wait_s:
        message = f"the queue is full: the predicted wait is {wait_s:.3g} s, and may be {longest_wait_s:.3g} s"
    else:
        return
    raise Overloaded(message, retry_after_s=max(fits_after_s, SHORTEST_RETRY_S))


def give_up_at(rows: int, deadline: float, profile: LatencyProfile) -> float:
    """Return when a request that still waits is told that it won't be in time.

    That is when it would be late even if it ran alone at once; not before, so a tick is added for timers that are
    early; and at its deadline at the latest.
    """
    return min(deadline, deadline - profile.seconds(rows) + TIMER_TICK_S)


def next_batch(waiting: Iterable[Waiting], now: float, profile: LatencyProfile, limits: Limits) -> Decision:
    """Choose what an idle runtime does next; look no further than that takes.

    `take` is the first request that can be in time, and those behind it that can be joined with it: in order, as many
    as fit a full batch and meet every deadline in it, and passing over `LOOK_PAST` others at most; a first one that is
    larger runs alone. It is empty only if nothing can be in time. `expired` are those, found on the way, that might
    have been in the batch but would be late even if each ran alone at once. The cause is "full" if nothing more of what
    was seen fits, "deadline" if one more would make a deadline in the batch late, and "idle" if all that waited was
    taken.

    Args:
        waiting: what waits, in the order in which it is to be served, each of it admitted.
        now: the time on the clock of the deadlines.
        profile: the model's measured times.
        limits: what is allowed.
    """
    expired: list[int] = []
    take: list[int] = []
    cause: Cause = "idle"
    rows = passed_over = 0
    earliest_deadline = math.inf
    layout: Hashable = None
    for index, request in enumerate(waiting):
        if take and request.layout != layout:
            cause = "full"
            passed_over += 1
            if passed_over == LOOK_PAST:
                break
            continue
        deadline = request.deadline
        if deadline is not None and now + profile.seconds(request.rows) > deadline:
            expired.append(index)
            continue
        grown = rows + request.rows
        if take and grown > limits.full_rows:
            cause = "full"
            break
        if deadline is not None:
            earliest_deadline = min(earliest_deadline, deadline)
        if earliest_deadline < math.inf and now + profile.seconds(grown) > earliest_deadline:
            cause = "deadline"
            break
        take.append(index)
        rows, layout = grown, request.layout
        if rows >= limits.full_rows:
            cause = "full"
            break
    return Decision(tuple(expired), tuple(take), cause)
