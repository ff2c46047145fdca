"""A small model of a made-up text, trained and exported once for the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from training.core.config import read_config
from training.core.run import Run
from training.text_generation.export import export
from training.text_generation.train import Config, train

CONFIG = """
seed = 4

[data]
source = "file"
path = {path}
name = "A rhyme"
licence = "CC0-1.0"

[model]
layers = 2
hidden = 32
embedding = 8
input_dropout = 0.05
layer_dropout = 0.05
output_dropout = 0.05
recurrent_dropout = 0.05

[fit]
epochs = 5
learning_rate = 0.02
warmup_epochs = 0.5
optimiser = "adamw"
weight_decay = 0.01
ema_decay = 0.9
clip_norm = 1.0
precision = "float32"

[train]
streams = 6
steps = 24
reset_probability = 0.1

[export]
models = {models}
name = "rhyme"
version = 3
title = "A rhyme"
description = "Says a rhyme."
"""

RHYME = "One, two, buckle my shoe;\nthree, four, knock at the door;\nfive, six, pick up sticks.\n"


@dataclass(frozen=True)
class Project:
    """Where a user keeps things: a configuration, a text, runs and models."""

    config_file: Path
    text: Path
    runs: Path
    models: Path

    def config(self, *overrides: str) -> Config:
        """The configuration with some values changed."""
        return read_config(Config, self.config_file, overrides)

    def folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.runs / "text_generation" / run

    def run(self, name: str = "first") -> Run:
        """A run that is there."""
        return Run(self.folder(name), self.config(), ignore={"export"})

    @property
    def bundle(self) -> Path:
        """The bundle that is exported."""
        return self.models / "rhyme" / "3"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    text, models, file = root / "rhyme.txt", root / "models", root / "config.toml"
    text.write_text(RHYME * 50, encoding="utf-8")
    file.write_text(CONFIG.format(path=json.dumps(str(text)), models=json.dumps(str(models))), encoding="utf-8")
    return Project(file, text, root / "runs", models)


@pytest.fixture(scope="session")
def trained(project: Project) -> Project:
    """With a finished run called `first`."""
    torch.set_num_threads(1)
    train(project.config(), project.folder("first"))
    return project


@pytest.fixture(scope="session")
def exported(trained: Project) -> Project:
    """With its bundle."""
    export(trained.config(), trained.folder("first"))
    return trained
