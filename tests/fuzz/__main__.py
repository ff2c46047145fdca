"""Fuzz a server of its own, for some time: `python -m tests.fuzz --seconds 300`.

Rounds of at most 1000 cases are played by processes beside the server, two at a time, and after each the server is
asked what it must go on answering. Schemathesis goes through the OpenAPI document meanwhile. What is found is printed,
and its smallest case is kept as a file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e.server import Server
from tests.fuzz.calls import Calls
from tests.fuzz.files import Files
from tests.fuzz.infers import Infers
from tests.fuzz.manifests import Manifests
from tests.fuzz.playing import Finding, Fuzzer, Played, Target, play
from tests.fuzz.raw_http import RawHttp
from tests.fuzz.served import BUNDLED, GoodRequests, serving
from tests.fuzz.streams import Streams
from tests.fuzz.texts import Texts

PLAYERS: Final = 2
MOST_FINDINGS: Final = 10

_OF_GRPC: Final = re.compile(
    r"^\{'message': [\"'][EWI]\d{4} |cygrpc.*(codec can't decode|Invalid encoding)|"
    "never retrieved.*UnicodeDecodeError.*/"
)
"""What gRPC itself says of frames that it can't read, and of a path that ends its server, which begins anew."""


@dataclass(frozen=True)
class Kind:
    """A fuzzer, how many cases a round of it has, and its share of the time."""

    make: Callable[[Target], Fuzzer]
    cases: int
    share: float


KINDS: Final = {
    "infer": Kind(Infers, 1000, 4),
    "http": Kind(RawHttp, 1000, 3),
    "grpc": Kind(Calls, 1000, 3),
    "files": Kind(Files, 500, 2),
    "streams": Kind(Streams, 200, 1.5),
    "texts": Kind(Texts, 100, 1.5),
    "manifests": Kind(Manifests, 1000, 2),
}


@dataclass
class Tally:
    """What all rounds of a fuzzer came to."""

    rounds: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, played: Played) -> None:
        """Count one more."""
        self.rounds += 1
        self.seconds += played.seconds
        self.outcomes += played.outcomes


class Findings:
    """What was found, kept as files and printed as it comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0

    def add(self, where: str, finding: Finding) -> None:
        """Keep one."""
        self.count += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.count}-{where}"
        path.write_bytes(finding.case)
        print(f"FOUND by {where}: {finding.what}\n  the case, {len(finding.case)} bytes, is {path}", flush=True)

    def tell(self, where: str, what: str) -> None:
        """Tell of one that has no single case."""
        self.count += 1
        print(f"FOUND during {where}: {what}", flush=True)


class Schemathesis:
    """The program, in a process of its own."""

    def __init__(self, program: Path, url: str, folder: Path, *, seconds: float, seed: int) -> None:
        config = folder / "schemathesis.toml"
        names = ", ".join(f'"{name}"' for name in (*BUNDLED, "bare", "tiny-text", "no-such"))
        config.write_text(
            "request-timeout = 30\ncontinue-on-failure = true\n"
            f'[parameters]\n"path.model" = [{names}]\n"path.version" = ["1", "1", "2", "x"]\n'
            "[checks]\nenabled = false\n[checks.not_a_server_error]\nenabled = true\n"
            'expected-statuses = ["2xx", "3xx", "4xx", 501, 504]\n',
            encoding="utf-8",
        )
        command = [program, "--no-color", "--config-file", config, "run", f"{url}/openapi.json"]
        command += ["--max-time", f"{seconds:.0f}", "--seed", str(seed), "--generation-database", "none"]
        command += ["--warnings", "off"]
        self._output = folder / "schemathesis.txt"
        self._seconds = seconds
        self._began = time.monotonic()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)

    def tally(self, findings: Findings) -> Tally:
        """Wait for its end, and read what it has to say."""
        try:
            code = self._process.wait(max(10.0, self._began + self._seconds + 150 - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.close()
            code = -1
        seconds = time.monotonic() - self._began
        told = self._output.read_text(encoding="utf-8", errors="replace")
        counted = re.search(r"Test cases:\s*(\d+) generated(?:, (\d+) passed)?", told)
        cases, passed = (int(one or 0) for one in counted.groups()) if counted else (0, 0)
        if code or not cases:
            findings.add("schemathesis", Finding(f"it ended with {code}:\n{told[-6000:]}", told.encode()))
        return Tally(1, seconds, Counter({"passed": passed, "FOUND": cases - passed}))

    def close(self) -> None:
        """End it if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Fuzzing:
    """All rounds on one server.

    Args:
        server: that is fuzzed.
        folder: for what is made on the way.
        findings: where they go.
        seed: of the first round of each fuzzer; each has the next.
    """

    def __init__(self, server: Server, folder: Path, findings: Findings, *, seed: int) -> None:
        self.tallies: dict[str, Tally] = {}
        self._server = server
        self._folder = folder
        self._findings = findings
        self._seed = seed
        self._begun: Counter[str] = Counter()
        self._names: dict[Future[Played], str] = {}
        self._good = GoodRequests(server)
        self._log_read = 0

    @property
    def cases(self) -> int:
        """How many there were."""
        return sum(tally.outcomes.total() for tally in self.tallies.values())

    def play(self, names: Sequence[str], *, seconds: float, most_cases: int, most_rounds: int) -> None:
        """Play rounds until time is up, or there were so many cases, or rounds of each."""
        until = time.monotonic() + seconds
        running: dict[Future[Played], str] = {}
        self.tallies |= {name: Tally() for name in names}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PLAYERS, context) as players:
            while True:
                enough = time.monotonic() > until or self.cases >= most_cases or self._findings.count >= MOST_FINDINGS
                wanted = [name for name in names if not enough and self._begun[name] < most_rounds]
                while wanted and len(running) < PLAYERS:
                    name = min(wanted, key=lambda one: (self._spent(one, running), self._begun[one]))
                    running[self._begin(players, name, until)] = name
                    wanted = [one for one in wanted if self._begun[one] < most_rounds]
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    if not self._end(running.pop(one), one):
                        return

    def check(self, when: str) -> None:
        """Ask the good requests, and read what the log says since the last time."""
        for wrong in self._good.ask():
            self._findings.tell(when, f"a good request is answered wrong: {wrong}")
        entries = self._server.log[self._log_read :]
        self._log_read += len(entries)
        for entry in entries:
            if entry.get("level", "error") in ("error", "critical") and not _OF_GRPC.search(str(entry)):
                told = {**entry, "exception": str(entry.get("exception", ""))[-2500:]}
                self._findings.tell(when, f"the log says {told}")

    def _spent(self, name: str, running: dict[Future[Played], str]) -> float:
        """What a fuzzer has had of the time, by its share; how much one that plays now takes is a guess."""
        planned = 3.0 * sum(one == name for one in running.values())
        return (self.tallies[name].seconds + planned) / KINDS[name].share

    def _begin(self, players: ProcessPoolExecutor, name: str, until: float) -> Future[Played]:
        seed = self._seed + self._begun[name]
        self._begun[name] += 1
        scratch = self._folder / f"{name}-{seed}"
        scratch.mkdir()
        target = Target(self._server.port, self._server.grpc, self._folder / "sources", scratch, scratch.name)
        kind = KINDS[name]
        round_ = players.submit(play, kind.make, target, seed=seed, cases=kind.cases, until=until)
        self._names[round_] = scratch.name
        return round_

    def _end(self, name: str, round_: Future[Played]) -> bool:
        """Count what came of a round; whether others can follow."""
        try:
            played = round_.result()
        except BrokenProcessPool as error:
            self._findings.tell(self._names[round_], f"the process that played it has ended: {error}")
            return False
        self.tallies[name].add(played)
        for finding in played.findings:
            self._findings.add(self._names[round_], finding)
        self.check(self._names[round_])
        return self._findings.count < MOST_FINDINGS


def table(tallies: dict[str, Tally]) -> str:
    """What came of all cases, for people and for docs/reliability.md."""
    lines = ["| Fuzzer | Cases | Cases a second | How they came out |", "|---|---:|---:|---|"]
    for name, tally in tallies.items():
        total = tally.outcomes.total()
        common = ", ".join(f"{outcome} {count:,}" for outcome, count in tally.outcomes.most_common())
        lines.append(f"| {name} | {total:,} | {total / max(tally.seconds, 1e-9):,.0f} | {common} |")
    whole = sum(tally.outcomes.total() for tally in tallies.values())
    return "\n".join((*lines, f"| all | {whole:,} | | |"))


def main() -> int:
    """Fuzz; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz a server of its own.")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long; 300 unless said otherwise")
    parser.add_argument("--cases", type=int, default=10**9, help="end after so many cases, if that is earlier")
    parser.add_argument("--rounds", type=int, default=10**9, help="end after so many rounds of each fuzzer")
    parser.add_argument("--seed", type=int, default=None, help="of the first round of each fuzzer")
    parser.add_argument("--only", default=",".join((*KINDS, "schemathesis")), help="fuzzers, separated by commas")
    parser.add_argument("--schemathesis", type=Path, default=None, help="the program; without it that part is left out")
    asked = parser.parse_args()
    names = [name for name in KINDS if name in asked.only.split(",")]
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    folder = Path(tempfile.mkdtemp(prefix="inferd-fuzz-"))
    findings = Findings(folder / "found")
    began = time.monotonic()
    print(f"seed {seed}, {os.cpu_count()} cores", flush=True)
    with serving(folder) as server:
        fuzzing = Fuzzing(server, folder, findings, seed=seed)
        fuzzing.check("the start")
        schemathesis = None
        if asked.schemathesis and "schemathesis" in asked.only:
            program = asked.schemathesis.absolute()
            schemathesis = Schemathesis(program, server.url, folder, seconds=asked.seconds, seed=seed)
        try:
            fuzzing.play(names, seconds=asked.seconds, most_cases=asked.cases, most_rounds=asked.rounds)
            if schemathesis:
                fuzzing.tallies["schemathesis"] = schemathesis.tally(findings)
        finally:
            if schemathesis:
                schemathesis.close()
        fuzzing.check("the end")
        server.terminate()
        if code := server.wait():
            findings.tell("the end", f"the server ended with {code}")
    print(f"\n{table(fuzzing.tallies)}\n\n{time.monotonic() - began:.0f} s; {findings.count or 'nothing'} found")
    if findings.count:
        print('a round again: make fuzz ARGS="--only NAME --seed SEED --rounds 1", by the name that is NAME-SEED')
    else:
        shutil.rmtree(folder)
    return 1 if findings.count else 0


if __name__ == "__main__":
    sys.exit(main())
