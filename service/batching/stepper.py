"""Continuous batching of a step graph: the queue in front of its slots, and the thread that steps them.

Requests come and are cancelled in the event loop. One thread takes them in, steps `Slots` for as long as anything
lives, and tells the event loop of news: of a first token and of an end at once, of later tokens every few
milliseconds, so that many tokens share a wake-up and a write. Between the two there is no lock: either side writes its
own counters and appends to a deque, and the thread alone touches what lives.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from service.batching.groups import Group
from service.batching.policy import LatencyProfile, Limits
from service.batching.records import StepReport
from service.batching.slots import Slots
from service.errors import (
    BadInput,
    Cancelled,
    DeadlineExceeded,
    InferdError,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
)

NEWS_EVERY_S = 0.005
"""How long a token that is not the first may wait for others, to share their way to the client."""

_SHORTEST_RETRY_S = 0.05

_MOST_KEPT = 4
"""So many steps who waits may be kept waiting for others, where there is room."""


@dataclass(frozen=True, slots=True)
class StepperStatistics:
    """The state of a stepper at one moment, in sequences."""

    queued: int
    live: int


class Stepper:
    """Grows groups of sequences; made in the event loop that it serves, and called only from there.

    Args:
        slots: what is stepped, by the stepper's own thread from now on.
        profile: how long a step takes, by its number of rows.
        limits: how much may wait; `max_batch_rows` is the number of slots.
        name: of the thread.
        clock: of deadlines and measurements.
        on_step: told in the event loop of each run.
        news_every_s: see `NEWS_EVERY_S`.
        together: while fewer wait than this share of the groups that live, they wait for others to be seated with them,
            for some steps; 0 = whoever fits is seated at the next step.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        profile: LatencyProfile,
        limits: Limits,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        on_step: Callable[[StepReport], object] | None = None,
        news_every_s: float = NEWS_EVERY_S,
        together: float = 0.0,
    ) -> None:
        self._slots = slots
        self._profile = profile
        self._limits = limits
        self._clock = clock
        self._on_step = on_step
        self._news_every_s = news_every_s
        self._together = together
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

        # Written by the event loop
        self._arrivals: deque[Group] = deque()
        self._submitted = 0  # sequences
        self._submitted_row_steps = 0
        self._draining = False
        self._abort: InferdError | None = None
        self._open: set[Group] = set()  # groups that are not done
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()

        self._cancelled: deque[Group] = deque()

        # Written by the thread
        self._queue: deque[Group] = deque()
        self._left_queue = 0  # sequences
        self._left_queue_row_steps = 0
        self._live: dict[Group, None] = {}
        self._kept = 0  # so many steps has who waits been waiting for others
        self._earliest_deadline = math.inf
        self._news: dict[Group, None] = {}
        self._reports: list[StepReport] = []
        self._told_at = -math.inf
        self._stepped_at: float | None = None  # when the last step ended, if there was no pause since

        self._wake = threading.Event()
        self._ending = False

    def admit(self, *widths: int, share: float = 1.0) -> None:
        """Return if groups of so many sequences would be taken now.

        Args:
            widths: of the groups of one request.
            share: of the queue that may be full then.

        Raises:
            NotReady: the stepper is draining.
            TooLarge: a group needs more slots than there are.
            Overloaded: the queue is full, by count or by predicted wait.
        """
        if self._draining:
            raise NotReady("the model is being stopped and takes no new requests")
        capacity = self._slots.capacity
        if (widest := max(widths, default=0)) > capacity:
            raise TooLarge(f"a group may have at most {capacity} sequences; this one has {widest}")
        queued = self._submitted - self._left_queue
        wanted = queued + sum(widths)
        if wanted <= self._slots.free:
            return
        most, most_s = max(self._limits.max_queue_rows * share, capacity), self._limits.max_queue_s * share
        if wanted > most:
            raise Overloaded(
                f"the queue is full: {queued} sequences wait, and {most:.0f} may",
                retry_after_s=max(_SHORTEST_RETRY_S, self._predicted_wait_s() - most_s),
            )
        if queued and (wait_s := self._predicted_wait_s()) > most_s:
            raise Overloaded(
                f"the queue is full: the predicted wait is {wait_s:.3g} s, and may be {most_s:.3g} s",
                retry_after_s=max(_SHORTEST_RETRY_S, wait_s - most_s),
            )

    def submit(self, *groups: Group, share: float = 1.0) -> None:
        """Queue the groups of one request; `changed` of each tells of its tokens and of its end.

        They are all taken or none, and however long they may grow, they don't stand in each other's way.

        Args:
            groups: that are taken.
            share: of the queue that may be full then: whoever can wait elsewhere leaves the rest to others.

        Raises:
            BadInput: a prompt is empty.
            NotReady, TooLarge, Overloaded: see `admit`.
        """
        if not all(group.prompt for group in groups):
            raise BadInput("a prompt needs at least one token")
        widths = [group.width for group in groups]
        self.admit(*widths, share=share)
        now = self._clock()
        for group in groups:
            group.enqueued_at = now
        self._open.update(groups)
        self._nothing_open.clear()
        self._submitted += sum(widths)
        self._submitted_row_steps += sum(group.row_steps_left for group in groups)
        self._arrivals.extend(groups)
        if not self._thread.ident:
            self._thread.start()
        self._wake.set()

    def cancel(self, group: Group) -> None:
        """Let a group go, at the next step; nobody will read it any more."""
        self._cancelled.append(group)
        self._wake.set()

    async def drain(self) -> None:
        """Refuse new groups, return when all that were accepted are done, and end the thread."""
        self._draining = True
        await self._nothing_open.wait()
        self._ending = True
        self._wake.set()

    def abort(self, error: InferdError) -> None:
        """Fail what still goes on with `error`, at the next step."""
        self._draining = True
        self._abort = error
        self._wake.set()

    def statistics(self) -> StepperStatistics:
        """Return how much waits and lives."""
        return StepperStatistics(queued=self._submitted - self._left_queue, live=self._slots.live)

    def _predicted_wait_s(self) -> float:
        """When the slots would be free if every sequence grew as long as it may, or as is likely."""
        row_steps = self._submitted_row_steps - self._left_queue_row_steps
        row_steps += sum(group.row_steps_left for group in list(self._live))
        return row_steps / self._slots.capacity * self._profile.seconds(self._slots.capacity)

    def _tell(self, groups: Iterable[Group], reports: Sequence[StepReport]) -> None:
        """In the event loop: wake those who read, and count."""
        for group in groups:
            if group.done:
                self._open.discard(group)
            group.changed.set()
        if not self._open:
            self._nothing_open.set()
        if self._on_step:
            for report in reports:
                self._on_step(report)

    # From here on: the thread.

    def _serve(self) -> None:
        while True:
            self._wake.clear()
            # Before arrivals are looked at: so whoever is cancelled here has been submitted, and is found.
            cancelled: set[Group] = set()
            while self._cancelled:
                cancelled.add(self._cancelled.popleft())
            if not (self._arrivals or self._queue or self._live):
                self._stepped_at = None
                self._tell_news()
                if self._ending:
                    return
                self._wake.wait()
                continue
            try:
                self._turn(cancelled)
            except Exception as error:
                # It is not known what state this has left, so nothing of it is kept.
                self._slots.clear()
                for group in list(self._live):
                    self._end(group, error if isinstance(error, InferdError) else _wrapped(error))
                self._stepped_at = None
                self._tell_news()

    def _turn(self, cancelled: Set[Group]) -> None:
        """Take in what has come, step once, and tell of it."""
        while self._arrivals:
            group = self._arrivals.popleft()
            self._queue.append(group)
            if group.deadline is not None:
                self._earliest_deadline = min(self._earliest_deadline, group.deadline)
        now = self._clock()
        if cancelled or self._abort or now >= self._earliest_deadline:
            self._let_go(now, cancelled)
        if self._queue:
            self._fill_slots(now)
        if self._live:
            self._step(now)
        self._tell_news(everything=self._clock() - self._told_at > self._news_every_s)

    def _let_go(self, now: float, cancelled: Set[Group]) -> None:
        """End what need not go on, wherever it is."""
        ended: dict[Group, InferdError] = {}
        self._earliest_deadline = math.inf
        for group in (*self._live, *self._queue):
            if group in cancelled:
                ended[group] = Cancelled("the client went away before its answer")
            elif self._abort:
                ended[group] = self._abort
            elif group.deadline is not None and now >= group.deadline:
                ended[group] = DeadlineExceeded("the deadline came before the model had answered")
            elif group.deadline is not None:
                self._earliest_deadline = min(self._earliest_deadline, group.deadline)
        if not self._live.keys().isdisjoint(ended):
            self._slots.drop(ended.keys())
        if any(group not in self._live for group in ended):
            for group in self._queue:
                if group in ended:
                    self._leave_queue(group)
            self._queue = deque(group for group in self._queue if group not in ended)
        for group, error in ended.items():
            self._end(group, error)

    def _fill_slots(self, now: float) -> None:
        """Seat who waits, in order: nobody overtakes a group that needs more slots than are free."""
        if len(self._queue) < self._together * len(self._live) and self._kept < _MOST_KEPT:
            self._kept += 1
            return
        self._kept = 0
        seated: list[Group] = []
        free = self._slots.free
        while self._queue and self._queue[0].width <= free:
            group = self._queue.popleft()
            free -= group.width
            group.joined_at = now
            seated.append(group)
            self._live[group] = None
            self._leave_queue(group)
        if seated:
            self._slots.join(seated)

    def _leave_queue(self, group: Group) -> None:
        self._left_queue += group.width
        self._left_queue_row_steps += group.row_steps_left

    def _step(self, now: float) -> None:
        rows, before = self._slots.live, self._slots.runs
        for group in self._slots.step():
            if group.left and not group.error:
                self._news[group] = None
            else:
                self._end(group, group.error)
        begun, self._stepped_at = self._stepped_at or now, self._clock()
        run = self._slots.runs.since(before)
        self._reports.append(
            StepReport(rows, run.tokens, run.seconds, self._stepped_at - begun, full=bool(self._queue))
        )

    def _end(self, group: Group, error: InferdError | None = None) -> None:
        self._live.pop(group, None)
        group.error = error
        group.done = True
        self._news[group] = None

    def _tell_news(self, *, everything: bool = True) -> None:
        """Tell the event loop what is urgent; or everything."""
        if everything:
            self._told_at = self._clock()
            for group in self._live:
                if group.streamed and group.first_token_at is not None:
                    self._news[group] = None
        elif not self._news:
            return
        news, self._news = self._news, {}
        reports, self._reports = self._reports, []
        if news or reports:
            try:
                self._loop.call_soon_threadsafe(self._tell, tuple(news), reports)
            except RuntimeError:  # the event loop is closed: nobody listens any more
                self._ending = True
                self._slots.clear()
                for groups in (self._arrivals, self._queue, self._live):
                    groups.clear()


def _wrapped(error: Exception) -> RuntimeFailure:
    failure = RuntimeFailure(f"the model failed: {error!r}")
    failure.__cause__ = error
    return failure
