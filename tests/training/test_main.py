from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from training.__main__ import TASKS, main

ROOT = Path(__file__).parents[2]


def _call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    main()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "required: task, step"),
        (("image_classification",), "required: step"),
        (("image_classification", "trane"), "invalid choice: 'trane'"),
        (("weather", "train"), "invalid choice: 'weather'"),
    ],
    ids=["nothing", "no step", "no such step", "no such task"],
)
def test_a_command_that_is_none_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SystemExit) as end:
        _call(monkeypatch, *arguments)
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_task_is_known_by_its_folder() -> None:
    folders = {path.parent.name for path in (ROOT / "training").glob("*/config.toml")}
    assert set(TASKS) == folders


def test_a_step_that_a_task_does_not_have_yet_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.__main__.TASKS", ("core",))
    with pytest.raises(SystemExit):
        _call(monkeypatch, "core", "train")
    assert "core can't train yet" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["train", "evaluate", "export"])
def test_each_step_reads_the_configuration_of_its_task_and_refuses_a_key_that_is_none(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with pytest.raises(ValidationError, match=r"fit\.epocs"):
        _call(monkeypatch, "image_classification", step, "--set", "fit.epocs=3")


def test_evaluating_before_training_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"image_classification/never .*train first"):
        _call(monkeypatch, "image_classification", "evaluate", "--run", "never")
