from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import RuntimeFailure
from service.runtime.runs import Running, Runs, make_runs, open_runs, take_running
from service.runtime.session import OnnxSession
from tests.bundles import identity_graph
from tests.hostile_graphs import endless


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = make_runs(2)
    yield made
    os.close(made)


def test_what_runs_is_told_to_whoever_sees_the_memory(descriptor: int) -> None:
    clock = Clock()
    memory = open_runs(descriptor)
    first, second = (Runs(longest_s=60.0, memory=open_runs(descriptor), own=own, clock=clock) for own in (0, 1))
    one, other = first.of("a", 1), second.of("x" * 64, 999_999_999)
    begun = one.begin()
    clock.now = 101.0
    one.begin()
    other.begin()
    one.end(begun)
    assert take_running(memory, 1) == [Running(101.0, "x" * 64, 999_999_999)]
    assert take_running(memory, 0) == [Running(101.0, "a", 1)]
    assert take_running(memory, 0) == []
    first.close()
    second.close()


def test_whoever_died_at_a_run_leaves_others_alone(descriptor: int) -> None:
    clock = Clock()
    first, second = (Runs(longest_s=60.0, memory=open_runs(descriptor), own=own, clock=clock) for own in (0, 1))
    first.of("a", 1).begin()
    assert not second.are_none()
    take_running(open_runs(descriptor), 0)
    clock.now += 1.0
    assert second.are_none()
    first.close()
    second.close()


def test_the_longest_comes_first(descriptor: int) -> None:
    clock = Clock()
    runs = Runs(longest_s=60.0, memory=open_runs(descriptor), clock=clock)
    for name in ("c", "a", "b"):
        runs.of(name, 1).begin()
        clock.now += 1
    assert [one.name for one in take_running(open_runs(descriptor), 0)] == ["c", "a", "b"]
    runs.close()


def test_loading_is_told_too_and_is_never_overdue(descriptor: int) -> None:
    clock = Clock()
    runs = Runs(longest_s=1.0, memory=open_runs(descriptor), clock=clock)
    with runs.of("a", 1).loading():
        clock.now += 100
        runs.end_overdue()
        assert take_running(open_runs(descriptor), 0) == [Running(100.0, "a", 1)]
    assert take_running(open_runs(descriptor), 0) == []
    runs.close()


def test_more_runs_than_there_is_room_for_are_runs_all_the_same(descriptor: int) -> None:
    runs = Runs(longest_s=60.0, memory=open_runs(descriptor))
    mine = runs.of("a", 1)
    begun = [mine.begin() for _ in range(100)]
    assert len(take_running(open_runs(descriptor), 0)) == 64
    assert take_running(open_runs(descriptor), 1) == []
    for run in begun:
        mine.end(run)
    runs.close()


def test_a_run_is_overdue_only_after_its_time_and_its_room_is_used_again() -> None:
    clock = Clock()
    runs = Runs(longest_s=5.0, clock=clock)
    mine = runs.of("a", 1)
    run = mine.begin()
    clock.now += 5.0
    runs.end_overdue()
    assert not run.overdue
    clock.now += 0.1
    runs.end_overdue()
    assert run.overdue
    assert run.options.terminate
    mine.end(run)
    following = mine.begin()
    assert following is not run
    assert not following.options.terminate
    mine.end(following)
    assert mine.begin() is following
    runs.close()


def session_of(folder: Path, content: bytes, runs: Runs) -> OnnxSession:
    (folder / "model.onnx").write_bytes(content)
    providers = ("CPUExecutionProvider",)
    return OnnxSession(folder, "model.onnx", providers=providers, threads=1, runs=runs.of("m", 1))


def test_a_run_without_end_is_ended_and_the_next_one_is_not(tmp_path: Path) -> None:
    runs = Runs(longest_s=0.5)
    session = session_of(tmp_path, endless().SerializeToString(), runs)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match=r"model\.onnx: the run was ended after 0\.5 s, which is the limit"):
            session.run({"x": np.full((1, 3), 2, np.float32)})
        assert session.run({"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[0, 0, 0]]
    runs.close()


def test_runs_beside_one_that_is_ended_go_on(tmp_path: Path) -> None:
    runs = Runs(longest_s=1.0)
    session = session_of(tmp_path, endless().SerializeToString(), runs)
    failed = []

    def run_for_ever() -> None:
        with pytest.raises(RuntimeFailure):
            session.run({"x": np.full((1, 3), 2, np.float32)})
        failed.append(True)

    thread = threading.Thread(target=run_for_ever)
    thread.start()
    while not failed:
        assert session.run({"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[0, 0, 0]]
        time.sleep(0.001)  # a native run tells nobody that it is about to be ended
    thread.join()
    runs.close()


def test_telling_a_run_costs_next_to_nothing() -> None:
    """A few hundred nanoseconds; the bound is a hundred times as much, as machines may be busy."""
    runs = Runs(longest_s=60.0)
    mine = runs.of("a", 1)
    best = 1.0
    for _ in range(50):
        before = time.perf_counter()
        for _ in range(100):
            mine.end(mine.begin())
        best = min(best, (time.perf_counter() - before) / 100)
    assert best < 50e-6
    runs.close()


def test_a_session_without_runs_runs_as_ever(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(identity_graph().SerializeToString())
    session = OnnxSession(tmp_path, "model.onnx", providers=("CPUExecutionProvider",), threads=1)
    assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[1, 1, 1]]
