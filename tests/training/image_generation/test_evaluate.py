from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.image_generation.conftest import PLAIN, Project
from training.core.seeding import generator
from training.image_generation.classifier import Judge, load_classifier
from training.image_generation.data import load_pictures
from training.image_generation.evaluate import _of_classes, evaluate, load_report, load_trained, remembered
from training.image_generation.scores import frechet_distance, label_agreement
from training.image_generation.train import JUDGE, draw_pixels

BESIDE = "evaluate.baseline=plain"


@pytest.fixture
def report(evaluated: Project) -> dict[str, dict[str, float]]:
    return load_report(evaluated.config(BESIDE), evaluated.folder("first"))


def test_drawn_images_are_measured_beside_real_ones_and_the_baseline(
    baseline: Project, report: dict[str, dict[str, float]]
) -> None:
    assert report["judge_test_accuracy"] == 1.0
    assert report["real"]["label_agreement"] == 1.0
    assert report["drawn"]["label_agreement"] > 0.9
    assert report["real"]["frechet_distance"] < report["drawn"]["frechet_distance"]
    assert report["drawn"]["frechet_distance"] < report["baseline"]["frechet_distance"]
    assert report["baseline"]["recipe"] == "dcgan"
    assert "label_agreement" not in report["baseline"]
    config = baseline.config()
    _, data, network = load_trained(config, baseline.folder("first"))
    judge = Judge(load_classifier(config.judge, data, baseline.folder("first") / JUDGE, seed=config.seed), data)
    assert report["drawn"]["n"] == 60 == len(data.test)
    probabilities, features = judge(draw_pixels(network, data.test.labels, generator(5, "evaluate")))
    assert report["drawn"]["label_agreement"] == label_agreement(probabilities, data.test.labels)
    expected = frechet_distance(features, judge(data.test.pixels)[1])
    assert report["drawn"]["frechet_distance"] == pytest.approx(expected)
    (truncated,) = report["truncated"].items()
    assert truncated[0] == "0.5"
    assert truncated[1]["relative_spread"] < report["drawn"]["relative_spread"]  # type: ignore[index]


def test_real_images_are_chosen_by_class_and_each_once_while_there_are_enough() -> None:
    among, labels = torch.tensor([0, 1, 1, 2, 0, 1, 2, 2]), torch.tensor([1, 0, 1, 1, 2])
    indices = _of_classes(among, labels)
    assert torch.equal(among[indices], labels)
    assert len(set(indices.tolist())) == 5
    more = _of_classes(among, torch.zeros(5, dtype=torch.int64))
    assert set(more.tolist()) == {0, 4}


def test_a_pupil_learns_from_drawn_images_alone_and_another_from_real_ones(
    baseline: Project, report: dict[str, dict[str, float]]
) -> None:
    pupils = report["pupils"]
    assert (pupils["n_train"], pupils["n_test"]) == (288, 60)
    assert pupils["points_below_real"] == pytest.approx(100 * (pupils["real_accuracy"] - pupils["gan_train"]))
    assert pupils["real_accuracy"] > 0.9
    assert pupils["gan_train"] > 0.5
    assert pupils["gan_test"] > 0.9
    folders = sorted(path.name for path in (baseline.folder("first") / "pupils").iterdir())
    assert [name.partition("-")[0] for name in folders] == ["drawn", "real"]


def test_what_was_remembered_is_measured_and_shown(baseline: Project, report: dict[str, dict[str, float]]) -> None:
    found = report["nearest_training_image"]
    assert found["n"] == 20
    assert 0 < found["drawn"]["smallest"] <= found["drawn"]["median"]  # type: ignore[index]
    assert 0 < found["test"]["smallest"] <= found["test"]["median"]  # type: ignore[index]
    with Image.open(baseline.folder("first") / "nearest.png") as image:
        assert image.size == (2 * 10 * 12, 2 * 2 * 2 * 12)  # two rows of drawn images, each above what it is near to


def test_a_generator_that_copies_is_found_out(baseline: Project, tmp_path: Path) -> None:
    config = baseline.config()
    data = load_pictures(config.data)

    class Copier(torch.nn.Module):
        """Draws training images and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.latent, self.classes = 4, 3
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def forward(self, latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            return data.train.pixels[: len(latent)].float() / 127.5 - 1

    found = remembered(Copier(), data, 20, 1, tmp_path / "nearest.png")  # type: ignore[arg-type]
    assert found["drawn"]["mean"] == 0
    assert found["drawn_nearer_than_percentile_1_of_test"] == 1.0


def test_texts_are_measured_with_the_rest(report: dict[str, dict[str, float]]) -> None:
    assert 0 <= report["text"]["threshold"] <= 1
    assert report["text"]["new_words"]["n"] == 4  # type: ignore[index]
    assert report["text"]["off_topic"]["accuracy"] is None  # type: ignore[index]


def test_evaluating_again_trains_no_pupil_again(baseline: Project, report: dict[str, dict[str, float]]) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (baseline.folder("first") / "pupils").glob("*/history.csv")}
    evaluate(baseline.config(BESIDE), baseline.folder("first"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((baseline.folder("first") / "evaluation.json").read_bytes()) == report


def test_an_unconditional_run_is_measured_without_what_needs_classes(evaluated: Project) -> None:
    folder = evaluated.folder("plain")
    found = json.loads((folder / "evaluation.json").read_bytes())
    assert "pupils" not in found
    assert "text" not in found
    assert found["drawn"]["label_entropy"] >= 0


def test_there_must_be_a_run_that_has_finished_an_epoch(project: Project, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        evaluate(project.config(), tmp_path)


def test_a_baseline_that_was_not_trained_is_named(trained: Project) -> None:
    with pytest.raises(FileNotFoundError, match=r"never holds no run .* train the baseline first"):
        evaluate(trained.config("evaluate.baseline=never"), trained.folder("first"))


def test_a_baseline_of_other_data_is_refused(baseline: Project) -> None:
    shutil.copytree(baseline.folder("plain"), baseline.folder("other"))
    path = baseline.folder("other") / "config.json"
    saved = json.loads(path.read_bytes())
    path.write_text(json.dumps({**saved, "data": {**saved["data"], "validation": 0.3}}), encoding="utf-8")
    with pytest.raises(ValueError, match="other was trained on other data"):
        evaluate(baseline.config("evaluate.baseline=other"), baseline.folder("first"))


# The report as others read it


def test_a_report_is_read_by_whoever_asks_for_just_that(evaluated: Project) -> None:
    found = load_report(evaluated.config(BESIDE), evaluated.folder("first"))
    assert found["of"]["asked"]["baseline"] == "plain"
    assert set(found["of"]["weights"]) == {"generator", "judge", "baseline"}
    with pytest.raises(ValueError, match="measured otherwise: evaluate the run again"):
        load_report(evaluated.config(BESIDE, "evaluate.images=61"), evaluated.folder("first"))


def test_a_run_that_was_not_evaluated_has_no_report(trained: Project, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluate the run first"):
        load_report(trained.config(), tmp_path)


@pytest.mark.parametrize("of", ["", JUDGE])
def test_a_report_of_other_weights_is_refused(evaluated: Project, tmp_path: Path, of: str) -> None:
    shutil.copytree(evaluated.folder("plain"), tmp_path / "plain")
    weights = tmp_path / "plain" / of / "best.pt"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ValueError, match="is of other weights"):
        load_report(evaluated.config(*PLAIN), tmp_path / "plain")
