"""A small translator of made-up sentences, trained and exported once for the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch

from training.core.config import read_config
from training.core.run import Run
from training.translation.export import export
from training.translation.train import NOT_OF_THE_RUN, Config, train

CONFIG = """
seed = 3

[data]
source = "tsv"
path = {path}
name = "Who sees what"
licence = "CC0-1.0"

[tokens]
vocabulary = 400
min_character_count = 3

[model]
embedding = 32
encoder_layers = 1
encoder_hidden = 24
decoder_layers = 2
decoder_hidden = 48
embedding_dropout = 0.05
layer_dropout = 0.05
output_dropout = 0.05
recurrent_dropout = 0.05

[fit]
epochs = 5
learning_rate = 0.015
warmup_epochs = 0.5
optimiser = "adamw"
weight_decay = 0.01
ema_decay = 0.9
clip_norm = 1.0
precision = "float32"

[train]
batch_tokens = 400
longest = 20
label_smoothing = 0.05

[search]
beam = 3
length_penalty = 1.0

[export]
models = {models}
name = "who-sees-what"
version = 2
title = "Who sees what"
description = "Says in German who sees what."
source = "en"
target = "de"
variants = ["fp32", "int8"]
max_bleu_loss = 20.0
length_penalties = [0.0, 1.0]
sizes = [8, 16, 32]
"""

_NAMES = ("Tom", "Anna", "Max", "Lena", "Paul", "Eva", "Ben", "Mia")
_VERBS = {"sees": "sieht", "buys": "kauft", "paints": "malt", "finds": "findet", "likes": "mag"}
_ARTICLES = {"the": "den", "a": "einen", "no": "keinen"}
_NOUNS = {"dog": "Hund", "ball": "Ball", "hat": "Hut", "tree": "Baum", "table": "Tisch", "apple": "Apfel"}


def sentences() -> list[tuple[str, str]]:
    """Some hundred pairs; those with `likes` have a second translation."""
    pairs = []
    for name, verb, article, noun in product(_NAMES, _VERBS, _ARTICLES, _NOUNS):
        source, rest = f"{name} {verb} {article} {noun}.", f"{_ARTICLES[article]} {_NOUNS[noun]}"
        pairs.append((source, f"{name} {_VERBS[verb]} {rest}."))
        if verb == "likes":
            pairs.append((source, f"{name} mag gern {rest}."))
    return pairs


@dataclass(frozen=True)
class Project:
    """Where a user keeps things: a configuration, pairs, runs and models."""

    config_file: Path
    runs: Path
    models: Path

    def config(self, *overrides: str) -> Config:
        """The configuration with some values changed."""
        return read_config(Config, self.config_file, overrides)

    def folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.runs / "translation" / run

    def run(self, name: str = "first") -> Run:
        """A run that is there."""
        return Run(self.folder(name), self.config(), ignore=NOT_OF_THE_RUN)

    @property
    def bundle(self) -> Path:
        """The bundle that is exported."""
        return self.models / "who-sees-what" / "2"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    pairs, models, file = root / "pairs.tsv", root / "models", root / "config.toml"
    pairs.write_text("".join(f"{source}\t{target}\n" for source, target in sentences()), encoding="utf-8")
    file.write_text(CONFIG.format(path=json.dumps(str(pairs)), models=json.dumps(str(models))), encoding="utf-8")
    return Project(file, root / "runs", models)


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
