"""A small generator of coloured squares, trained once for the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.training.image_classification.pictures import write_folder
from training.core.config import read_config
from training.core.run import Run
from training.image_generation.train import NOT_OF_THE_RUN, Config, train

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
"""

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

    def config(self, *overrides: str) -> Config:
        """The configuration with some values changed."""
        return read_config(Config, self.config_file, overrides)

    def folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.runs / "image_generation" / run

    def run(self, name: str = "first") -> Run:
        """A run that is there."""
        return Run(self.folder(name), self.config(), ignore=NOT_OF_THE_RUN)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    pictures, captions = write_folder(root / "pictures", train=120, test=20), write_captions(root / "captions")
    file = root / "config.toml"
    content = CONFIG.format(path=json.dumps(str(pictures)), captions=json.dumps(str(captions)))
    file.write_text(content, encoding="utf-8")
    return Project(file, root / "runs")


@pytest.fixture(scope="session")
def trained(project: Project) -> Project:
    """With a finished run called `first`."""
    torch.set_num_threads(1)
    train(project.config(), project.folder("first"))
    return project
