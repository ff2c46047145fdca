"""Bursts and many patient clients are no overload; more than can be answered, for long, is."""

from __future__ import annotations

import pytest

from service.batching.overload import WINDOW_S, Overload


class Queue:
    """A queue that is served at a rate, with requests of one row, in steps of a millisecond."""

    def __init__(self, *, served_per_s: float) -> None:
        self.now = 0.0
        self.waiting = 0.0
        self.refused = 0
        self.overload = Overload(self.now, batch_rows=16, batch_s=16 / served_per_s)
        self._served_per_s = served_per_s
        self._due = 0.0

    @property
    def wait_s(self) -> float:
        return self.waiting / self._served_per_s

    def arrive(self, rows: int, *, bound_s: float = 1.0) -> None:
        for _ in range(rows):
            self.overload.arrive(1, self.now, self.wait_s)
            if self.wait_s > (0.02 if self.overload.is_on else bound_s):
                self.overload.refuse(self.now)
                self.refused += 1
            else:
                self.waiting += 1

    def serve(self, seconds: float, *, arriving_per_s: float = 0.0, again: bool = False) -> None:
        """Go on for so long; `again`: whoever was answered asks again."""
        for _ in range(round(seconds * 1000)):
            self.now += 0.001
            left = min(self.waiting, self._served_per_s * 0.001)
            self.waiting -= left
            self.overload.leave(left)  # type: ignore[arg-type] # a share of a row
            self._due += arriving_per_s * 0.001 + (left if again else 0.0)
            coming, self._due = int(self._due), self._due % 1
            self.arrive(coming)


def test_half_as_much_again_as_can_be_answered_is_an_overload_within_half_a_second() -> None:
    queue = Queue(served_per_s=1000)
    queue.serve(0.2, arriving_per_s=1500)
    assert not queue.overload.is_on
    queue.serve(0.4, arriving_per_s=1500)
    assert queue.overload.is_on
    queue.serve(3.0, arriving_per_s=1500)
    assert queue.wait_s <= 0.021


@pytest.mark.parametrize("arriving", [500, 1000])
def test_as_much_as_can_be_answered_is_none(arriving: float) -> None:
    queue = Queue(served_per_s=1000)
    queue.serve(5.0, arriving_per_s=arriving)
    assert not queue.overload.is_on


def test_a_burst_is_none() -> None:
    queue = Queue(served_per_s=1000)
    queue.arrive(900)
    queue.serve(2.0, arriving_per_s=500)
    assert not queue.overload.is_on
    assert queue.refused == 0


def test_many_clients_that_ask_again_when_they_were_answered_are_none() -> None:
    queue = Queue(served_per_s=1000)
    queue.arrive(256)
    queue.serve(10.0, again=True)
    assert not queue.overload.is_on
    assert queue.refused == 0
    assert queue.wait_s > 0.2


def test_a_short_queue_may_grow() -> None:
    queue = Queue(served_per_s=1000)
    queue.serve(0.15, arriving_per_s=1500)
    assert queue.wait_s < 0.1
    queue.serve(2.0, arriving_per_s=1000)
    assert not queue.overload.is_on


def test_it_is_over_when_nobody_was_refused_for_a_second() -> None:
    queue = Queue(served_per_s=1000)
    queue.serve(1.0, arriving_per_s=1500)
    assert queue.overload.is_on
    queue.serve(0.8, arriving_per_s=500)
    assert queue.overload.is_on
    queue.serve(0.5, arriving_per_s=500)
    assert not queue.overload.is_on


def test_the_full_queue_is_tried_again_after_5_s_and_then_after_a_minute() -> None:
    queue = Queue(served_per_s=1000)
    queue.serve(1.0, arriving_per_s=1500)
    off = []
    for _ in range(7000):
        queue.serve(0.01, arriving_per_s=1500)
        if not queue.overload.is_on:
            off.append(queue.now)
    began = [now for now, before in zip(off, [0.0, *off], strict=False) if now - before > 1]
    assert began == pytest.approx([5.4, 65.9], abs=1.0)
    assert len(off) * 0.01 < 0.8  # twice it was seen at once that it still is one


def test_patient_clients_that_were_taken_for_an_overload_are_let_in_again() -> None:
    queue = Queue(served_per_s=1000)
    queue.serve(1.0, arriving_per_s=1500)
    queue.serve(0.1)
    assert queue.overload.is_on

    def clients(seconds: float) -> None:
        """256 of them, which try again a tenth of a second after they were refused."""
        for _ in range(round(seconds * 10)):
            outside = 256 - int(queue.waiting)
            queue.arrive(outside)
            queue.serve(0.1, again=True)

    clients(8.0)
    queue.refused = 0
    clients(20.0)
    assert not queue.overload.is_on
    assert queue.refused == 0


class Batches:
    """A queue that is served 64 rows at a time, in steps of a millisecond."""

    ROWS, SECONDS = 64, 0.045

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting = 0
        self.overload = Overload(self.now, batch_rows=self.ROWS, batch_s=self.SECONDS)
        self._running = 0
        self._ends = 0.0

    def arrive(self, rows: int) -> None:
        for _ in range(rows):
            self.overload.arrive(1, self.now, self.waiting * self.SECONDS / self.ROWS)
            self.waiting += 1

    def serve(self, seconds: float, *, share: float = 0.0, again: bool = False) -> None:
        """Go on for so long while so large a share of what can be answered arrives; `again`: whoever was asks again."""
        due = 0.0
        for _ in range(round(seconds * 1000)):
            self.now += 0.001
            due += share * self.ROWS / self.SECONDS * 0.001
            self.arrive(int(due))
            due %= 1
            if self.now >= self._ends:
                answered, self._running = self._running, min(self.waiting, self.ROWS)
                self.waiting -= self._running
                self.overload.leave(self._running)
                self._ends = self.now + self.SECONDS
                if again:
                    self.arrive(answered)


def test_large_batches_hide_no_overload() -> None:
    queue = Batches()
    queue.serve(1.0, share=1.5)
    assert queue.overload.is_on


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_large_batches_are_none(share: float) -> None:
    queue = Batches()
    queue.serve(5.0, share=share)
    assert not queue.overload.is_on


def test_many_clients_of_large_batches_are_none() -> None:
    queue = Batches()
    queue.arrive(512)
    queue.serve(10.0, again=True)
    assert not queue.overload.is_on


def test_what_comes_now_and_then_is_none_whatever_it_waits_for() -> None:
    overload = Overload(0.0, batch_rows=0, batch_s=0.0)
    for number in range(50):
        overload.arrive(1, number * 3 * WINDOW_S, 5.0)
    assert not overload.is_on
