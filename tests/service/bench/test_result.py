"""Figures beside a limit, and how they are told: in JSON, as a table and as a plot."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from service.bench.limit import Measured
from service.bench.plot import plot
from service.bench.report import report, shown
from service.bench.result import Result, Round, Run, compare, this_machine
from service.bench.samples import Figures, Spread

LIMIT = [Measured(1, 1, 100, 10), Measured(1, 8, 400, 20), Measured(2, 1, 180, 11), Measured(2, 8, 600, 26)]


def figures(units_per_s: float = 300.0, p50: float = 15.0, **changes: Any) -> Figures:
    given = {
        "seconds": 5.0,
        "answered": round(5 * units_per_s),
        "per_s": units_per_s,
        "units_per_s": units_per_s,
        "refused": 0,
        "errors": {},
        "error": "",
        "latency_ms": Spread(p50, p50, 2 * p50, 4 * p50, 8 * p50),
        "first_token_ms": None,
        "between_tokens_ms": None,
        "late_ms": None,
        "queue_ms": Spread(1, 1, 1, 1, 1),
        "compute_ms": Spread(2, 2, 2, 2, 2),
        "batch_size": Spread(3.5, 4, 4, 4, 4),
        "generator_cpu": 0.125,
    }
    return Figures(**(given | changes))


def result(*runs: Run, limit: Any = (LIMIT,), no_limit: str = "", protocol: str = "predict", rounds: int = 1) -> Result:
    return Result(
        model={"name": "tiny", "version": 3, "task": "image-classification", "variant": "int8"},
        server={"url": "http://127.0.0.1:8000", "workers": 2},
        scenario={"protocol": protocol, "unit": "images", "about": "noise <&>", "requests": 64, "request_bytes": 900},
        machine={"processor": "A processor", "cores": 2, "onnxruntime": None},
        plan={"rounds": rounds, "seconds": 5.0},
        limit=limit,
        no_limit=no_limit,
        runs=runs,
    )


def closed(clients: int, *given: Figures) -> Run:
    return Run(clients, None, [compare(one, LIMIT, clients, counts_units=True) for one in given])


# Beside the limit


@pytest.mark.parametrize(
    ("clients", "at_rows"),
    [(1, 300 / 180), (7, 300 / 180), (8, 300 / 600), (100, 300 / 600), (None, None)],
)
def test_figures_are_put_beside_the_most_and_beside_as_many_rows_at_once(
    clients: int | None, at_rows: float | None
) -> None:
    beside = compare(figures(300), LIMIT, clients, counts_units=True)
    assert beside.of_limit == 0.5
    assert beside.of_limit_at_rows == at_rows
    assert beside.of_bare_run == 1.5  # 15 ms by the 10 ms of one process that runs one


def test_of_streams_the_first_token_is_put_beside_a_bare_run() -> None:
    streamed = figures(first_token_ms=Spread(40, 30, 50, 60, 70))
    assert compare(streamed, LIMIT, 1, counts_units=True).of_bare_run == 3


def test_what_can_not_be_put_beside_a_limit_is_not() -> None:
    assert compare(figures(), [], 8, counts_units=True) == Round(figures())
    assert compare(figures(), LIMIT, 8, counts_units=False) == Round(figures(), of_bare_run=1.5)
    nothing = figures(0, latency_ms=None)
    assert compare(nothing, LIMIT, 8, counts_units=True) == Round(nothing, 0, 0, None)


def test_the_round_with_the_median_throughput_stands_for_all() -> None:
    run = closed(8, figures(300), figures(100), figures(200))
    assert run.typical.figures.units_per_s == 200
    assert closed(8, figures(300), figures(100)).typical.figures.units_per_s == 100
    rates = [[Measured(1, 1, rate, 1), Measured(1, 8, 10 * rate, 1)] for rate in (5, 3, 4)]
    assert [one.units_per_s for one in result(run, limit=rates).typical_limit] == [4, 40]


# In JSON


def test_json_has_all_of_it() -> None:
    content = json.loads(json.dumps(result(closed(8, figures(300)), Run(None, 50.0, [Round(figures())])).to_json()))
    assert list(content) == ["model", "server", "scenario", "machine", "plan", "limit", "runs"]
    assert content["limit"][3] == {"processes": 2, "batch_size": 8, "units_per_s": 600, "run_ms": 26}
    first, second = content["runs"]
    assert (first["clients"], first["rate"], first["of_limit"]) == (8, None, 0.5)
    assert first["figures"]["latency_ms"] == {"mean": 15, "p50": 15, "p95": 30, "p99": 60, "max": 120}
    assert (second["clients"], second["rate"], second["of_limit"]) == (None, 50, None)
    assert "rounds" not in first


def test_of_several_rounds_json_has_each() -> None:
    content = result(closed(8, figures(300), figures(100), figures(200))).to_json()
    (run,) = content["runs"]
    assert [one["figures"]["units_per_s"] for one in run["rounds"]] == [300, 100, 200]
    assert run["figures"]["units_per_s"] == 200


def test_where_there_is_no_limit_json_says_why() -> None:
    content = result(Run(1, None, [Round(figures())]), limit=[], no_limit="nobody asked").to_json()
    assert content["no_limit"] == "nobody asked"
    assert "limit" not in content


# As a table


def rows_of(text: str, first: str) -> list[dict[str, str]]:
    """The table whose first column is called so."""
    lines = text.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.lstrip("| ").startswith(f"{first} |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[begin:]]
    header, _, *rows = cells[: next((place for place, row in enumerate(cells) if len(row) < 2), len(cells))]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_table_has_a_row_a_load() -> None:
    text = report(result(closed(1, figures(30)), closed(8, figures(300))))
    assert text.splitlines()[:3] == [
        "tiny 3 (image-classification, int8) at http://127.0.0.1:8000, workers: 2",
        "asked by predict: noise <&>; 5 s a load",
        "on processor A processor, cores 2",
    ]
    assert rows_of(text, "processes")[3] == {"processes": "2", "rows at once": "8", "images/s": "600", "ms a run": "26"}
    assert rows_of(text, "clients")[1] == {
        "clients": "8",
        "answers/s": "300",
        "of the limit": "50%",
        "... at as many rows": "50%",
        "p50 ms": "15",
        "p95 ms": "30",
        "p99 ms": "60",
        "times a bare run": "1.5",
        "queue p50 ms": "1",
        "compute p50 ms": "2",
        "rows a batch": "3.5",
        "429": "0",
        "errors": "0",
        "generator": "12%",
    }
    assert "times a bare run: p50 of the latency" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("| clients") or "% |" in line}) == 1


def test_a_table_has_the_columns_that_say_something() -> None:
    streamed = figures(
        900.0,
        per_s=9.0,
        first_token_ms=Spread(1, 20, 30, 40, 50),
        between_tokens_ms=Spread(1, 2, 3, 4, 5),
        queue_ms=None,
        compute_ms=None,
        batch_size=None,
    )
    text = report(
        result(Run(4, None, [Round(streamed)]), limit=[], no_limit="it was not asked for", protocol="generate-stream")
    )
    (row,) = rows_of(text, "clients")
    assert row["answers/s"] == "9"
    assert row["images/s"] == "900"
    assert row["first token p50 ms"] == "20"
    assert row["between tokens p99 ms"] == "4"
    assert not {"of the limit", "queue p50 ms", "times a bare run", "sent late p99 ms"} & set(row)
    assert "no limit: it was not asked for" in text
    assert "bare run" not in text


def test_open_loops_have_a_table_of_their_own() -> None:
    late = figures(late_ms=Spread(0.1, 0.1, 0.2, 0.3, 9))
    text = report(result(closed(8, figures()), Run(None, 2500.0, [compare(late, LIMIT, None, counts_units=True)])))
    (row,) = rows_of(text, "requests/s due")
    assert row["requests/s due"] == "2500"
    assert row["sent late p99 ms"] == "0.3"
    assert "... at as many rows" not in row
    assert len(rows_of(text, "clients")) == 1


def test_refusals_and_errors_of_all_rounds_are_told() -> None:
    bad = figures(200, refused=3, errors={"503": 2, "disconnected": 1}, error="503: draining")
    text = report(result(closed(8, figures(300), bad, figures(100, refused=4)), rounds=3))
    (row,) = rows_of(text, "clients")
    assert (row["429"], row["errors"]) == ("7", "3")
    assert "errors with 8 clients: 503 2, disconnected 1. 503: draining" in text
    assert "the median of 3 rounds" in text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (99.94, "99.9"), (1234567.8, "1,234,568")]
)
def test_numbers_are_shown_in_about_three_digits(number: float, text: str) -> None:
    assert shown(number) == text


# As a plot


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}"))  # noqa: S314 - our own


def texts_in(svg: str) -> list[str]:
    return [one.text or "" for one in elements(svg, "text")]


def lines_in(svg: str) -> list[list[tuple[float, float]]]:
    found = elements(svg, "polyline")
    return [[tuple(map(float, point.split(","))) for point in one.get("points").split()] for one in found]


def test_a_plot_shows_throughput_beside_the_limit_and_latency_by_load() -> None:
    svg = plot(result(closed(1, figures(150, 5)), closed(8, figures(300, 10)), closed(32, figures(300, 100))))
    texts = texts_in(svg)
    assert {"tiny 3, int8, by predict", "noise <&>; A processor", "images a second", "latency, ms"} <= set(texts)
    assert {"ONNX Runtime alone", "p50", "p95", "p99", "1", "8", "32", "clients", "0", "600"} <= set(texts)
    given, p50, p95, p99 = lines_in(svg)
    assert given[0][0] < given[1][0] < given[2][0]
    assert given[0][1] > given[1][1] == given[2][1]  # downwards
    bottom = 320 - 64
    assert bottom - given[1][1] == pytest.approx(2 * (bottom - given[0][1]), abs=0.2)
    # Logarithms: twice as much is as far above, wherever that is.
    assert p50[0][1] - p95[0][1] == pytest.approx(p95[2][1] - p99[2][1], abs=0.2)


def test_open_loops_and_streams_have_charts_of_their_own() -> None:
    streamed = figures(first_token_ms=Spread(1, 20, 30, 40, 50))
    run = Run(None, 50.0, [Round(streamed)])
    texts = texts_in(plot(result(closed(1, figures()), run, limit=[], no_limit="none")))
    assert texts.count("answers a second") == 1
    assert {"time to the first token, ms", "requests a second that are due", "50"} <= set(texts)
    assert "ONNX Runtime alone" not in texts


def test_what_has_no_value_is_left_out_of_a_plot() -> None:
    nothing = figures(0, latency_ms=None)
    given, *taken = lines_in(plot(result(closed(1, nothing), closed(8, figures(300)))))
    assert [len(one) for one in (given, *taken)] == [2, 1, 1, 1]
    assert lines_in(plot(result(closed(1, nothing), limit=[LIMIT[:1]])))[1:] == [[], [], []]


@pytest.mark.parametrize("values", [(0.001, 0.0011), (1, 1), (0.5, 40_000), (3e-5, 9e5)])
def test_every_value_lies_between_the_ends_of_its_chart(values: tuple[float, float]) -> None:
    low, high = values
    spread = Spread(low, low, high, high, high)
    svg = plot(result(Run(1, None, [Round(figures(high, latency_ms=spread))]), limit=[], no_limit="none"))
    for line in lines_in(svg):
        for _, top in line:
            assert 40 - 0.1 <= top <= 320 - 64 + 0.1


def test_a_machine_says_what_it_is() -> None:
    machine = this_machine()
    assert machine["processor"]
    assert machine["cores"] >= 1
    assert machine["onnxruntime"]
    assert machine["inferd"]
