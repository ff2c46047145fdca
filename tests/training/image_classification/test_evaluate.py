from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.image_classification.pictures import data_set
from training.core.config import ConfigModel
from training.core.run import Run
from training.image_classification.data import DataSet, Part
from training.image_classification.evaluate import measure, report

LABELS = ("ant", "bee", "cat")


def _logits(*probabilities: tuple[float, ...]) -> Tensor:
    """Outputs whose softmax is `probabilities`, each row moved by a constant that must not matter."""
    logits = torch.tensor(probabilities, dtype=torch.float64).log() + torch.arange(len(probabilities))[:, None]
    return logits.float()


# Six images: two ants (one taken for a bee), three bees (one for a cat), one cat.
OUTPUTS = _logits(
    (0.70, 0.20, 0.10),
    (0.30, 0.62, 0.08),
    (0.01, 0.98, 0.01),
    (0.20, 0.70, 0.10),
    (0.05, 0.15, 0.80),
    (0.00001, 0.00001, 0.99998),
)
TRUTH = torch.tensor([0, 0, 1, 1, 1, 2])


def test_accuracy_is_the_share_that_is_right() -> None:
    result = measure(OUTPUTS, TRUTH, LABELS)
    assert result.n == 6
    assert result.accuracy == 4 / 6


def test_accuracy_is_exact_for_any_number_of_images() -> None:
    outputs = torch.zeros(10_000, 3)
    outputs[:, 0] = 1
    truth = (torch.arange(10_000) >= 9341).long()
    assert measure(outputs, truth, LABELS).accuracy == 0.9341


def test_recall_is_the_share_of_a_class_that_is_found() -> None:
    assert measure(OUTPUTS, TRUTH, LABELS).by_class == pytest.approx({"ant": 1 / 2, "bee": 2 / 3, "cat": 1.0})


def test_a_class_without_images_has_no_recall_and_harms_no_other_figure() -> None:
    result = measure(OUTPUTS[:5], TRUTH[:5], LABELS)
    assert result.by_class == pytest.approx({"ant": 1 / 2, "bee": 2 / 3, "cat": 0.0})
    assert result.accuracy == 3 / 5


def test_the_confusion_matrix_has_the_truth_down_and_the_answers_across() -> None:
    assert measure(OUTPUTS, TRUTH, LABELS).confusion.tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        # Each row: how sure an answer is, and whether it is right. Bins are 1/15 wide.
        ([(0.90, 1), (0.90, 0), (0.62, 1), (0.62, 1)], 2 / 4 * (0.90 - 1 / 2) + 2 / 4 * (1 - 0.62)),
        ([(0.68, 1), (0.68, 0), (0.62, 1), (0.62, 1)], 2 / 4 * (0.68 - 1 / 2) + 2 / 4 * (1 - 0.62)),
        ([(0.61, 1), (0.66, 0)], (0.61 + 0.66) / 2 - 1 / 2),
        ([(1 - 1e-9, 0), (0.95, 1)], (1 + 0.95) / 2 - 1 / 2),
    ],
    ids=["bins far apart", "bins side by side", "one bin", "the last bin, as sure as can be"],
)
def test_the_calibration_error_is_the_distance_of_confidence_from_accuracy_in_each_bin(
    answers: list[tuple[float, int]], error: float
) -> None:
    outputs = _logits(*((1 - sure, sure) for sure, _ in answers))
    truth = torch.tensor([right for _, right in answers])
    assert measure(outputs, truth, ("no", "yes")).calibration_error == pytest.approx(error, abs=1e-6)


def test_answers_that_are_sure_and_right_have_no_calibration_error() -> None:
    outputs = 50 * torch.eye(3)
    assert measure(outputs, torch.tensor([0, 1, 2]), LABELS).calibration_error == pytest.approx(0, abs=1e-5)


class Nothing(ConfigModel):
    """The configuration of a run of which only the folder matters."""


def _data(truth: Tensor) -> DataSet:
    part = Part(torch.zeros(len(truth), 1, 8, 8, dtype=torch.uint8), truth)
    return data_set(part, labels=LABELS)


def test_a_report_leaves_figures_and_pictures_in_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, Nothing())
    run.record({"epoch": 1.0, "train_loss": 1.0, "validation_accuracy": 0.5}, "validation_accuracy")
    data = _data(TRUTH)
    result = report(run, data, data.test, OUTPUTS)
    figures = json.loads((tmp_path / "evaluation.json").read_bytes())
    assert figures["n"] == result.n == 6
    assert figures["accuracy"] == result.accuracy == 4 / 6
    assert figures["calibration_error"] == result.calibration_error
    assert figures["by_class"] == result.by_class
    assert np.array_equal(figures["confusion"], result.confusion)
    for picture in ("confusion.png", "history.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
