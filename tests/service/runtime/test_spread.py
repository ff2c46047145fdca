from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.runtime.runs import Runs, make_runs, open_runs
from service.runtime.session import OnnxSession
from service.runtime.spread import Sooner, SpreadSession, answer_alike
from service.tensors import Arrays
from tests.bundles import HEIGHT, WIDTH, make_bundle


def ways(sooner: Sooner, count: int, *seconds: float) -> list[int]:
    """Take so many, each as long as its way takes."""
    taken = []
    for _ in range(count):
        taken.append(way := sooner.pick())
        sooner.took(way, seconds[way])
    return taken


@pytest.mark.parametrize("better", [0, 1])
def test_the_sooner_way_is_taken_and_the_other_now_and_then(better: int) -> None:
    sooner = Sooner()
    seconds = (0.2, 0.3) if better == 0 else (0.3, 0.2)
    assert sorted(ways(sooner, 8, *seconds)) == [0] * 4 + [1] * 4
    assert ways(sooner, 320, *seconds).count(1 - better) == 10


def test_what_changes_is_noticed() -> None:
    sooner = Sooner()
    ways(sooner, 50, 0.6, 0.4)
    ways(sooner, 50, 0.6, 5.0)  # somebody else has taken the other cores
    assert ways(sooner, 64, 0.6, 5.0).count(0) == 62
    ways(sooner, 800, 0.6, 0.4)
    assert ways(sooner, 64, 0.6, 0.4).count(1) == 62


def test_one_slow_moment_changes_nothing() -> None:
    sooner = Sooner()
    ways(sooner, 50, 0.6, 0.4)
    sooner.took(1, 10.0)
    assert ways(sooner, 8, 0.6, 0.4).count(1) >= 7


class Told:
    """A session that says it was asked, and takes its time by a clock that nobody waits for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rows: list[int] = []

    def run(self, inputs: Arrays) -> Arrays:
        self.rows.append(len(inputs["x"]))
        clock.now += self.seconds
        return inputs


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


clock = Clock()


@pytest.fixture
def workers() -> Iterator[list[Runs]]:
    """The runs of two workers."""
    descriptor = make_runs(2)
    made = [Runs(longest_s=60.0, memory=open_runs(descriptor), own=own, clock=clock) for own in (0, 1)]
    os.close(descriptor)
    clock.now += 1.0
    yield made
    for one in made:
        one.close()


def spread_of(runs: Runs, narrow: Told, wide: Told) -> SpreadSession:
    return SpreadSession(
        narrow,  # type: ignore[arg-type] # as much of a session as is asked
        wide,  # type: ignore[arg-type]
        runs.of("x", 1),
        rows_of=lambda inputs: len(inputs["x"]),
        clock=clock,
    )


def test_who_runs_beside_others_or_did_a_moment_ago_has_one_core(workers: list[Runs]) -> None:
    narrow, wide = Told(0.001), Told(0.0005)
    spread = spread_of(workers[0], narrow, wide)
    inputs = {"x": np.zeros((1, 2), np.float32)}
    for _ in range(8):
        spread.run(inputs)
    assert len(wide.rows) == 4

    other = workers[1].of("y", 1)
    begun = other.begin()
    spread.run(inputs)
    other.end(begun)
    spread.run(inputs)
    clock.now += 0.04
    spread.run(inputs)
    assert (len(narrow.rows), len(wide.rows)) == (7, 4)
    clock.now += 0.02
    spread.run(inputs)
    assert (len(narrow.rows), len(wide.rows)) == (7, 5)


def test_another_model_of_the_same_worker_is_somebody_else_too(workers: list[Runs]) -> None:
    narrow, wide = Told(0.001), Told(0.0005)
    spread = spread_of(workers[0], narrow, wide)
    workers[0].of("y", 1).begin()
    for _ in range(20):
        spread.run({"x": np.zeros((1, 2), np.float32)})
    assert wide.rows == []


def test_it_is_learned_for_each_number_of_rows(workers: list[Runs]) -> None:
    class ByRows(Told):
        def run(self, inputs: Arrays) -> Arrays:
            self.seconds = 0.002 if len(inputs["x"]) == 1 else 0.0005
            return super().run(inputs)

    narrow, wide = Told(0.001), ByRows(0.0)
    spread = spread_of(workers[0], narrow, wide)
    for _ in range(80):
        for rows in (1, 8):
            spread.run({"x": np.zeros((rows, 2), np.float32)})
    assert wide.rows.count(1) == 4 + 2
    assert narrow.rows.count(8) == 4 + 2


def test_it_is_seen_whether_answers_are_the_same(models: Path) -> None:
    folder = make_bundle(models)
    example = {"image": np.full((3, 1, HEIGHT, WIDTH), 0.5, np.float32)}
    narrow, wide = (
        OnnxSession(folder, "model.onnx", providers=["CPUExecutionProvider"], threads=threads, spins=threads > 1)
        for threads in (1, 4)
    )

    class Rounding:
        def run(self, inputs: Arrays) -> Arrays:
            return {name: np.nextafter(array, np.float32(9)) for name, array in narrow.run(inputs).items()}

    assert answer_alike(narrow, wide, example)
    assert not answer_alike(narrow, Rounding(), example)  # type: ignore[arg-type] # as much of a session as is asked
