from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from service.bench.limit import Limit
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.bundles import HEIGHT, WIDTH, edit, make_bundle

SETTINGS = Settings(device="cpu")


def folder(models: Path) -> BundleFolder:
    return BundleFolder("tiny", 1, models / "tiny" / "1")


def test_one_process_or_several_at_once_run_the_graph(models: Path) -> None:
    make_bundle(models)
    with Limit(folder(models), SETTINGS, 2) as limit:
        assert limit.ready.shapes == {"image": [1, HEIGHT, WIDTH]}
        alone = limit.measure(1, 1, 0.02)
        together = limit.measure(2, 8, 0.02)
        processes = [one._process for one in limit._processes]
    assert (alone.processes, alone.batch_size) == (1, 1)
    assert alone.units_per_s == pytest.approx(1000 / alone.run_ms)
    assert (together.processes, together.batch_size) == (2, 8)
    # Of two numbers, the mean of their inverses is at least the inverse of their mean.
    assert together.units_per_s >= 2 * 8 * 1000 / together.run_ms * (1 - 1e-9)
    assert [one.returncode for one in processes] == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the threads of a process in /proc")
def test_a_process_may_have_several_threads(models: Path) -> None:
    make_bundle(models)
    counts = []
    for threads in (1, 2, 4):
        with Limit(folder(models), SETTINGS, 1, threads) as limit:
            limit.measure(1, 1, 0.01)
            counts.append(len(list(Path(f"/proc/{limit._processes[0]._process.pid}/task").iterdir())))
    assert [count - counts[0] for count in counts] == [0, 1, 3]


def test_a_model_that_is_refused_has_no_limit_and_leaves_no_process(models: Path) -> None:
    edit(make_bundle(models), "surprise", to=1)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        Limit(folder(models), SETTINGS, 2)


def test_a_process_that_dies_is_an_error(models: Path) -> None:
    make_bundle(models)
    with Limit(folder(models), SETTINGS, 1) as limit:
        (bare,) = limit._processes
        os.kill(bare._process.pid, signal.SIGKILL)
        bare._process.wait()
        with pytest.raises(ValueError, match="has ended"):
            limit.measure(1, 1, 0.01)
