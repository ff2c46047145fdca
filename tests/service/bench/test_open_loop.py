from __future__ import annotations

import itertools
import selectors
import socket
import threading
from collections.abc import Iterable

import pytest

from service.bench.address import Address
from service.bench.messages import post
from service.bench.open_loop import OpenLoop
from tests.service.bench.scripted import (
    HANG_UP,
    STREAM_END,
    STREAM_HEAD,
    Clock,
    Script,
    ScriptedServer,
    answer,
    chunk,
    scripted,
)


def loop_on(server: ScriptedServer, clock: Clock, **changes: object) -> OpenLoop:
    how = {"due": (), "connections": 1, "most_connections": 1, "warm_up_s": 0, "seconds": 10} | changes
    request = post(server.address, "/predict/m", b"x", "text/plain", 2)
    return OpenLoop(server.address, [request], clock=clock, **how)


def stalling(clock: Clock, until: float) -> Script:
    """The first answer comes at a time, all others at once."""

    def script(number: int) -> Iterable[bytes]:
        if number == 0:
            clock.now = until
        yield answer(x_queue_ms=number)

    return script


@pytest.mark.parametrize("most", [1, 2, 100])
def test_a_stall_is_charged_for_every_request_that_was_due_meanwhile(most: int) -> None:
    """A loop that counts from when it sends would say 5, 0, 0, 0, 0."""
    clock = Clock()
    with scripted(stalling(clock, 5)) as server:
        samples = loop_on(server, clock, due=[0, 1, 2, 3, 4], most_connections=most, seconds=5).run()
    assert sorted(samples.taken_s) == [1, 2, 3, 4, 5]
    assert list(samples.late_s) == [0, 4, 3, 2, 1]
    assert samples.statuses == {200: 5}
    assert samples.units == 10
    assert server.connections <= most


def test_what_is_due_while_others_are_awaited_goes_out_on_other_connections() -> None:
    clock = Clock()
    all_there = threading.Barrier(4, action=lambda: setattr(clock, "now", 7.0))

    def script(_: int) -> Iterable[bytes]:
        all_there.wait(30)  # nobody is answered before everybody has asked
        yield answer()

    with scripted(script) as server:
        samples = loop_on(server, clock, due=[0, 0, 0, 0], most_connections=4, seconds=5).run()
    assert list(samples.taken_s) == [7, 7, 7, 7]
    assert list(samples.late_s) == [0, 0, 0, 0]
    assert server.connections == 4


def test_requests_that_are_due_in_the_warm_up_are_not_measured_and_those_that_are_answered_late_are() -> None:
    clock = Clock()
    with scripted(stalling(clock, 8)) as server:
        samples = loop_on(server, clock, due=[0, 1, 2, 3, 4], warm_up_s=2, seconds=3).run()
    assert sorted(samples.taken_s) == [4, 5, 6]  # due at 2, 3 and 4, answered at 8
    assert sorted(samples.queue_ms) == [2, 3, 4]
    assert len(server.requests) == 5


def test_connections_that_are_free_take_turns() -> None:
    names: list[int] = []

    class Told(OpenLoop):
        def answered(self, connection: object, now: float) -> None:
            names.append(id(connection))
            super().answered(connection, now)

    with scripted(lambda _: [answer()]) as server:
        request = post(server.address, "/predict/m", b"x", "text/plain")
        due = [0.01 * number for number in range(9)]
        Told(server.address, [request], due=due, connections=3, most_connections=3, warm_up_s=0, seconds=0.1).run()
    assert server.connections == 3
    assert len(set(names)) == 3
    assert len(names) == 9


def test_what_is_never_answered_is_counted_when_patience_is_over() -> None:
    clock = Clock()
    first, over = threading.Event(), threading.Event()

    def script(number: int) -> Iterable[bytes]:
        if number == 0:
            clock.now = 5.0
            yield answer()
            return
        first.wait(30)
        clock.now = 5.2
        over.wait(30)

    class Told(OpenLoop):
        def answered(self, connection: object, now: float) -> None:
            super().answered(connection, now)
            first.set()

    with scripted(script) as server:
        request = post(server.address, "/predict/m", b"x", "text/plain")
        how = {"due": [0, 1, 2], "connections": 1, "most_connections": 2, "warm_up_s": 0, "seconds": 5}
        samples = Told(server.address, [request], clock=clock, patience_s=0.2, **how).run()
        over.set()
    assert samples.statuses == {200: 1}
    assert samples.lost == {"no answer": 2}


def test_a_connection_that_breaks_is_counted_and_what_waits_goes_out_on_another() -> None:
    clock = Clock()
    answers = [[HANG_UP], [answer(b"", 429)], [HANG_UP], [answer()]]
    with scripted(lambda number: answers[number]) as server:
        clock.now = 0.0
        loop = loop_on(server, clock, due=[0, 0, 0, 0], seconds=1)
        counted = itertools.count()

        def tick() -> float:
            # Time goes on once all is answered: it is asked for often enough.
            if next(counted) > 10_000 or len(server.requests) == 4:
                clock.now = 1.0
            return clock.now

        loop.clock = tick
        samples = loop.run()
    assert samples.lost == {"disconnected": 2}
    assert samples.statuses == {429: 1, 200: 1}
    assert server.connections == 3


def test_what_a_server_says_unasked_ends_the_connection_and_is_no_loss() -> None:
    """As 408 is, by which some servers end a connection that has rested for long."""
    said = threading.Event()

    def script(number: int) -> Iterable[bytes]:
        yield answer()
        if number == 0:
            yield answer(b"", 408)
            said.set()

    class Waiting(OpenLoop):
        def answered(self, connection: object, now: float) -> None:
            super().answered(connection, now)
            said.wait(30)

    with scripted(script) as server:
        request = post(server.address, "/predict/m", b"x", "text/plain")
        how = {"due": [0, 0.02, 0.04], "connections": 1, "most_connections": 1, "warm_up_s": 0, "seconds": 0.1}
        samples = Waiting(server.address, [request], **how).run()
    assert sum(samples.statuses.values()) + sum(samples.lost.values()) == 3
    assert samples.statuses[200] >= 2
    assert 408 not in samples.statuses
    assert server.connections == 2


def test_of_streams_first_tokens_are_timed_from_when_they_were_due() -> None:
    clock = Clock()

    class Heard(OpenLoop):
        def heard(self, *arguments: object) -> None:
            super().heard(*arguments)
            has_heard.release()

    has_heard = threading.Semaphore(0)

    def script(number: int) -> Iterable[bytes]:
        if number == 0:
            clock.now = 3.0
        yield STREAM_HEAD + chunk("a")
        has_heard.acquire(timeout=30)
        if number == 1:
            clock.now = 4.5
        yield chunk("b", "c") + STREAM_END
        has_heard.acquire(timeout=30)

    with scripted(script) as server:
        request = post(server.address, "/x", b"x", "text/plain")
        how = {"due": [0, 1], "connections": 1, "most_connections": 1, "warm_up_s": 0, "seconds": 4}
        samples = Heard(server.address, [request], clock=clock, **how).run()
    assert list(samples.first_s) == [3, 2]
    assert list(samples.gaps_s) == [0, 0, 1.5, 0]
    assert list(samples.taken_s) == [3, 3.5]
    assert samples.tokens == 4  # two of the second text came after the end


def test_where_the_system_has_no_better_selector_a_plain_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    with scripted(lambda _: [answer()]) as server:
        request = post(server.address, "/predict/m", b"x", "text/plain")
        how = {"due": [0, 0.01, 0.02], "connections": 1, "most_connections": 4, "warm_up_s": 0, "seconds": 0.05}
        samples = OpenLoop(server.address, [request], **how).run()
    assert samples.statuses == {200: 3}
    assert min(samples.late_s) >= 0


def test_connections_that_end_while_they_are_free_are_no_loss() -> None:
    clock = Clock()
    with scripted(lambda _: [answer(connection="close"), HANG_UP]) as server:
        due = [0.001 * number for number in range(30)]
        request = post(server.address, "/predict/m", b"x", "text/plain")
        samples = OpenLoop(
            server.address, [request], due=due, connections=4, most_connections=8, warm_up_s=0, seconds=0.05
        ).run()
    assert samples.statuses == {200: 30}
    assert not samples.lost
    assert server.connections >= 30
    assert clock.now == 0


def test_a_server_that_is_gone_ends_the_measurement() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = Address("127.0.0.1", listener.getsockname()[1])
        request = post(address, "/", b"", "text/plain")
        due = [0.0] * 1000
        loop = OpenLoop(address, [request], due=due, connections=2, most_connections=4, warm_up_s=0, seconds=60)
        with pytest.raises(OSError, match=rf"{address} can't be reached"):
            loop.run()


def test_requests_are_sent_when_they_are_due_and_not_before() -> None:
    """By the real clock: none may be early, however slow the machine is."""
    with scripted(lambda _: [answer()]) as server:
        request = post(server.address, "/predict/m", b"x", "text/plain")
        due = [0.02, 0.0203, 0.05, 0.09]
        samples = OpenLoop(
            server.address, [request], due=due, connections=2, most_connections=8, warm_up_s=0, seconds=0.1
        ).run()
    assert samples.statuses == {200: 4}
    assert len(samples.late_s) == 4
    assert min(samples.late_s) >= 0
    assert min(samples.taken_s) > 0
