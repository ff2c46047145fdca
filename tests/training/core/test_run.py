from __future__ import annotations

import csv
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.core.config import ConfigModel
from training.core.run import Run, runs_dir


class Export(ConfigModel):
    name: str = "one"


class Config(ConfigModel):
    seed: int = 1
    rate: float = 0.1
    export: Export = Export()


class Part:
    """A stateful part that holds whatever it is given."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict["state"]


def test_runs_live_in_the_home_folder_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INFERD_RUNS_DIR", "~/elsewhere")
    assert runs_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("INFERD_RUNS_DIR")
    assert runs_dir() == tmp_path / ".cache" / "inferd" / "runs"


def test_a_run_of_the_same_configuration_is_gone_on_with(tmp_path: Path) -> None:
    Run(tmp_path / "run", Config(rate=0.1 + 0.2)).checkpoint({"part": Part(5)}, 7)
    part = Part(0)
    assert Run(tmp_path / "run", Config(rate=0.1 + 0.2)).restore({"part": part}) == 7
    assert part.state == 5


def test_a_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    Run(tmp_path / "run", Config())
    with pytest.raises(ValueError, match="run holds a run of another configuration"):
        Run(tmp_path / "run", Config(seed=2))


def test_a_table_that_does_not_change_the_run_may_differ(tmp_path: Path) -> None:
    Run(tmp_path / "run", Config(), ignore={"export"})
    Run(tmp_path / "run", Config(export=Export(name="another")), ignore={"export"})
    with pytest.raises(ValueError, match="another configuration"):
        Run(tmp_path / "run", Config(seed=2), ignore={"export"})


def test_a_new_run_starts_at_step_0_and_leaves_its_parts_alone(tmp_path: Path) -> None:
    part = Part("as it was")
    assert Run(tmp_path / "run", Config()).restore({"part": part}) == 0
    assert part.state == "as it was"


def test_a_checkpoint_brings_back_history_and_randomness(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    run.record({"epoch": 1.0, "accuracy": 0.5}, "accuracy")
    run.checkpoint({}, 3)
    expected = torch.rand(3)
    torch.rand(100)
    again = Run(tmp_path / "run", Config())
    again.restore({})
    assert torch.equal(torch.rand(3), expected)
    assert again.history == [{"epoch": 1.0, "accuracy": 0.5}]


def test_a_checkpoint_that_fails_half_way_leaves_the_one_before(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    run.checkpoint({"part": Part(torch.ones(1000))}, 1)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        run.checkpoint({"part": Part([torch.zeros(1000), lambda: None])}, 2)
    part = Part(None)
    assert Run(tmp_path / "run", Config()).restore({"part": part}) == 1
    assert torch.equal(part.state, torch.ones(1000))


def test_a_checkpoint_that_was_cut_off_is_never_read(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    run.checkpoint({"part": Part(1)}, 1)
    (run.folder / "checkpoint.pt.partial").write_bytes((run.folder / "checkpoint.pt").read_bytes()[:50])
    assert run.restore({"part": Part(0)}) == 1
    run.checkpoint({"part": Part(2)}, 2)
    assert run.restore({"part": Part(0)}) == 2


def test_a_checkpoint_runs_no_code_when_it_is_read(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    run.checkpoint({"part": Part(random.Random(1))}, 1)  # noqa: S311 - any object that only pickle can make
    with pytest.raises(pickle.UnpicklingError):
        run.restore({"part": Part(0)})


def test_only_a_larger_measure_than_ever_is_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    measures = [0.5, 0.4, 0.6, 0.6, 0.59, 0.61]
    best = [run.record({"epoch": float(epoch), "score": score}, "score") for epoch, score in enumerate(measures)]
    assert best == [True, False, True, False, False, True]


def test_the_history_file_holds_every_epoch_to_the_last_digit(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    rows = [{"epoch": 1.0, "loss": 1 / 3, "score": 0.1 + 0.2}, {"epoch": 2.0, "loss": 1e-17, "score": 2 / 3}]
    for row in rows:
        run.record(row, "score")
    assert run.read_history() == rows
    with (run.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
        assert next(csv.reader(stream)) == ["epoch", "loss", "score"]


def test_a_history_that_fails_half_way_leaves_the_one_before(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    run.record({"epoch": 1.0, "score": 0.5}, "score")
    run.history.append({"epoch": 2.0, "score": 0.4, "no such column": 1.0})
    with pytest.raises(ValueError, match="no such column"):
        run.record({"epoch": 3.0, "score": 0.6}, "score")
    assert run.read_history() == [{"epoch": 1.0, "score": 0.5}]


def test_the_best_weights_come_back_as_they_were(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Config())
    kept, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
    run.save_best(kept)
    run.load_best(loaded)
    assert torch.equal(kept.weight, loaded.weight)
    assert torch.equal(kept.bias, loaded.bias)


def test_a_run_without_a_finished_epoch_has_no_best_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"best\.pt"):
        Run(tmp_path / "run", Config()).load_best(nn.Linear(1, 1))
