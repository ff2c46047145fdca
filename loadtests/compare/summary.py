"""What follows from all that was measured: medians, the best of the others, and how many times that inferd gives."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtests.compare.measuring import Server
from service.bench.samples import Figures

OURS: Final = "inferd"
_MOST_FAILED: Final = 0.01
"""Of the requests of an open loop: who fails more of them has not kept up, however quick the others were answered."""


@dataclass(frozen=True)
class Row:
    """Medians of one server in one setting; None where it was not measured.

    Attributes:
        title: of the server.
        setting: its name.
        per_s: answers a second, by number of clients.
        p50_ms: of an answer, likewise.
        p99_ms: likewise.
        open_per_s: what of an open loop was answered, a second.
        open_p99_ms: how long that took; None, too, of a server that failed some of it.
        open_failed: the share that it failed.
    """

    title: str
    setting: str
    per_s: Mapping[int, float]
    p50_ms: Mapping[int, float]
    p99_ms: Mapping[int, float]
    open_per_s: float | None = None
    open_p99_ms: float | None = None
    open_failed: float | None = None


@dataclass(frozen=True)
class Promise:
    """What is promised of inferd beside others.

    Attributes:
        others: titles of those; nothing = the best of all.
        clients: at so many of them.
        times: what inferd gives, by what they give.
    """

    others: tuple[str, ...]
    clients: tuple[int, ...]
    times: float


PROMISES: Final[Sequence[Promise]] = (
    Promise((), (1, 8), 1.1),
    Promise((), (32,), 1.05),
    Promise((), (64,), 0.95),
    Promise(("LitServe", "MLServer", "BentoML"), (1, 8, 32, 64), 3.0),
    Promise(("Ray Serve",), (1, 8, 32, 64), 10.0),
)
"""Beside them: of requests that come whether or not others were answered, p99 is not above the best."""


def row_of(server: Server) -> Row:
    """The medians of a server's rounds."""
    failed = _median(server.opened, _failed)
    kept_up = failed is not None and failed <= _MOST_FAILED
    return Row(
        server.title,
        server.setting.name,
        _by_clients(server, lambda one: one.per_s),
        _by_clients(server, lambda one: one.latency_ms.p50 if one.latency_ms else None),
        _by_clients(server, lambda one: one.latency_ms.p99 if one.latency_ms else None),
        _median(server.opened, lambda one: one.per_s),
        _median(server.opened, lambda one: one.latency_ms.p99 if one.latency_ms else None) if kept_up else None,
        failed,
    )


def _by_clients(server: Server, figure: Callable[[Figures], float | None]) -> dict[int, float]:
    medians = {clients: _median(rounds, figure) for clients, rounds in server.closed.items()}
    return {clients: value for clients, value in medians.items() if value is not None}


def _median(rounds: Sequence[Figures], figure: Callable[[Figures], float | None]) -> float | None:
    values = [value for one in rounds if (value := figure(one)) is not None]
    return statistics.median(values) if values else None


def _failed(figures: Figures) -> float:
    failed = figures.refused + sum(figures.errors.values())
    return failed / max(1, figures.answered + failed)


def best(rows: Sequence[Row], clients: int, titles: Sequence[str] = ()) -> Row | None:
    """Who of the others gives most to so many clients, each with the setting that is best then.

    Args:
        rows: of all servers.
        clients: so many.
        titles: of the others that are looked at; nothing = all.
    """
    looked_at = [row for row in rows if row.title != OURS and (not titles or row.title in titles)]
    found = [row for row in looked_at if row.per_s.get(clients, 0) > 0]
    return max(found, key=lambda row: row.per_s[clients], default=None)


def quickest(rows: Sequence[Row]) -> Row | None:
    """Who of the others has the least p99 of an open loop."""
    found = [row for row in rows if row.title != OURS and row.open_p99_ms is not None]
    return min(found, key=lambda row: row.open_p99_ms or 0.0, default=None)


def ours(rows: Sequence[Row]) -> Row | None:
    """The row of inferd, if it was measured."""
    return next((row for row in rows if row.title == OURS), None)


def times(rows: Sequence[Row], clients: int, titles: Sequence[str] = ()) -> float | None:
    """What inferd gives so many clients, by what the best of the others does; None where one was not measured."""
    mine, other = ours(rows), best(rows, clients, titles)
    if not mine or not other or clients not in mine.per_s:
        return None
    return mine.per_s[clients] / other.per_s[clients]


def promises(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every promise: what it is, what was promised and measured, whether it is kept; None where that can't be told."""
    lines: list[dict[str, Any]] = []
    for promise in PROMISES:
        if not promise.others:
            lines += [_kept(rows, promise, (), (clients,)) for clients in promise.clients]
        lines += [_kept(rows, promise, (title,), promise.clients) for title in promise.others]
    mine, other = ours(rows), quickest(rows)
    measured = None
    if mine and other and mine.open_p99_ms is not None and other.open_p99_ms is not None:
        measured = mine.open_p99_ms / other.open_p99_ms
    lines.append(
        {
            "what": "open loop: p99, by that of the best of the others",
            "most": 1.0,
            "measured": measured,
            "kept": None if measured is None else measured <= 1.0,
        }
    )
    return lines


def _kept(rows: Sequence[Row], promise: Promise, titles: tuple[str, ...], clients: Sequence[int]) -> dict[str, Any]:
    """One line: with so many clients, or the least of several numbers of them."""
    found = [times(rows, one, titles) for one in clients]
    measured = None if None in found else min(one for one in found if one is not None)
    which = "with one client" if clients == (1,) else f"with {', '.join(map(str, clients))} clients"
    return {
        "what": f"answers/s {which}, by those of {', '.join(titles) or 'the best of the others'}"
        + (": the least" if len(clients) > 1 else ""),
        "least": promise.times,
        "measured": measured,
        "kept": None if measured is None else measured >= promise.times,
    }
