from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from tests.training.image_generation.conftest import Project
from training.core.config import read_config
from training.core.run import Run
from training.core.seeding import generator
from training.image_generation import train as train_module
from training.image_generation.classifier import Judge, load_classifier
from training.image_generation.data import Batch, load_pictures
from training.image_generation.evaluate import load_trained
from training.image_generation.train import (
    JUDGE,
    NOT_OF_THE_RUN,
    TEXT,
    Config,
    build_networks,
    draw_pixels,
    even_labels,
    fit_gan,
    settle,
    train,
)

COMMITTED = Path(__file__).parents[3] / "training" / "image_generation"

SHORT = ("fit.epochs=2", "fit.checkpoint_minutes=0", "text.captions=''")
STEPS = 18
"""Of an epoch: four fifths of 360 pictures, 16 a step."""


class Killed(Exception):
    pass


class FixedJudge:
    """Answers what it was told, whatever it is shown, and notes what that was."""

    def __init__(self, answer: int) -> None:
        self.answer, self.shown = answer, 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.shown += len(pixels)
        probabilities = torch.zeros(len(pixels), 3)
        probabilities[:, self.answer] = 1
        torch.rand(7)  # whatever a judge draws at random must not be missed
        return probabilities, pixels.flatten(1)[:, :2].float()


def _weights(folder: Path, name: str = "best.pt") -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(folder / name, weights_only=True)
    return weights


def _different(first: Path, second: Path) -> list[str]:
    one, other = _weights(first), _weights(second)
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def whole(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that was not cut off."""
    folder = tmp_path_factory.mktemp("whole")
    train(project.config(*SHORT), folder)
    return folder


def test_a_run_learns_to_draw_what_is_asked_for(trained: Project) -> None:
    history = trained.run().read_history()
    assert history[-1]["label_agreement"] > 0.9
    assert history[-1]["frechet_distance"] < history[0]["frechet_distance"] / 2
    _, data, network = load_trained(trained.config(), trained.folder("first"))
    labels = even_labels(60, 3)
    strongest = draw_pixels(network, labels, generator("test")).float().mean((2, 3)).argmax(1)
    wanted = torch.tensor([("red", "green", "blue").index(data.labels[label]) for label in labels])
    assert float((strongest == wanted).float().mean()) > 0.9


def test_a_run_leaves_its_curves_its_weights_its_samples_and_where_it_was_made(trained: Project) -> None:
    folder = trained.folder("first")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"best.pt", "checkpoint.pt", "config.json", "hardware.json", "history.csv", "watch.png"}
    assert {path.name for path in (folder / "samples").iterdir()} == {f"epoch-{one:03}.png" for one in range(1, 9)}
    with Image.open(folder / "samples" / "epoch-008.png") as grid:
        assert grid.size == (2 * 10 * 12, 2 * 3 * 12)
        assert np.asarray(grid).std() > 10
    assert (folder / JUDGE / "best.pt").is_file()
    assert (folder / TEXT / "best.pt").is_file()
    assert set(trained.run().read_history()[0]) == {
        "epoch", "discriminator_loss", "generator_loss", "label_agreement", "label_entropy", "relative_spread",
        "frechet_distance", "seconds",
    }  # fmt: skip


@pytest.mark.parametrize("fatal", [2, STEPS, STEPS + 1, 2 * STEPS - 1])
def test_a_run_cut_off_anywhere_gives_the_bits_of_one_that_was_not(
    project: Project, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    shutil.copytree(whole / JUDGE, tmp_path / JUDGE)
    batches, seen = train_module.training_batches, [0]

    def until_killed(*arguments: Any, **named: Any) -> Iterator[Batch]:
        for batch in batches(*arguments, **named):
            if seen[0] == fatal:
                raise Killed
            seen[0] += 1
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "training_batches", until_killed)
        with pytest.raises(Killed):
            train(project.config(*SHORT), tmp_path)
    train(project.config(*SHORT), tmp_path)
    assert _different(whole, tmp_path) == []
    first, second = (Run(folder, project.config(*SHORT), NOT_OF_THE_RUN).read_history() for folder in (whole, tmp_path))
    assert [{**row, "seconds": 0} for row in first] == [{**row, "seconds": 0} for row in second]


def test_a_run_cut_off_while_it_watches_gives_the_same_bits(
    project: Project, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole / JUDGE, tmp_path / JUDGE)

    def killed(*_: Any) -> dict[str, float]:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "watch", killed)
        with pytest.raises(Killed):
            train(project.config(*SHORT), tmp_path)
    assert not (tmp_path / "best.pt").exists()
    train(project.config(*SHORT), tmp_path)
    assert _different(whole, tmp_path) == []


def test_the_judge_takes_no_part_in_training(project: Project, whole: Path, tmp_path: Path) -> None:
    config, data = project.config(*SHORT), load_pictures(project.config().data)
    judge = FixedJudge(1)
    fit_gan(config, data, judge, Run(tmp_path, config, NOT_OF_THE_RUN))  # type: ignore[arg-type]
    assert judge.shown == len(data.validation) + 2 * 60
    assert _different(whole, tmp_path) == []


def test_the_judge_is_trained_on_real_pictures_alone_and_stays_as_it_is(trained: Project, whole: Path) -> None:
    config, data = trained.config(), load_pictures(trained.config().data)
    classifier = load_classifier(config.judge, data, trained.folder("first") / JUDGE, seed=config.seed)
    # That of a run that drew for two epochs, and not for eight, is the same.
    assert _different(trained.folder("first") / JUDGE, whole / JUDGE) == []
    probabilities, features = Judge(classifier, data)(data.test.pixels)
    assert float((probabilities.argmax(1) == data.test.labels).float().mean()) == 1.0
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(features).softmax(1), probabilities)


def test_training_a_finished_run_again_changes_nothing(trained: Project) -> None:
    before = {path: path.read_bytes() for path in trained.folder("first").rglob("*") if path.suffix in (".pt", ".csv")}
    train(trained.config("evaluate.images=30"), trained.folder("first"))
    assert {path: path.read_bytes() for path in before if path.name != "checkpoint.pt"} == {
        path: content for path, content in before.items() if path.name != "checkpoint.pt"
    }


@pytest.mark.parametrize("change", ["seed=6", "fit.epochs=4", "model.latent=9", "judge.batch_size=8"])
def test_a_run_is_not_gone_on_with_otherwise_than_it_was_begun(trained: Project, change: str) -> None:
    with pytest.raises(ValueError, match="first holds a run of another configuration"):
        train(trained.config(change), trained.folder("first"))


def test_text_cannot_say_what_to_draw_where_classes_do_not(project: Project) -> None:
    with pytest.raises(ValidationError, match=r"set model\.conditional, or no text\.captions"):
        project.config("model.conditional=false")


def test_captions_of_other_classes_are_refused_before_anything_is_trained(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the classes"):
        train(project.config("text.captions=fashion_mnist"), tmp_path)
    assert not (tmp_path / JUDGE).exists()


def test_fewer_images_than_a_batch_are_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="288 images to train on are no batch of 300"):
        train(project.config("fit.batch_size=300"), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        ("model.conditional=false",),
        ("model.recipe=dcgan", "model.conditional=false", "fit.penalty=0.0"),
        ("data.channels=1", "fit.precision=bfloat16", "data.width=10", "data.height=10"),
    ],
    ids=["unconditional", "dcgan", "grey, another size, mixed precision"],
)
def test_other_networks_and_images_are_trained_too(project: Project, tmp_path: Path, changes: tuple[str, ...]) -> None:
    config = project.config(*SHORT, "fit.epochs=1", *changes)
    data = load_pictures(config.data)
    run = Run(tmp_path, config, NOT_OF_THE_RUN)
    fit_gan(config, data, FixedJudge(0), run)  # type: ignore[arg-type]
    (row,) = run.read_history()
    assert all(np.isfinite(value) for value in row.values())
    assert ("label_agreement" in row) == config.model.conditional
    assert row["label_entropy"] == 0  # the judge says the same of all
    _, _, network = load_trained(config, tmp_path)
    pixels = draw_pixels(network, even_labels(4, 3), generator("test"))
    assert pixels.shape == (4, config.data.channels, config.data.height, config.data.width)


def test_averaged_weights_are_what_is_kept_and_settling_changes_statistics_alone(
    project: Project, tmp_path: Path
) -> None:
    config = project.config(*SHORT, "fit.epochs=1", "fit.ema_decay=0.99")
    data = load_pictures(config.data)
    fit_gan(config, data, FixedJudge(0), Run(tmp_path, config, NOT_OF_THE_RUN))  # type: ignore[arg-type]
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]
    best = _weights(tmp_path)
    averaged = {name.removeprefix("module."): value for name, value in saved["averaged"].items()}
    learnt = [name for name in best if "running" not in name and "batches" not in name]
    assert all(torch.equal(best[name], averaged[name]) for name in learnt)
    assert not torch.equal(best["start.weight"], saved["generator"]["start.weight"])
    assert not torch.equal(best["norm.norm.running_mean"], averaged["norm.norm.running_mean"])


def test_truncated_latents_draw_images_that_are_more_alike(trained: Project) -> None:
    _, _, network = load_trained(trained.config(), trained.folder("first"))
    labels = torch.zeros(40, dtype=torch.int64)
    spreads = [
        float(draw_pixels(network, labels, generator("test"), truncation).float().std(0).mean())
        for truncation in (1.0, 0.5, 0.0)
    ]
    assert spreads[0] > spreads[1] > spreads[2] == 0


def test_settled_statistics_are_those_of_the_networks_own_images(project: Project) -> None:
    config = project.config()
    data = load_pictures(config.data)
    torch.manual_seed(1)
    network, _ = build_networks(config, data)
    found = settle(network, data, seed=1)
    assert not found.training
    seen: list[Tensor] = []
    found.blocks[0].norm.norm.register_forward_hook(lambda _, __, after: seen.append(after))
    draw_pixels(found, data.train.labels[:200], generator("other"))
    values = seen[0].transpose(0, 1).flatten(1)
    assert float(values.mean(1).abs().max()) < 0.15
    assert float((values.std(1) - 1).abs().max()) < 0.15


def test_committed_configurations_are_of_one_experiment() -> None:
    ours, plain = (read_config(Config, COMMITTED / f"{name}.toml") for name in ("config", "dcgan"))
    assert (ours.model.recipe, plain.model.recipe) == ("projection", "dcgan")
    assert ours.data == plain.data
    assert (ours.fit.epochs, ours.fit.batch_size) == (plain.fit.epochs, plain.fit.batch_size)
    assert ours.model.generator == plain.model.generator
    assert ours.evaluate.baseline == "dcgan"
    assert ours.evaluate.pupil.model.initial_weights == "random"


def test_the_configuration_is_noted_without_what_only_measures(trained: Project) -> None:
    noted = json.loads((trained.folder("first") / "config.json").read_bytes())
    assert set(noted) == {"seed", "data", "model", "fit", "judge", "text"}
