from __future__ import annotations

from contextlib import nullcontext

import pytest

from loadtests.compare import wires
from loadtests.compare.measuring import Server
from loadtests.compare.peers import Setting
from loadtests.compare.summary import PROMISES, Row, best, promises, quickest, row_of, times
from service.bench.address import Address
from service.bench.samples import Figures
from tests.loadtests.compare.measured import figures


def row(title: str, *per_s: float, setting: str = "", p99: float | None = None) -> Row:
    return Row(title, setting, dict(zip((1, 8, 32, 64), per_s, strict=False)), {}, {}, open_p99_ms=p99)


ROWS = [
    row("inferd", 110, 220, 330, 440, p99=5.0),
    row("mosec", 100, 100, 100, 100, setting="no batches", p99=8.0),
    row("mosec", 10, 150, 300, 500, setting="batches of 16", p99=4.0),
    row("Ray Serve", 11, 11, 11, 0),
]


def test_the_best_of_the_others_is_another_with_each_number_of_clients() -> None:
    assert [(one.title, one.setting) for one in (best(ROWS, 1), best(ROWS, 8)) if one] == [
        ("mosec", "no batches"),
        ("mosec", "batches of 16"),
    ]
    assert times(ROWS, 1) == pytest.approx(1.1)
    assert times(ROWS, 64) == pytest.approx(0.88)
    assert times(ROWS, 8, ["Ray Serve"]) == pytest.approx(20)


def test_what_was_not_measured_or_gave_nothing_is_compared_with_nothing() -> None:
    assert times(ROWS, 64, ["Ray Serve"]) is None
    assert times(ROWS, 1, ["Nobody"]) is None
    assert times(ROWS[1:], 1) is None
    assert times(ROWS[:1], 1) is None
    assert quickest(ROWS[:1]) is None


def test_every_promise_says_whether_it_is_kept() -> None:
    lines = {line["what"]: line for line in promises(ROWS)}
    with_one = lines["answers/s with one client, by those of the best of the others"]
    assert (with_one["least"], with_one["kept"]) == (1.1, True)
    assert lines["answers/s with 64 clients, by those of the best of the others"]["kept"] is False
    ray = lines["answers/s with 1, 8, 32, 64 clients, by those of Ray Serve: the least"]
    assert ray["measured"] is None  # it gave nothing to 64
    assert ray["kept"] is None
    opened = lines["open loop: p99, by that of the best of the others"]
    assert opened["measured"] == pytest.approx(1.25)
    assert opened["kept"] is False
    several = [one for one in PROMISES if one.others]
    assert len(lines) == sum(len(one.others or one.clients) for one in PROMISES) + 1
    assert {title for one in several for title in one.others} == {"LitServe", "MLServer", "BentoML", "Ray Serve"}


def test_the_least_of_several_numbers_of_clients_counts() -> None:
    rows = [row("inferd", 30, 60, 60, 60), row("LitServe", 10, 10, 25, 10)]
    lines = {line["what"]: line for line in promises(rows)}
    line = lines["answers/s with 1, 8, 32, 64 clients, by those of LitServe: the least"]
    assert line["measured"] == pytest.approx(2.4)
    assert line["kept"] is False


def server(closed: dict[int, list[Figures]], opened: list[Figures]) -> Server:
    setting = Setting("batches", "with batches", wires.RAW)
    return Server("mosec", setting, "1.0", lambda: nullcontext(Address("127.0.0.1", 1)), closed, opened)


def test_a_row_has_the_medians_of_all_rounds() -> None:
    rounds = [figures(100, 1, 9), figures(300, 3, 3), figures(200, 5, 6)]
    measured = row_of(server({8: rounds}, rounds))
    assert (measured.title, measured.setting) == ("mosec", "batches")
    assert measured.per_s == {8: 200}
    assert measured.p50_ms == {8: 3}
    assert (measured.open_per_s, measured.open_p99_ms, measured.open_failed) == (200, 6, 0)


def test_who_fails_some_of_an_open_loop_has_no_time_in_it() -> None:
    failing = row_of(server({8: [figures(100)]}, [figures(2900, answered=2900, refused=100)]))
    assert failing.open_p99_ms is None
    assert failing.open_failed == pytest.approx(100 / 3000)
    kept_up = row_of(server({8: [figures(100)]}, [figures(2990, answered=2990, refused=10)]))
    assert kept_up.open_p99_ms == 2.0


def test_who_was_not_asked_for_an_open_loop_has_nothing_of_it() -> None:
    measured = row_of(server({8: [figures(100)]}, []))
    assert (measured.open_per_s, measured.open_p99_ms, measured.open_failed) == (None, None, None)
