"""Whether a server stays as it was while everybody asks it for everything: `make soak`.

A server of two workers has every bundled model, and a copy of each in two versions. For twenty minutes clients ask all
of them, in all dialects; some go away in the middle, some ask what is refused, and meanwhile the copies are changed:
another version, the same one loaded anew from a folder that was touched, unloaded and loaded again. Every answer is
compared with the one that was given alone, before. Twice, after a warm-up and at the end, all clients hang up for a
moment, so that what is open then can be counted.

Fails where an answer is wrong or lost, a line of the log is an error, a worker was replaced, more files are open at the
end, or the memory of the processes that serve rises in the second half or lies higher at the end than after the
warm-up. It is looked at while nothing is being loaded; processes that try a bundle, and are gone in a second, are not
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benching import ROOT, hardware
from exchanges import Known, Line, classifications, drawings, texts, translations, wrong
from processes import children_of, held, serving

from service.bench.own_server import own_server
from service.settings import Settings

MAKERS = {
    "fashion-classifier": classifications,
    "shakespeare": texts,
    "en-de": translations,
    "fashion-gan": drawings,
}
CLIENTS = 8
MOST_MB_A_MINUTE = 1.0
MOST_GROWTH = 1.05
_COPY = "copy-of-"
_KEY = "of-the-soak"
_PAUSE_S, _LOOK_EVERY_S, _SETTLE_S, _LET_GO_S = 0.02, 1.0, 4.0, 1.5
_AWAY_STATUSES = (404, 503)
_SHOWN = 20


@dataclass
class Copies:
    """The copies that are changed meanwhile.

    Attributes:
        folder: of the models.
        port: of the server.
        every_s: how long after a change the next one is made; 0 = there are none.
        away: how often each was unloaded; who asked it meanwhile may be told so.
        gone: those that are unloaded now.
        changes: that were made, by kind.
        serving: which version of each serves.
        quiet_from: when nothing is being changed or let go any more.
    """

    folder: Path
    port: int
    every_s: float
    away: Counter[str] = field(default_factory=Counter)
    gone: set[str] = field(default_factory=set)
    changes: Counter[str] = field(default_factory=Counter)
    serving: dict[str, int] = field(default_factory=lambda: {_COPY + name: 2 for name in MAKERS})
    quiet_from: float = 0.0

    async def begin(self) -> None:
        """Have each of them serve one version."""
        for name in self.serving:
            await self._load(name)

    async def change(self, chance: random.Random) -> None:
        """Change one of them, whichever; it serves one version before and after, so that memory can be compared."""
        self.quiet_from = math.inf
        name = _COPY + chance.choice(list(MAKERS))
        kind = chance.choice(("versions", "touched", "unloaded"))
        if kind == "touched":
            for file in self.folder.glob(f"{name}/*/manifest.json"):
                os.utime(file)
        if kind == "unloaded":
            self.away[name] += 1
            self.gone.add(name)
            await self._call(f"{name}/unload")
            await asyncio.sleep(chance.random())
        self.serving[name] = 3 - self.serving[name] if kind == "versions" else self.serving[name]
        await self._load(name)
        self.gone.discard(name)
        self.changes[kind] += 1
        self.quiet_from = time.monotonic() + _LET_GO_S

    async def _load(self, name: str) -> None:
        await self._call(f"{name}/load", {"version_policy": {"specific": {"versions": [self.serving[name]]}}})

    async def _call(self, path: str, config: object = None) -> None:
        body = {"parameters": {"config": json.dumps(config)}} if config else {}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v2/repository/models/{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {_KEY}"},
        )
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=120).close())


@dataclass
class Soak:
    """Clients, what they know, and what became of what they asked.

    Attributes:
        outcomes: how often each kind of request was answered, refused for a time, left or told that its model is away.
        problems: answers that were wrong or lost, the first of them in words.
    """

    port: int
    copies: Copies
    known: Sequence[tuple[Known, object]]
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)

    async def client(self, chance: random.Random, until: float) -> None:
        """Ask one thing after the other."""
        line = Line(self.port)
        while time.monotonic() < until:
            asked, meaning = chance.choice(self.known)
            dice = chance.random()
            if dice < 0.1:
                await self._leave(line, asked, chance)
            else:
                await self._ask(line, asked, meaning)
            if dice > 0.98:
                line.close()
            await asyncio.sleep(chance.random() * 2 * _PAUSE_S)
        line.close()

    async def _ask(self, line: Line, asked: Known, meaning: object) -> None:
        away = self.copies.away[asked.model]
        maybe_gone = asked.model in self.copies.gone
        try:
            answer = await asyncio.wait_for(line.ask(asked.content), 60)
            status, _ = found = answer.meaning
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            line.close()
            self._tell("lost", f"{asked.name} of {asked.model}: {error!r}")
            return
        maybe_gone = maybe_gone or asked.model in self.copies.gone or self.copies.away[asked.model] != away
        if found == meaning:
            self.outcomes["refused, as it must be" if asked.wrong else "answered"] += 1
        elif maybe_gone and status in _AWAY_STATUSES:
            self.outcomes["told that the model is unloaded"] += 1
        elif status == 429:
            self.outcomes["told to come again (429)"] += 1
        else:
            self._tell("wrong", f"{asked.name} of {asked.model}: {str(found)[:300]}, not {str(meaning)[:300]}")

    async def _leave(self, line: Line, asked: Known, chance: random.Random) -> None:
        try:
            await line.leave(asked.content, chance)
        except OSError as error:
            line.close()
            self._tell("lost", f"{asked.name} of {asked.model}, to be left: {error!r}")
        else:
            self.outcomes["left in the middle"] += 1

    def _tell(self, kind: str, what: str) -> None:
        self.problems[kind] += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{kind}: {what}")
            print(self.shown[-1], file=sys.stderr, flush=True)


def everything() -> list[Known]:
    """All that is asked: of the models, of their copies, and what is wrong."""
    good = [one for name, make in MAKERS.items() for model in (name, _COPY + name) for one in make(model)]
    return good + wrong()


async def learn(port: int, kinds: Collection[str] | None) -> list[tuple[Known, object]]:
    """Ask everything, or what is of some kinds, alone, twice: who answers differently then can't be compared.

    Raises:
        RuntimeError: a good request is refused, a wrong one is not, or the second answer is another.
    """
    line, found = Line(port), []
    for asked in everything():
        if kinds and asked.name not in kinds:
            continue
        first, second = [(await line.ask(asked.content)).meaning for _ in range(2)]
        if first != second or (first[0] == 200) == asked.wrong or first[0] >= 500:
            raise RuntimeError(f"{asked.name} of {asked.model}: {first}, then {second}")
        found.append((asked, first))
    line.close()
    return found


async def phase(soak: Soak, pids: set[int], seconds: float, seed: int) -> list[tuple[float, float]]:
    """Have all clients ask for so long, and look at the server's memory: seconds, MB."""
    began = time.monotonic()
    until = began + seconds
    looked: list[tuple[float, float]] = []

    async def change() -> None:
        chance = random.Random(f"{seed} changes")
        while soak.copies.every_s and time.monotonic() < until - 10:
            await soak.copies.change(chance)
            await asyncio.sleep(soak.copies.every_s)

    async def look() -> None:
        while time.monotonic() < until:
            if (now := time.monotonic()) > soak.copies.quiet_from:
                looked.append((now - began, held(pids)[0]))
            await asyncio.sleep(_LOOK_EVERY_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(change())
        tasks.create_task(look())
        for number in range(CLIENTS):
            tasks.create_task(soak.client(random.Random(f"{seed} {number}"), until))
    return looked


def judge(looked: Sequence[tuple[float, float]]) -> dict[str, float]:
    """How memory went: MB a minute in the second half, and its level at the end by that at the beginning."""
    half = looked[len(looked) // 2 :]
    slope, _ = np.polyfit([at / 60 for at, _ in half], [mb for _, mb in half], 1)
    part = max(1, len(looked) // 10)
    first, last = (statistics.median(mb for _, mb in some) for some in (looked[:part], looked[-part:]))
    return {"mb_a_minute": float(slope), "mb_after_warm_up": first, "mb_at_the_end": last, "growth": last / first}


async def measure(
    copies: Copies, server: int, minutes: float, seed: int, kinds: Collection[str] | None
) -> dict[str, Any]:
    """Do it all."""
    port = copies.port
    soak = Soak(port, copies, await learn(port, kinds))
    await copies.begin()
    pids = serving(server)
    warm_up_s = min(120.0, 15 * minutes)
    await phase(soak, pids, warm_up_s, seed)
    await asyncio.sleep(_SETTLE_S)
    before = held(pids)
    looked = await phase(soak, pids, 60 * minutes, seed + 1)
    await asyncio.sleep(_SETTLE_S)
    after = held(pids)
    memory = judge(looked)
    return {
        "minutes": minutes,
        "warm_up_s": warm_up_s,
        "outcomes": soak.outcomes,
        "changes": soak.copies.changes,
        "problems": soak.problems,
        "shown": soak.shown,
        "memory": memory,
        "at_rest": {
            name: {"after_warm_up": then, "at_the_end": now}
            for name, then, now in zip(("mb", "files", "threads"), before, after, strict=True)
        },
        "same_processes": pids == serving(server),
        "samples_mb": [[round(at), round(mb, 1)] for at, mb in looked],
    }


def kept(result: dict[str, Any]) -> bool:
    """Whether nothing of what is promised is broken."""
    memory, files = result["memory"], result["at_rest"]["files"]
    return (
        not result["problems"]
        and not result["errors_in_the_log"]
        and result["same_processes"]
        and memory["mb_a_minute"] < MOST_MB_A_MINUTE
        and memory["growth"] < MOST_GROWTH
        and files["at_the_end"] <= files["after_warm_up"]
    )


def main() -> int:
    """Measure, print and write what was found; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="beside a warm-up of up to two")
    parser.add_argument("--seed", type=int, default=1, help="of what is asked, left and changed, and when")
    parser.add_argument(
        "--changes-every", type=float, default=3.0, help="seconds between two changes of models; 0 = there are none"
    )
    parser.add_argument("--kinds", nargs="*", help="what is asked; default: everything")
    parser.add_argument("--output", type=Path, help="a folder: soak.json is written into it")
    given = parser.parse_args()
    os.environ["INFERD_ADMIN_KEY"] = _KEY
    errors: list[str] = []

    def hear(line: str) -> None:
        if not line.startswith("{") or json.loads(line)["level"] not in ("debug", "info", "warning"):
            errors.append(line.rstrip()[:1000])
            print(errors[-1], file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder) / "models"
        for name in MAKERS:
            shutil.copytree(ROOT / "models" / name, copies / name)
            newest = max((copies / name).iterdir(), key=lambda one: int(one.name))
            for version in ("1", "2"):
                shutil.copytree(newest, copies / f"{_COPY}{name}" / version)
        before_us = children_of(os.getpid())
        with own_server(Settings(models=copies, workers=2, threads=1), hear=hear) as address:
            (server,) = children_of(os.getpid()) - before_us
            changed = Copies(copies, address.port, given.changes_every)
            result = asyncio.run(measure(changed, server, given.minutes, given.seed, given.kinds))
    result = {"machine": hardware(), **result, "errors_in_the_log": errors}
    result["kept"] = kept(result)
    print(json.dumps({name: value for name, value in result.items() if name != "samples_mb"}, indent=2))
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "soak.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    return 0 if result["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
