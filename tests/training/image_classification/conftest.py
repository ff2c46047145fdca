"""A classifier that is trained and exported for the tests, by the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.training.image_classification.pictures import write_folder
from training.core.config import read_config
from training.image_classification.train import Config

ROOT = Path(__file__).parents[3]

CONFIG = """
seed = 4

[data]
source = "folder"
path = {path}
name = "Three colours"
licence = "CC0-1.0"
validation = 0.2
width = 16
height = 16

[model]
depth = 20
initial_weights = "random"

[augment]
erase_probability = 0.25

[fit]
epochs = 3
learning_rate = 0.02
ema_decay = 0.5
precision = "float32"
checkpoint_minutes = 0

[train]
batch_size = 8

[export]
models = {models}
name = "colours"
version = 3
title = "Colour classifier"
description = "Tells three colours apart."
"""


@dataclass(frozen=True)
class Project:
    """Where a user keeps things.

    Attributes:
        config_file: of the runs.
        pictures: the data set.
        runs: as `INFERD_RUNS_DIR` says.
        models: the folder of all models.
    """

    config_file: Path
    pictures: Path
    runs: Path
    models: Path

    def config(self, *overrides: str) -> Config:
        """The configuration with some values changed."""
        return read_config(Config, self.config_file, overrides)

    def folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.runs / "image_classification" / run

    def command(self, step: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m training image_classification STEP`, and expect it to succeed."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith("INFERD_")}
        done = subprocess.run(
            [sys.executable, "-m", "training", "image_classification", step, "--config", str(self.config_file), *more],
            cwd=ROOT,
            env={**outside, "INFERD_RUNS_DIR": str(self.runs), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done


@dataclass(frozen=True)
class Trained:
    """A finished run, and what its command said."""

    project: Project
    folder: Path
    said: str


@dataclass(frozen=True)
class Exported:
    """A bundle, and what its command said."""

    project: Project
    bundle: Path
    said: str


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    pictures, models = write_folder(root / "pictures", train=24, test=8), root / "models"
    # One label of the test part is wrong, so that a good classifier gets 23 of 24.
    (pictures / "test" / "red" / "000.png").rename(pictures / "test" / "blue" / "wrong.png")
    file = root / "config.toml"
    file.write_text(CONFIG.format(path=json.dumps(str(pictures)), models=json.dumps(str(models))), encoding="utf-8")
    return Project(file, pictures, root / "runs", models)


@pytest.fixture(scope="session")
def trained(project: Project) -> Trained:
    done = project.command("train", "--run", "first")
    return Trained(project, project.folder("first"), done.stderr)


@pytest.fixture(scope="session")
def exported(trained: Trained) -> Exported:
    done = trained.project.command("export", "--run", "first", "--set", "export.description=Told apart by colour.")
    return Exported(trained.project, trained.project.models / "colours" / "3", done.stderr)
