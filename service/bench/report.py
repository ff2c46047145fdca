"""What came of a measurement, to be read: lines and a table in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from service.bench.result import Result, Round, Run
from service.bench.samples import Spread

Cell = Callable[[Run, Round], float | None]


def report(result: Result) -> str:
    """All of it as Markdown."""
    model, scenario, server = result.model, result.scenario, result.server
    workers = "" if server["workers"] is None else f", workers: {server['workers']}"
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items() if value)
    rounds = result.plan["rounds"]
    lines = [
        f"{model['name']} {model['version']} ({model['task']}, {model['variant']}) at {server['url']}{workers}",
        f"asked by {scenario['protocol']}: {scenario['about']}; {result.plan['seconds']:g} s a load"
        + (f", the median of {rounds} rounds" if rounds > 1 else ""),
        f"on {machine}",
        "",
        *_limit_lines(result),
    ]
    for runs, name in (
        ([one for one in result.runs if one.clients is not None], "clients"),
        ([one for one in result.runs if one.rate is not None], "requests/s due"),
    ):
        if runs:
            lines += ["", *_table(runs, name, scenario["unit"])]
    lines += ["", *_notes(result)]
    return "\n".join(lines).rstrip()


def _limit_lines(result: Result) -> list[str]:
    if result.no_limit:
        return [f"no limit: {result.no_limit}"]
    unit = result.scenario["unit"]
    rows = [["processes", "rows at once", f"{unit}/s", "ms a run"]]
    rows += [
        [str(one.processes), str(one.batch_size), shown(one.units_per_s), shown(one.run_ms)]
        for one in result.typical_limit
    ]
    return ["ONNX Runtime alone, one thread a process:", "", *_aligned(rows)]


def _table(runs: Sequence[Run], name: str, unit: str) -> list[str]:
    """One row a load; columns that say nothing are left out."""
    columns: Mapping[str, Callable[[Run], str]] = {
        name: lambda run: f"{run.clients if run.clients is not None else run.rate:g}",
        "answers/s": _cell(lambda _, one: one.figures.per_s),
        f"{unit}/s": _cell(lambda _, one: _if_other(one)),
        "of the limit": _percent(lambda one: one.of_limit),
        "... at as many rows": _percent(lambda one: one.of_limit_at_rows),
        "p50 ms": _spread(lambda one: one.figures.latency_ms, "p50"),
        "p95 ms": _spread(lambda one: one.figures.latency_ms, "p95"),
        "p99 ms": _spread(lambda one: one.figures.latency_ms, "p99"),
        "first token p50 ms": _spread(lambda one: one.figures.first_token_ms, "p50"),
        "first token p99 ms": _spread(lambda one: one.figures.first_token_ms, "p99"),
        "between tokens p99 ms": _spread(lambda one: one.figures.between_tokens_ms, "p99"),
        "times a bare run": _cell(lambda _, one: one.of_bare_run),
        "queue p50 ms": _spread(lambda one: one.figures.queue_ms, "p50"),
        "compute p50 ms": _spread(lambda one: one.figures.compute_ms, "p50"),
        "rows a batch": _spread(lambda one: one.figures.batch_size, "mean"),
        "sent late p99 ms": _spread(lambda one: one.figures.late_ms, "p99"),
        "429": lambda run: f"{sum(one.figures.refused for one in run.rounds):,}",
        "errors": lambda run: f"{sum(sum(one.figures.errors.values()) for one in run.rounds):,}",
        "generator": lambda run: f"{run.typical.figures.generator_cpu:.0%}",
    }
    cells = {header: [cell(run) for run in runs] for header, cell in columns.items()}
    kept = [header for header, values in cells.items() if any(values)]
    return _aligned([kept, *([cells[header][row] for header in kept] for row in range(len(runs)))])


def _notes(result: Result) -> list[str]:
    notes = []
    if any(one.of_bare_run is not None for run in result.runs for one in run.rounds):
        timed = "first token" if result.scenario["protocol"] == "generate-stream" else "latency"
        notes.append(f"times a bare run: p50 of the {timed}, by a run of ONNX Runtime alone for one.")
    notes.append("generator: the share of a core that the load itself took.")
    for run in result.runs:
        for one in run.rounds:
            if one.figures.errors:
                load = f"{run.clients} clients" if run.clients is not None else f"{run.rate:g} requests/s"
                counts = ", ".join(f"{why} {count}" for why, count in one.figures.errors.items())
                notes.append(f"errors with {load}: {counts}. {one.figures.error}".rstrip())
    return notes


def _if_other(one: Round) -> float | None:
    """What was given, where that is not one for each answer."""
    figures = one.figures
    return None if abs(figures.units_per_s - figures.per_s) < 1e-9 else figures.units_per_s


def _cell(value: Cell) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        found = value(run, run.typical)
        return "" if found is None else shown(found)

    return cell


def _percent(value: Callable[[Round], float | None]) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        found = value(run.typical)
        return "" if found is None else f"{found:.0%}"

    return cell


def _spread(value: Callable[[Round], Spread | None], name: str) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        found = value(run.typical)
        return "" if found is None else shown(getattr(found, name))

    return cell


def shown(value: float) -> str:
    """A number in about three digits, or all that are before its point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown whose columns stand one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]]
