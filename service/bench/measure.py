"""Measures a server, and the limit beside it, in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from service.bench.address import Address
from service.bench.arrivals import arrivals
from service.bench.closed_loop import ClosedLoop
from service.bench.description import Described
from service.bench.limit import Limit, Measured
from service.bench.open_loop import OpenLoop
from service.bench.plan import MOST_CLIENTS, Plan
from service.bench.result import Result, Round, Run, compare, this_machine
from service.bench.samples import Figures
from service.bench.scenario import Scenario, Wanted, make_scenario
from service.machine import allow_files

Tell = Callable[[str], None]

_SPARE_SOCKETS = 64
_LIMIT_SHARE, _LIMIT_S = 0.25, 3.0
"""Of a load's time, and at most so long, for each measurement of the limit: it varies less."""


def measure(
    address: Address,
    wanted: Wanted,
    plan: Plan,
    *,
    workers: int | str | None,
    limit: Limit | None,
    no_limit: str = "",
    tell: Tell,
) -> Result:
    """Measure.

    Args:
        address: of a server that is ready.
        wanted: what it is asked.
        plan: how often and for how long.
        workers: of the server, if they are known.
        limit: that is measured beside it.
        no_limit: why there is none.
        tell: is told how it goes.

    Raises:
        OSError: the server can't be reached, or is gone.
        ValueError: it can't be asked so.
    """
    described = Described.of(address, wanted.model, wanted.version)
    scenario = make_scenario(address, wanted, described, limit.ready.shapes if limit else None)
    allow_sockets(plan.sockets)
    loads: list[tuple[int | None, float | None]] = [(clients, None) for clients in plan.clients]
    loads += [(None, rate) for rate in plan.rates]
    rounds: list[list[Round]] = [[] for _ in loads]
    limits: list[list[Measured]] = []
    for _ in range(plan.rounds):
        limits.append(_measure_limit(limit, plan, scenario, tell) if limit else [])
        for place, (clients, rate) in enumerate(loads):
            figures = put_on(address, scenario, plan, clients, rate)
            at_once = None if clients is None else clients * scenario.rows
            rounds[place].append(compare(figures, limits[-1], at_once, counts_units=scenario.counts_units))
            load = f"{clients} clients" if clients is not None else f"{rate:g} requests/s"
            tell(f"{load}: {figures.per_s:,.1f} answers/s")
    return Result(
        model={
            "name": wanted.model,
            "version": described.version,
            "task": described.task,
            "variant": described.variant,
        },
        server={"url": str(address), "workers": workers},
        scenario={
            "protocol": scenario.protocol,
            "unit": scenario.unit,
            "about": scenario.about,
            "requests": len(scenario.requests),
            "request_bytes": max(len(one.content) for one in scenario.requests),
        },
        machine=this_machine(),
        plan=dataclasses.asdict(plan),
        limit=limits if limit else [],
        no_limit="" if limit else no_limit,
        runs=[Run(clients, rate, rounds[place]) for place, (clients, rate) in enumerate(loads)],
    )


def _measure_limit(limit: Limit, plan: Plan, scenario: Scenario, tell: Tell) -> list[Measured]:
    sizes = sorted({1, *plan.batch_sizes}) if limit.ready.batched else [1]
    seconds = min(plan.seconds * _LIMIT_SHARE, _LIMIT_S)
    measured = []
    for processes in sorted({1, *plan.processes}):
        for size in sizes:
            one = limit.measure(processes, size, seconds, scenario.texts, scenario.parameters)
            measured.append(one)
            tell(f"ONNX Runtime alone, {processes} x {size}: {one.units_per_s:,.1f} {scenario.unit}/s")
    return measured


def put_on(address: Address, scenario: Scenario, plan: Plan, clients: int | None, rate: float | None) -> Figures:
    """Put one load on a server, of so many clients or of so many requests a second, and say what became of it.

    Raises:
        OSError: the server can't be reached, or is gone.
    """
    if clients is not None:
        return Figures.of(
            ClosedLoop(
                address,
                scenario.requests,
                clients=clients,
                streamed=scenario.streamed,
                warm_up_s=plan.warm_up_s,
                seconds=plan.seconds,
            ).run()
        )
    assert rate is not None  # noqa: S101 - a load has either
    due: Sequence[float] = arrivals(rate, plan.warm_up_s + plan.seconds, plan.arrivals)
    return Figures.of(
        OpenLoop(
            address,
            scenario.requests,
            due=due,
            connections=plan.connections,
            most_connections=MOST_CLIENTS,
            warm_up_s=plan.warm_up_s,
            seconds=plan.seconds,
        ).run()
    )


def allow_sockets(count: int) -> None:
    """Have the system allow so many connections, as far as it may be asked to.

    Raises:
        ValueError: it may not.
    """
    needed = count + _SPARE_SOCKETS
    if (allowed := allow_files(needed)) < needed:
        raise ValueError(f"{count} connections need {needed} open files, and the system allows {allowed} (ulimit -n)")
