"""How good a classifier is: accuracy, by class, which classes are mistaken for which, and how honest its scores are."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from training.core.report import plot_confusion, plot_history
from training.core.run import Run, finished_run
from training.image_classification.data import DataSet, Part, load_data
from training.image_classification.model import ResNet, build_model
from training.image_classification.train import Config, logits

logger = logging.getLogger(__name__)

_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """The measures of one set of outputs.

    Attributes:
        n: number of images.
        accuracy: 0..1.
        by_class: recall by label, 0..1.
        calibration_error: expected calibration error in 15 bins, 0..1 (Guo et al. 2017, arXiv:1706.04599).
        confusion: counts, true classes down, predicted ones across.
    """

    n: int
    accuracy: float
    by_class: dict[str, float]
    calibration_error: float
    confusion: NDArray[np.int64]


def measure(outputs: Tensor, truth: Tensor, labels: tuple[str, ...]) -> Evaluation:
    """Measure logits (N, classes) against class numbers (N,)."""
    classes = len(labels)
    recalls = multiclass_accuracy(outputs, truth, classes, average="none").tolist()
    confusion = multiclass_confusion_matrix(outputs, truth, classes).numpy()
    # torchmetrics gives a score of exactly 1, to which float32 rounds, a bin of its own; it belongs to the last one.
    scores = outputs.softmax(1).clamp(max=1 - 1e-6)
    return Evaluation(
        n=len(truth),
        accuracy=int(confusion.trace()) / len(truth),  # not in float32: people read it
        by_class=dict(zip(labels, recalls, strict=True)),
        calibration_error=float(multiclass_calibration_error(scores, truth, classes, n_bins=_CALIBRATION_BINS)),
        confusion=confusion,
    )


def load_trained(config: Config, folder: Path) -> tuple[Run, DataSet, ResNet]:
    """The run in `folder` with its data and the network it selected, on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: the run has not finished an epoch.
    """
    run = finished_run(folder, config)
    data = load_data(config.data)
    model = build_model(
        config.model.model_copy(update={"initial_weights": "random"}),
        channels=data.preprocessing.channels,
        classes=len(data.labels),
    )
    run.load_best(model)
    return run, data, model.eval()


def evaluate(config: Config, folder: Path) -> None:
    """Measure the network of the run in `folder` on the test part; write figures and pictures beside it."""
    run, data, model = load_trained(config, folder)
    report(run, data, data.test, logits(model, data, data.test))


def report(run: Run, data: DataSet, part: Part, outputs: Tensor) -> Evaluation:
    """Measure `outputs` for `part`, and write `evaluation.json`, `confusion.png` and `history.png` into the run."""
    result = measure(outputs, part.labels, data.labels)
    figures = {
        "n": result.n,
        "accuracy": result.accuracy,
        "calibration_error": result.calibration_error,
        "by_class": result.by_class,
        "confusion": result.confusion.tolist(),
    }
    (run.folder / "evaluation.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    plot_confusion(result.confusion, data.labels, run.folder / "confusion.png")
    plot_history(run.read_history(), "validation_accuracy", run.folder / "history.png")
    logger.info(
        "accuracy %.4f, calibration error %.4f on %d images", result.accuracy, result.calibration_error, result.n
    )
    return result
