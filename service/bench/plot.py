"""A plot of a measurement as an SVG, which is made here: what serves has no library that plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from service.bench.report import shown
from service.bench.result import Result, Round, Run
from service.bench.samples import Spread

_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 64
_COLOURS = ("#1f6f8b", "#e07a5f", "#3d405b", "#81a860", "#b5838d", "#e9b949", "#6d597a", "#4fb0a5")
_LIMIT_COLOUR = "#888888"
_STYLE = "font-family: system-ui, sans-serif; font-size: 12px; fill: #222"
_NAME_WIDTH, _CHARACTER, _BETWEEN_NAMES, _NAMES_HEIGHT = 40, 7.2, 14, 18
"""Of names of lines: those that all fit into 40 pixels stand beside the title, others in rows below."""

Points = Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """One chart: what it shows, the names of its places from left to right, and lines over them.

    Attributes:
        title: above it.
        places: below it, evenly spaced.
        below: what they are.
        lines: by name, at most eight; None where there is no value.
        level: a dashed line at one height, and its name.
        logarithmic: whether heights are logarithms.
    """

    title: str
    places: Sequence[str]
    below: str
    lines: Mapping[str, Points]
    level: tuple[str, float] | None = None
    logarithmic: bool = False


def plot(result: Result) -> str:
    """Throughput and latency by load, closed loops above open ones."""
    closed = [run for run in result.runs if run.clients is not None]
    opened = [run for run in result.runs if run.rate is not None]
    unit = result.scenario["unit"]
    rows: list[list[Chart]] = []
    for runs, below in ((closed, "clients"), (opened, "requests a second that are due")):
        if not runs:
            continue
        places = [f"{run.clients if run.clients is not None else run.rate:g}" for run in runs]
        most = max((one.units_per_s for one in result.typical_limit), default=None)
        counts = any(run.typical.of_limit is not None for run in runs)
        given = Chart(
            f"{unit} a second" if counts else "answers a second",
            places,
            below,
            {"": [run.typical.figures.units_per_s if counts else run.typical.figures.per_s for run in runs]},
            level=("ONNX Runtime alone", most) if most and counts else None,
        )
        streamed = any(run.typical.figures.first_token_ms for run in runs)
        title = "time to the first token, ms" if streamed else "latency, ms"
        spread = _first_token if streamed else _latency
        shares = ("p50", "p95", "p99")
        taken = Chart(title, places, below, {name: _points(runs, spread, name) for name in shares}, logarithmic=True)
        rows.append([given, taken])
    model, scenario = result.model, result.scenario
    heading = f"{model['name']} {model['version']}, {model['variant']}, by {scenario['protocol']}"
    return page(heading, f"{scenario['about']}; {result.machine['processor']}", rows)


def _first_token(one: Round) -> Spread | None:
    return one.figures.first_token_ms


def _latency(one: Round) -> Spread | None:
    return one.figures.latency_ms


def _points(runs: Sequence[Run], spread: Callable[[Round], Spread | None], name: str) -> Points:
    found = [spread(run.typical) for run in runs]
    return [None if one is None else float(getattr(one, name)) for one in found]


def page(heading: str, about: str, rows: Sequence[Sequence[Chart]]) -> str:
    """Charts as an SVG, two beside each other at most, below a heading and a line of what they are about."""
    below = _NAMES_HEIGHT * max(len(_rows_of_names(chart)) for charts in rows for chart in charts)
    width, height = 2 * _WIDTH, 60 + len(rows) * (_HEIGHT + below)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<g style="{_STYLE}">',
        _text(16, 26, heading, "font-size: 16px; font-weight: 600"),
        _text(16, 46, about),
    ]
    for row, charts in enumerate(rows):
        for column, chart in enumerate(charts):
            parts.append(
                f'<g transform="translate({column * _WIDTH} {60 + row * (_HEIGHT + below)})">{_chart(chart)}</g>'
            )
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _chart(chart: Chart) -> str:
    values = [one for line in chart.lines.values() for one in line if one is not None and one > 0]
    if chart.level:
        values.append(chart.level[1])
    ticks = (_log_ticks if chart.logarithmic else _ticks)(values or [1.0])
    low, high = ticks[0], ticks[-1]

    def y(value: float) -> float:
        if chart.logarithmic:
            value, bottom, top = math.log(max(value, low)), math.log(low), math.log(high)
        else:
            bottom, top = low, high
        return _HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    def x(place: int) -> float:
        return _LEFT + (place + 0.5) * (_WIDTH - _LEFT - _RIGHT) / len(chart.places)

    parts = [_text(_LEFT, 24, chart.title, "font-weight: 600")]
    for tick in ticks:
        parts.append(_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), "#dddddd"))
        parts.append(_text(_LEFT - 6, y(tick) + 4, shown(tick), anchor="end"))
    for place, name in enumerate(chart.places):
        parts.append(_text(x(place), _HEIGHT - _BOTTOM + 18, name, anchor="middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM + 38, chart.below, anchor="middle"))
    if chart.level:
        name, value = chart.level
        parts.append(_line(_LEFT, y(value), _WIDTH - _RIGHT, y(value), _LIMIT_COLOUR, "stroke-dasharray: 6 4"))
        parts.append(_text(_WIDTH - _RIGHT, y(value) - 5, name, f"fill: {_LIMIT_COLOUR}", anchor="end"))
    for line, colour in zip(chart.lines.values(), _COLOURS, strict=False):
        points = [(x(place), y(value)) for place, value in enumerate(line) if value is not None]
        joined = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}"/>' for left, top in points]
    return "".join([*parts, *_names(chart)])


def _names(chart: Chart) -> list[str]:
    """The names of lines in their colours, where there is room for them."""
    colours = dict(zip(chart.lines, _COLOURS, strict=False))
    style = {name: f"fill: {colour}; font-weight: 600" for name, colour in colours.items()}
    rows = _rows_of_names(chart)
    if not rows:
        named = [name for name in colours if name]
        places = [_WIDTH - _RIGHT - _NAME_WIDTH * (len(named) - place) for place in range(len(named))]
        return [_text(x, 24, name, style[name]) for x, name in zip(places, named, strict=True)]
    parts = []
    for number, row in enumerate(rows):
        x = float(_LEFT)
        for name in row:
            parts.append(_text(x, _HEIGHT - _BOTTOM + 62 + number * _NAMES_HEIGHT, name, style[name]))
            x += _width_of(name)
    return parts


def _rows_of_names(chart: Chart) -> list[list[str]]:
    """The names of lines as they stand in rows below a chart; none if they stand beside its title."""
    named = [name for name in chart.lines if name]
    if all(_width_of(name) <= _NAME_WIDTH for name in named):
        return []
    rows: list[list[str]] = [[]]
    for name in named:
        if rows[-1] and sum(map(_width_of, [*rows[-1], name])) > _WIDTH - _LEFT:
            rows.append([])
        rows[-1].append(name)
    return rows


def _width_of(name: str) -> float:
    return len(name) * _CHARACTER + _BETWEEN_NAMES


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers from 0 to above all of them."""
    step = 10.0 ** math.floor(math.log10(max(values)))
    step = next(one for one in (step / 5, step / 2, step, 2 * step) if max(values) / one <= 6)
    return [step * number for number in range(math.ceil(max(values) / step) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, ... from below all of them to above; where there would be many, powers of ten alone."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    first = max((place for place, tick in enumerate(ticks) if tick <= min(values)), default=0)
    last = next((place for place, tick in enumerate(ticks) if tick >= max(values) and place > first), len(ticks) - 1)
    chosen = ticks[first : last + 1]
    if len(chosen) <= 9:
        return chosen
    return [10.0**power for power in range(low, high + 1)]


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" style="{style}"/>'
