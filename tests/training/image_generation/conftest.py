"""A small generator of coloured squares, trained, measured and exported once for the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from service.manifest import ClassificationPostprocessing, ImagePreprocessing, Manifest, Provenance, Source
from tests.bundles import graph_of, tensor
from tests.training.image_classification.pictures import COLOURS, write_folder
from training.core.bundle import file_entries, write_manifest
from training.core.config import read_config
from training.core.export import graph_variants
from training.core.golden import write_golden
from training.core.run import Run
from training.image_generation.classifier import Judge, load_classifier
from training.image_generation.data import load_pictures
from training.image_generation.evaluate import evaluate
from training.image_generation.train import JUDGE, NOT_OF_THE_RUN, Config, fit_gan, train

ROOT = Path(__file__).parents[3]

CONFIG = """
seed = 5

[data]
source = "folder"
path = {path}
name = "Three colours"
licence = "CC0-1.0"
validation = 0.2
width = 12
height = 12

[model]
latent = 8
generator = 8
discriminator = 8
widest = 16

[fit]
epochs = 8
batch_size = 16
learning_rate = 2e-3
discriminator_learning_rate = 4e-3
betas = [0.0, 0.9]
decay = 0.3
penalty = 0.1
penalty_every = 4
shift = 0.1
cutout = 0.2
ema_decay = 0.9
precision = "float32"
watched = 60

[judge]
batch_size = 32
model = {{ depth = 20, initial_weights = "random" }}
augment = {{ erase_probability = 0.0, crop_padding = 1 }}
fit = {{ epochs = 2, learning_rate = 0.05, warmup_epochs = 0, ema_decay = 0.5, precision = "float32" }}

[text]
captions = {captions}
buckets = 500
width = 8
hidden = 16
batch_size = 32
steps = 20
fit = {{ epochs = 3, learning_rate = 0.02, optimiser = "adamw", warmup_epochs = 0, ema_decay = 0.8 }}

[evaluate]
images = 60
truncations = [0.5]
nearest = 20

[evaluate.pupil]
batch_size = 32
model = {{ depth = 20, initial_weights = "random" }}
augment = {{ erase_probability = 0.0, crop_padding = 0 }}
fit = {{ epochs = 2, learning_rate = 0.05, warmup_epochs = 0, ema_decay = 0.5, precision = "float32" }}

[export]
models = {models}
name = "colours-gan"
version = 2
title = "Colour generator"
description = "Draws three colours."
classifier = "colour-teller"
seeds = 90
caption = "draw {{label}}"
texts = ["azure", "good morning"]
interpolations = [["blue", "red"], ["green", "green"]]
arithmetic = [["red", "green", "blue"]]
"""

PLAIN = (
    "model.recipe=dcgan",
    "model.conditional=false",
    "fit.penalty=0",
    "fit.ema_decay=0",
    "fit.epochs=1",
    "text.captions=''",
)
"""What makes an unconditional DCGAN of it."""

TEXTS = {
    "train": """
patterns = ["{thing}", "draw {thing}", "a picture of {thing}"]
adjectives = ["dark", "pale"]
[classes]
blue = ["blue", "azure", "the colour of the sea"]
green = ["green", "lime", "the colour of grass"]
red = ["red", "scarlet", "the colour of blood"]
[nothing]
things = ["dog", "house", "seven", "tree"]
sentences = ["how are you", "good morning", "what is it"]
""",
    "validation": """
[texts]
blue = ["bluish", "azure, please"]
green = ["greenish", "something green"]
red = ["reddish", "a scarlet thing"]
[off_topic]
texts = ["a cat", "the houses", "eight"]
""",
    "test": """
[new_words]
blue = ["sky blue", "azures"]
green = ["lime green"]
red = ["ruby red"]
[new_patterns]
blue = ["she chose blue"]
green = ["his face went green"]
red = ["stop when it is red"]
[off_topic]
texts = ["a cow", "nine of them"]
""",
}


def write_captions(folder: Path) -> Path:
    """Write the texts of the three colours into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in TEXTS.items():
        (folder / f"{part}.toml").write_text(content, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Project:
    """Where a user keeps things: a configuration and runs."""

    config_file: Path
    runs: Path
    models: Path

    def config(self, *overrides: str) -> Config:
        """The configuration with some values changed."""
        return read_config(Config, self.config_file, overrides)

    def folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.runs / "image_generation" / run

    def run(self, name: str = "first") -> Run:
        """A run that is there."""
        return Run(self.folder(name), self.config(), ignore=NOT_OF_THE_RUN)

    def command(self, step: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m training image_generation STEP`, and expect it to succeed."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith("INFERD_")}
        done = subprocess.run(
            [sys.executable, "-m", "training", "image_generation", step, "--config", str(self.config_file), *more],
            cwd=ROOT,
            env={**outside, "INFERD_RUNS_DIR": str(self.runs), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    pictures, captions = write_folder(root / "pictures", train=120, test=20), write_captions(root / "captions")
    file, models = root / "config.toml", root / "models"
    content = CONFIG.format(
        path=json.dumps(str(pictures)), captions=json.dumps(str(captions)), models=json.dumps(str(models))
    )
    file.write_text(content, encoding="utf-8")
    return Project(file, root / "runs", models)


@pytest.fixture(scope="session")
def trained(project: Project) -> Project:
    """With a finished run called `first`."""
    torch.set_num_threads(1)
    train(project.config(), project.folder("first"))
    return project


@pytest.fixture(scope="session")
def baseline(trained: Project) -> Project:
    """With a second run called `plain`, an unconditional DCGAN."""
    config = trained.config(*PLAIN)
    data = load_pictures(config.data)
    shutil.copytree(trained.folder("first") / JUDGE, trained.folder("plain") / JUDGE)
    judge = Judge(load_classifier(config.judge, data, trained.folder("plain") / JUDGE, seed=config.seed), data)
    fit_gan(config, data, judge, Run(trained.folder("plain"), config, NOT_OF_THE_RUN))
    return trained


@pytest.fixture(scope="session")
def evaluated(baseline: Project) -> Project:
    """With both runs evaluated, the first beside the other one."""
    evaluate(baseline.config("evaluate.baseline=plain"), baseline.folder("first"))
    evaluate(baseline.config(*PLAIN), baseline.folder("plain"))
    return baseline


@dataclass(frozen=True)
class Exported:
    """A bundle, and what its command said."""

    project: Project
    bundle: Path
    said: str


@pytest.fixture(scope="session")
def exported(evaluated: Project) -> Exported:
    """The bundle of the first run, beside that of a classifier of colours."""
    write_colour_teller(evaluated.models / "colour-teller" / "1")
    write_colour_teller(evaluated.models / "colour-teller" / "10", sure=50)  # the newest
    done = evaluated.command("export", "--run", "first", "--set", "evaluate.baseline=plain")
    return Exported(evaluated, evaluated.models / "colours-gan" / "2", done.stderr)


def write_colour_teller(folder: Path, *, sure: float = 5, labels: tuple[str, ...] = COLOURS) -> Path:
    """Write the bundle of a classifier that tells by the mean of red, green and blue which of `labels` a picture is."""
    folder.mkdir(parents=True)
    graph = graph_of(
        [
            helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("Gather", ["means", "order"], ["ordered"], axis=1),
            helper.make_node("Mul", ["ordered", "sure"], ["logits"]),
        ],
        [tensor("image", "FP32", ["batch", 3, 12, 12])],
        [tensor("logits", "FP32", ["batch", 3])],
        {"order": np.array([2, 1, 0], np.int64), "sure": np.array(sure, np.float32)},
    )
    onnx.save(graph, folder / "model.onnx")
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    files = {"fp32": "model.onnx"}
    images = np.random.default_rng(1).normal(size=(4, 3, 12, 12)).astype(np.float32)
    answers = sure * images.mean((2, 3))[:, ::-1]
    tolerances = write_golden(folder, "model", {"image": images}, {"logits": answers}, files)
    manifest = Manifest(
        schema_version=1,
        title="Colours",
        description="Tells colours apart.",
        task="image-classification",
        parameters=1,
        files=file_entries(folder),
        variants=graph_variants(folder, "model", files, tolerances),
        default_variant="fp32",
        preprocessing=ImagePreprocessing(
            input="image", width=12, height=12, channels=3, fit="crop", mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        postprocessing=ClassificationPostprocessing(output="logits", activation="softmax", labels="labels.json"),
        quality=(),
        provenance=Provenance(
            created="2025-01-01",
            commit="unknown",
            seed=0,
            config={},
            data=Source(name="none", licence="CC0-1.0", url="https://example.org", sha256={}),
            tools={},
            opset=20,
            training_hardware="none",
            training_seconds=0,
        ),
    )
    write_manifest(folder, manifest)
    return folder
