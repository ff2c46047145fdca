"""One round of a fuzzer: Hypothesis thinks of cases, they are tried, and what fails is made as small as time allows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

SHRINK_S = 20.0
"""How long a case that failed is made smaller."""

HANG_S = 30.0
"""An answer that takes longer never comes: nothing that is asked here takes a tenth of it on a slow machine."""


class Finding(Exception):
    """Something that must not be.

    Args:
        what: happened, in words.
        case: what was sent, or lay there, as bytes.
    """

    def __init__(self, what: str, case: bytes) -> None:
        super().__init__(what, case)
        self.what, self.case = what, case


@dataclass(frozen=True)
class Target:
    """What is fuzzed, and with what.

    Attributes:
        port: of HTTP on this machine.
        grpc: address of gRPC.
        bundles: folders of bundles that are valid; they may be read, not changed.
        scratch: a folder of this round alone.
        name: of the round; requests are called so, with a number.
    """

    port: int
    grpc: str
    bundles: Path
    scratch: Path
    name: str


class Fuzzer(Protocol):
    """Cases, and how one of them is tried."""

    cases: SearchStrategy[Any]
    variants: int

    def vary(self, case: Any, random: Random) -> Any:
        """Make a variant of a case: so many of each are tried too, as most of the time goes into drawing cases."""

    def attempt(self, case: Any, number: int) -> str:
        """Try a case.

        Returns:
            What came of it, in a word or a status: cases are counted by it.

        Raises:
            Finding: it must not have.
        """

    def close(self) -> None:
        """End what is open.

        Raises:
            Finding: what was left open did not end as it must.
        """


@dataclass
class Played:
    """What came of a round.

    Attributes:
        outcomes: how many cases came out how.
        findings: the smallest case of each kind that failed.
        seconds: that it took.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0


def play(make: Callable[[Target], Fuzzer], target: Target, *, seed: int, cases: int, until: float) -> Played:
    """Play a round.

    Args:
        make: makes the fuzzer.
        target: for it.
        seed: of the cases.
        cases: to try, unless time ends before.
        until: when to stop, on the clock of `time.monotonic`, which is the same in all processes of a machine.
    """
    began = time.monotonic()
    played = Played()
    fuzzer = make(target)
    failed: Finding | None = None
    number = 0

    @seeded(seed)
    @settings(
        max_examples=max(1, cases // (1 + fuzzer.variants)),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(fuzzer.cases, st.integers(0, 2**32))
    def try_one(case: Any, salt: int) -> None:
        try_case(case)
        random = Random(salt)  # noqa: S311 - cases, not secrets
        for _ in range(fuzzer.variants):
            try_case(fuzzer.vary(case, random))

    def try_case(case: Any) -> None:
        nonlocal failed, number, until
        if time.monotonic() > until:
            return
        number += 1
        try:
            outcome = fuzzer.attempt(case, number)
        except Finding as finding:
            if failed is None:
                until = time.monotonic() + SHRINK_S
            if failed is None or len(finding.case) <= len(failed.case):
                failed = finding
            raise
        if failed is None:
            played.outcomes[outcome] += 1

    try:
        try_one()
    except (Finding, Flaky):
        if failed is None:
            raise
    try:
        fuzzer.close()
    except Finding as finding:
        played.findings.append(finding)
    if failed is not None:
        played.outcomes["FOUND"] += 1
        played.findings.append(failed)
    played.seconds = time.monotonic() - began
    return played
