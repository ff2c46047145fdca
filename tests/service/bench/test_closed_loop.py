from __future__ import annotations

import socket
import threading
from collections.abc import Iterable

import pytest

from service.bench.address import Address
from service.bench.closed_loop import TIMED_STREAMS, ClosedLoop
from service.bench.connection import Connection
from service.bench.messages import Request, post
from service.bench.samples import Samples
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


def requests_to(address: Address, count: int = 1, units: float = 1) -> list[Request]:
    return [post(address, f"/predict/{number}", b"x", "text/plain", units) for number in range(count)]


def put_on(server: ScriptedServer, clock: Clock, *, count: int = 1, units: float = 1, **changes: float) -> Samples:
    how = {"clients": 1, "warm_up_s": 0, "seconds": 10} | changes
    return ClosedLoop(server.address, requests_to(server.address, count, units), clock=clock, **how).run()


def taking(clock: Clock, seconds: float, answers: Script) -> Script:
    """A script each of whose answers takes some time."""

    def script(number: int) -> Iterable[bytes]:
        clock.now += seconds
        return answers(number)

    return script


def test_answers_that_are_complete_in_the_time_are_measured_and_those_of_the_warm_up_are_not() -> None:
    clock = Clock()
    with scripted(taking(clock, 1, lambda number: [answer(x_queue_ms=number)])) as server:
        samples = put_on(server, clock, warm_up_s=3, seconds=10)
    # Complete at 1, 2 | 3, 4, ..., 12 | 13: they are the third to the twelfth.
    assert list(samples.taken_s) == [1] * 10
    assert list(samples.queue_ms) == list(range(2, 12))
    assert samples.statuses == {200: 10}
    assert samples.units == 10
    assert samples.seconds == 10
    assert not samples.lost
    assert server.connections == 1


def test_requests_are_asked_in_turns() -> None:
    clock = Clock()
    with scripted(taking(clock, 1, lambda _: [answer()])) as server:
        put_on(server, clock, count=3, seconds=4)
    paths = [request.split()[1] for request in server.requests]
    assert paths[:4] == [b"/predict/0", b"/predict/1", b"/predict/2", b"/predict/0"]


def test_what_the_server_says_of_each_answer_is_kept_and_what_requests_ask_for_is_summed_up() -> None:
    clock = Clock()
    said = [answer(x_queue_ms=number, x_compute_ms=2 * number, x_batch_size=8) for number in range(5)]
    with scripted(taking(clock, 1, lambda number: [said[number % 5]])) as server:
        samples = put_on(server, clock, units=2.5, seconds=4)
    assert list(samples.queue_ms) == [0, 1, 2]
    assert list(samples.compute_ms) == [0, 2, 4]
    assert list(samples.rows) == [8, 8, 8]
    assert samples.units == 7.5


def test_answers_that_are_no_good_are_counted_by_status_and_give_nothing() -> None:
    clock = Clock()
    statuses = [200, 429, 503, 429, 200, 400, 200]
    with scripted(taking(clock, 1, lambda number: [answer(b"sorry", statuses[number % 7])])) as server:
        samples = put_on(server, clock, seconds=6.5)
    assert samples.statuses == {200: 2, 429: 2, 503: 1, 400: 1}
    assert (samples.units, len(samples.taken_s)) == (2, 2)
    assert samples.shown == "429: sorry"


def test_every_client_waits_for_its_own_answer() -> None:
    clock = Clock()
    together = threading.Barrier(5, action=lambda: setattr(clock, "now", clock.now + 1))

    def script(_: int) -> Iterable[bytes]:
        try:
            together.wait(30)
        except threading.BrokenBarrierError:
            return
        yield answer()

    with scripted(script) as server:
        load = ClosedLoop(server.address, requests_to(server.address), clients=5, warm_up_s=0, seconds=3, clock=clock)
        samples = load.run()
        together.abort()
    assert server.connections == 5
    # Five at 1 and five at 2; when the clock is moved to 3, no more is measured.
    assert samples.statuses == {200: 10}
    assert set(samples.taken_s) == {1}


def test_large_requests_are_sent_piece_by_piece() -> None:
    clock = Clock()
    body = bytes(range(256)) * 40_000  # more than any socket's buffer takes at once
    with scripted(taking(clock, 1, lambda _: [answer()])) as server:
        request = post(server.address, "/x", body, "application/octet-stream")
        samples = ClosedLoop(server.address, [request], clients=1, warm_up_s=0, seconds=2, clock=clock).run()
    assert samples.statuses == {200: 1}
    assert server.requests[0] == request.content


# Connections that end


def test_a_connection_that_breaks_is_counted_and_another_one_takes_its_place() -> None:
    clock = Clock()
    answers = [[answer()], [answer(b"abc")[:-1], HANG_UP], [HANG_UP], [answer()], [b"nonsense\r\n\r\n"], [answer()]]
    with scripted(taking(clock, 1, lambda number: answers[number % 6])) as server:
        samples = put_on(server, clock, seconds=5.5)
    assert samples.lost == {"disconnected": 2, "unreadable": 1}
    assert samples.statuses == {200: 2}
    assert server.connections == 4


def test_a_server_that_ends_each_connection_is_asked_on_others_and_nothing_is_lost() -> None:
    clock = Clock()
    with scripted(taking(clock, 1, lambda _: [answer(connection="close"), HANG_UP])) as server:
        samples = put_on(server, clock, seconds=50)
    assert samples.statuses == {200: 49}
    assert not samples.lost
    assert server.connections == 50


def test_a_server_that_is_gone_ends_the_measurement() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = Address("127.0.0.1", listener.getsockname()[1])
        load = ClosedLoop(address, requests_to(address), clients=3, warm_up_s=0, seconds=60)
        with pytest.raises(OSError, match=rf"{address} can't be reached: .*refused"):
            load.run()


# Streams


class Heard(ClosedLoop):
    """Says when something was heard, so that a test can move the clock then and not before."""

    def __init__(self, *arguments: object, **others: object) -> None:
        super().__init__(*arguments, **others)
        self.has_heard = threading.Semaphore(0)

    def heard(self, connection: Connection, *others: float) -> None:
        super().heard(connection, *others)
        self.has_heard.release()


def test_first_tokens_and_what_lies_between_tokens_are_timed() -> None:
    clock = Clock()
    load: Heard

    def script(_: int) -> Iterable[bytes]:
        clock.now += 3
        yield STREAM_HEAD + chunk("a")  # after 3
        load.has_heard.acquire(timeout=30)
        clock.now += 1
        yield chunk("b", "c") + chunk("d")  # three come together after 1
        load.has_heard.acquire(timeout=30)
        clock.now += 2
        yield chunk("e") + STREAM_END  # after 2, and the text has ended
        load.has_heard.acquire(timeout=30)

    with scripted(script) as server:
        load = Heard(
            server.address, requests_to(server.address), clients=1, streamed=True, warm_up_s=0, seconds=15, clock=clock
        )
        samples = load.run()
        load.has_heard.release(3)  # whoever still waits for it
    # Texts end at 6, 12 and 18. Of the third the first token comes when the time is over.
    assert list(samples.first_s) == [3, 3]
    assert list(samples.gaps_s) == [1, 0, 0, 2, 1, 0, 0, 2]
    assert samples.tokens == 10
    assert list(samples.taken_s) == [6, 6]
    assert samples.statuses == {200: 2}


def test_a_stream_that_tells_an_error_is_one() -> None:
    clock = Clock()
    stream = STREAM_HEAD + chunk("a") + chunk('{"error": "all is lost"}') + STREAM_END
    with scripted(taking(clock, 1, lambda _: [stream])) as server:
        samples = put_on(server, clock, streamed=True, seconds=2)
    assert samples.statuses == {500: 1}


def test_of_many_streams_a_few_are_timed_and_all_are_counted() -> None:
    clients = TIMED_STREAMS + 4
    told = threading.Barrier(clients)
    over = threading.Event()
    heard = threading.Semaphore(0)
    now = 0.0

    class Counted(ClosedLoop):
        def heard(self, connection: Connection, events: int, *others: float) -> None:
            super().heard(connection, events, *others)
            for _ in range(events):
                heard.release()

    def script(number: int) -> Iterable[bytes]:
        if number >= clients:
            over.wait(30)
            return
        told.wait(30)
        yield STREAM_HEAD + chunk("a", "b") + STREAM_END

    def clock() -> float:
        """Time that goes on a little whenever somebody asks for it, until everything was heard."""
        nonlocal now
        now += 0.001
        return now

    def end() -> None:
        nonlocal now
        for _ in range(2 * clients):
            heard.acquire(timeout=30)
        now = 1000.0
        over.set()

    with scripted(script) as server:
        load = Counted(
            server.address,
            requests_to(server.address),
            clients=clients,
            streamed=True,
            warm_up_s=0,
            seconds=999,
            clock=clock,
        )
        ending = threading.Thread(target=end)
        ending.start()
        samples = load.run()
        ending.join()
    assert samples.tokens == 2 * clients
    assert samples.statuses == {200: clients}
    assert len(samples.first_s) == TIMED_STREAMS
    assert len(samples.taken_s) == TIMED_STREAMS
