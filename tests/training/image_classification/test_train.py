from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.image_classification.conftest import Project, Trained
from tests.training.image_classification.pictures import data_set
from training.core.config import read_config
from training.core.provenance import hardware
from training.core.run import Run
from training.image_classification import data as data_module
from training.image_classification.augment import AugmentConfig, augment
from training.image_classification.data import Part
from training.image_classification.evaluate import evaluate, load_trained
from training.image_classification.train import Config, accuracy, logits, train

COMMITTED = Path(__file__).parents[3] / "training" / "image_classification" / "config.toml"


class Bright(nn.Module):
    """Answers 1 for an image that is brighter than middling, 0 for another, and counts the images it saw at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.batches: list[int] = []
        self.modes: list[bool] = []

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 2)."""
        self.batches.append(len(image))
        self.modes.append(self.training)
        mean = self.weight * image.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def _bright_part(count: int) -> Part:
    values = torch.arange(count) % 2 * 200
    return Part(values.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4), torch.arange(count) % 2)


def test_accuracy_is_measured_on_every_image_in_evaluation_mode() -> None:
    part, network = _bright_part(1203), Bright().train()
    wrong = Part(part.pixels, part.labels.clone())
    wrong.labels[-3:] = 1 - wrong.labels[-3:]
    data = data_set(part, labels=("dark", "bright"))
    assert accuracy(network, data, part) == 1.0
    assert accuracy(network, data, wrong) == pytest.approx(1200 / 1203)
    assert sum(network.batches) == 2 * 1203
    assert max(network.batches) <= 500
    assert set(network.modes) == {False}


def test_logits_come_in_the_order_of_the_images() -> None:
    part = _bright_part(7)
    outputs = logits(Bright(), data_set(part, labels=("dark", "bright")), part)
    assert outputs.shape == (7, 2)
    assert not outputs.requires_grad
    assert outputs.argmax(1).tolist() == part.labels.tolist()


def test_a_run_leaves_its_curve_its_weights_and_where_it_was_made(trained: Trained) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert names >= {"best.pt", "checkpoint.pt", "config.json", "hardware.json", "history.csv", "history.png"}
    assert not {name for name in names if name.endswith(".partial")}
    run = Run(trained.folder, trained.project.config(), ignore={"export"})
    assert [row["epoch"] for row in run.read_history()] == [1, 2, 3]
    assert json.loads((trained.folder / "config.json").read_bytes())["seed"] == 4


def test_a_run_tells_its_measures_and_shows_its_progress(trained: Trained) -> None:
    assert "epoch 3/3: 100%" in trained.said
    told = re.findall(
        r"epoch=(\d) train_loss=\S+ validation_accuracy=(\S+) learning_rate=\S+ seconds=\S+", trained.said
    )
    history = Run(trained.folder, trained.project.config(), ignore={"export"}).read_history()
    assert told == [(f"{row['epoch']:.0f}", f"{row['validation_accuracy']:.4g}") for row in history]


def test_the_weights_that_are_kept_have_the_accuracy_of_the_best_epoch(trained: Trained) -> None:
    run, data, model = load_trained(trained.project.config(), trained.folder)
    best = max(row["validation_accuracy"] for row in run.read_history())
    assert accuracy(model, data, data.validation) == best == 1.0


def test_a_run_cut_off_in_the_middle_gives_the_bits_of_one_in_another_process_that_was_not(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder, calls = trained.project.config(), tmp_path / "second", [0]

    class Killed(Exception):
        pass

    def augment_until_killed(images: Tensor, how: AugmentConfig, draw: torch.Generator) -> Tensor:
        calls[0] += 1
        if calls[0] == 10:
            raise Killed
        return augment(images, how, draw)

    with monkeypatch.context() as patch:
        patch.setattr(data_module, "augment", augment_until_killed)
        with pytest.raises(Killed):
            train(config, folder)
    train(config, folder)
    first, second = (torch.load(path / "best.pt", weights_only=True) for path in (trained.folder, folder))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_training_a_finished_run_again_changes_nothing(trained: Trained) -> None:
    best = (trained.folder / "best.pt").read_bytes()
    history = (trained.folder / "history.csv").read_bytes()
    train(trained.project.config("export.version=9"), trained.folder)
    assert (trained.folder / "best.pt").read_bytes() == best
    assert (trained.folder / "history.csv").read_bytes() == history


@pytest.mark.parametrize("change", ["seed=5", "fit.epochs=4", "data.validation=0.3", "augment.flip=false"])
def test_a_run_is_not_gone_on_with_otherwise_than_it_was_begun(trained: Trained, change: str) -> None:
    with pytest.raises(ValueError, match="first holds a run of another configuration"):
        train(trained.project.config(change), trained.folder)


def test_fewer_images_than_a_batch_are_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="58 images to train on are no batch of 100"):
        train(project.config("train.batch_size=100"), tmp_path / "run")


def test_a_run_that_goes_on_elsewhere_names_all_its_hardware(tmp_path: Path) -> None:
    run = Run(tmp_path, AugmentConfig())
    assert run.read_hardware() == []
    for name in ("a GPU", "a CPU", "a GPU"):
        run.add_hardware(name)
    assert Run(tmp_path, AugmentConfig()).read_hardware() == ["a GPU", "a CPU"]


def test_a_run_notes_the_hardware_it_was_trained_on(trained: Trained) -> None:
    assert Run(trained.folder, trained.project.config(), ignore={"export"}).read_hardware() == [hardware()]


def test_evaluating_measures_the_kept_weights_on_the_test_part(trained: Trained) -> None:
    evaluate(trained.project.config(), trained.folder)
    figures = json.loads((trained.folder / "evaluation.json").read_bytes())
    assert figures["n"] == 24
    assert figures["accuracy"] == 23 / 24  # one label is wrong
    assert figures["confusion"] == [[8, 0, 1], [0, 8, 0], [0, 0, 7]]
    assert figures["by_class"] == pytest.approx({"blue": 8 / 9, "green": 1.0, "red": 1.0})


def test_evaluating_a_run_that_does_not_exist_says_so_and_makes_none(project: Project) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such run.* train first"):
        evaluate(project.config(), project.folder("no such run"))
    assert not project.folder("no such run").exists()


def test_the_committed_configuration_is_valid() -> None:
    config = read_config(Config, COMMITTED)
    assert config.data.source == "fashion_mnist"
    assert config.model.initial_weights == "cifar10"
    assert config.export.name == "fashion-classifier"
