"""inferd beside other servers of the same ONNX file, all asked by the same load in one run.

`make compare`, which makes an environment for each of them first. The model is ResNet-20 for grey pictures of 28 x 28
pixels with random weights (`loadtests/resnets.py`): it takes so little that what a server does beside it counts. In
every round each server is started, its answers are checked, it is asked by closed loops of 1, 8, 32 and 64 clients and
by an open loop, and ended. Who is compared, and how each is set up, says `peers.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests import resnets
from loadtests.benching import hardware
from loadtests.compare.measuring import Server, inferd, measure, others
from loadtests.compare.peers import PEERS, chosen
from loadtests.compare.report import plot, report
from loadtests.compare.summary import Row, promises, row_of
from service.bench.plan import Plan
from service.bench.result import this_machine
from service.bench.samples import Figures
from service.machine import cpu_quota

MODEL = "resnet-20"
CLIENTS = (1, 8, 32, 64)
RATE = 3000.0


def main() -> int:
    """Measure, print tables and write them; 1 if inferd itself could not be measured."""
    parser = argparse.ArgumentParser(prog="loadtests.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="", help=f"of {','.join(one.name for one in PEERS)}; all if none is named")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load; default: 1.5")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds before these; default: 0.5")
    parser.add_argument("--rounds", type=int, default=3, help="so often all of it, in turns; default: 3")
    parser.add_argument("--rate", type=float, default=RATE, help="of the open loop, a second; default: 3000")
    parser.add_argument("--workers", type=int, default=cpu_quota(), help="that run the model; default: a core each")
    parser.add_argument("--output", type=Path, help="a folder: compare.json, .md and .svg are written into it")
    given = parser.parse_args()
    try:
        peers = chosen([one for one in given.peers.split(",") if one])
        plan = Plan(
            clients=CLIENTS,
            rates=[given.rate],
            seconds=given.seconds,
            warm_up_s=given.warm_up,
            rounds=given.rounds,
        )
    except ValueError as error:
        parser.error(str(error))
    machine = this_machine()
    about = {"model": f"{MODEL}, 1x28x28, float32, random weights", **machine, "commit": hardware()["commit"]}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        model = resnets.write(models, MODEL)
        servers = [inferd(models, MODEL, str(machine["inferd"]), given.workers), *others(peers, model, given.workers)]
        measure(servers, model, plan, tell)
    rows = [row_of(one) for one in servers if one.closed]
    written = report(about, plan, servers, rows)
    print(written)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        result = content(about, plan, servers, rows, given.workers)
        for name, text in (
            ("compare.json", json.dumps(result, indent=2, ensure_ascii=False)),
            ("compare.md", written),
            ("compare.svg", plot(about, plan, rows).rstrip() if rows else ""),
        ):
            (given.output / name).write_text(text + "\n", encoding="utf-8")
    return 0 if servers[0].closed else 1


def content(
    about: dict[str, Any], plan: Plan, servers: Sequence[Server], rows: Sequence[Row], workers: int
) -> dict[str, Any]:
    """All of it, ready for JSON: medians, and beside them what each round gave."""
    return {
        "machine": about,
        "plan": {
            "clients": list(plan.clients),
            "open_loop_per_s": list(plan.rates),
            "seconds": plan.seconds,
            "warm_up_s": plan.warm_up_s,
            "rounds": plan.rounds,
            "workers": workers,
        },
        "medians": [dataclasses.asdict(row) for row in rows],
        "promises": promises(rows),
        "servers": [
            {
                "title": one.title,
                "version": one.version,
                "setting": one.setting.name,
                "about": one.setting.about,
                "asked_by": one.setting.wire.about,
                "problems": one.problems,
                "closed_loops": {
                    str(clients): [_short(each) for each in rounds] for clients, rounds in one.closed.items()
                },
                "open_loop": [_short(each) for each in one.opened],
            }
            for one in servers
        ],
    }


def _short(figures: Figures) -> dict[str, Any]:
    """What is kept of a load in a round."""
    taken = figures.latency_ms
    return {
        "per_s": round(figures.per_s, 1),
        "p50_ms": round(taken.p50, 3) if taken else None,
        "p99_ms": round(taken.p99, 3) if taken else None,
        "refused": figures.refused,
        "errors": figures.errors,
        "generator_cpu": round(figures.generator_cpu, 3),
    }


def tell(text: str) -> None:
    """Say how it goes."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
