"""What came of it, to be read: tables in Markdown, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtests.compare.measuring import Server
from loadtests.compare.summary import OURS, Row, best, ours, promises, quickest, times
from service.bench.plan import Plan
from service.bench.plot import Chart, page
from service.bench.report import shown


def report(about: dict[str, Any], plan: Plan, servers: Sequence[Server], rows: Sequence[Row]) -> str:
    """All of it as Markdown.

    Args:
        about: what was measured, and on what.
        plan: how.
        servers: all of them, also those that were not measured.
        rows: of those that were.
    """
    rates = ", ".join(f"{rate:,.0f}" for rate in plan.rates)
    lines = [
        "# inferd beside other servers of the same ONNX file",
        "",
        f"Written by `make compare`. On {'; '.join(f'{name} {value}' for name, value in about.items() if value)}.",
        "",
        f"Each load for {plan.seconds:g} s after {plan.warm_up_s:g} s. Rounds: {plan.rounds}, in each of which every "
        "server is started, asked and ended in turn; medians of all. The load is that of `inferd bench`, for all of "
        "them; it and the server share the machine. A request is one picture. Before a server is measured its answers "
        "are compared with what ONNX Runtime gives alone.",
        "",
        *_table_of_all(plan, rows),
        "",
        f"Open loop: {rates} requests/s that come whether or not others were answered, as those of people who know "
        "nothing of each other; servers that give much less to their clients are not asked for that much.",
        "",
        "## How many times as much inferd gives",
        "",
        "Answers a second, by those of the other with the setting that is its best with so many clients.",
        "",
        *_table_of_times(plan, rows),
        "",
        "## What is promised",
        "",
        *_table_of_promises(rows),
        "",
        "## How each is set up",
        "",
        "All: the same file, run by ONNX Runtime on one thread a process that does not spin, where nothing else is "
        "said; as many processes that run it as there are cores; no log of accesses; the cheapest body that the server "
        "takes.",
        "",
        *(f"- {_titled(one)}: {one.setting.about}. {_sentence(one.setting.wire.about)}" for one in servers),
    ]
    if problems := [one for one in servers if one.problems]:
        lines += ["", "## Not measured, or not in all rounds", ""]
        lines += [f"- {_titled(one)}: {'; '.join(dict.fromkeys(one.problems))}" for one in problems]
    return "\n".join(lines)


def _table_of_all(plan: Plan, rows: Sequence[Row]) -> list[str]:
    clients = [_clients(one) for one in plan.clients]
    head = ["server", *(f"answers/s, {one}" for one in clients), f"p50 ms, {clients[0]}"]
    head += [f"p99 ms, {clients[-1]}", "open loop: answers/s", "p99 ms", "failed"]
    cells = []
    for row in rows:
        name = f"{row.title}, {row.setting}" if row.setting else row.title
        given = [_cell(row.per_s.get(one)) for one in plan.clients]
        given += [_cell(row.p50_ms.get(plan.clients[0])), _cell(row.p99_ms.get(plan.clients[-1]))]
        failed = "" if row.open_failed is None else f"{row.open_failed:.1%}"
        cells.append([name, *given, _cell(row.open_per_s), _cell(row.open_p99_ms), failed])
    return _table(head, cells)


def _table_of_times(plan: Plan, rows: Sequence[Row]) -> list[str]:
    head = ["", *(_clients(one) for one in plan.clients)]
    first = ["the best of the others"]
    for clients in plan.clients:
        other = best(rows, clients)
        found = times(rows, clients)
        first.append(f"{found:.2f} ({_name(other)})" if other and found is not None else "")
    cells = [first]
    for title in dict.fromkeys(row.title for row in rows if row.title != OURS):
        found_all = [times(rows, clients, (title,)) for clients in plan.clients]
        cells.append([title, *("" if found is None else f"{found:.2f}" for found in found_all)])
    return _table(head, cells)


def _table_of_promises(rows: Sequence[Row]) -> list[str]:
    cells = []
    for line in promises(rows):
        bound = f"at least {line['least']:g}" if "least" in line else f"at most {line['most']:g}"
        measured = "" if line["measured"] is None else f"{line['measured']:.2f}"
        kept = "not measured" if line["kept"] is None else "yes" if line["kept"] else "no"
        cells.append([line["what"], bound, measured, kept])
    other = quickest(rows)
    if other:
        cells[-1][0] += f" ({_name(other)})"
    return _table(["", "promised", "measured", "kept"], cells)


def plot(about: dict[str, Any], plan: Plan, rows: Sequence[Row]) -> str:
    """Throughput, and latency, by number of clients: of every server with the setting that is best at the most."""
    most = plan.clients[-1]
    titles = dict.fromkeys(row.title for row in rows)
    found = [ours(rows) if title == OURS else best(rows, most, (title,)) for title in titles]
    shown_rows = [row for row in found if row]
    shown_rows.sort(key=lambda row: -row.per_s.get(most, 0.0))
    places = [str(one) for one in plan.clients]
    given = {row.title: [row.per_s.get(one) for one in plan.clients] for row in shown_rows}
    taken = {row.title: [row.p50_ms.get(one) for one in plan.clients] for row in shown_rows}
    charts = [
        Chart("answers a second", places, "clients", given),
        Chart("latency (p50), ms", places, "clients", taken, logarithmic=True),
    ]
    return page(
        "inferd beside other servers of the same ONNX file",
        f"{about['model']}; each with the setting that is best with {most} clients; {about['processor']}, "
        f"{about['cores']} cores",
        [charts],
    )


def _titled(server: Server) -> str:
    """Server, version, setting."""
    titled = f"{server.title} {server.version}"
    return f"{titled}, {server.setting.name}" if server.setting.name else titled


def _name(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.title}, {row.setting}" if row.setting else row.title


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _cell(value: float | None) -> str:
    return "" if value is None else shown(value)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *cells)]
