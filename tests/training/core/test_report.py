from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from training.core.report import plot_attention, plot_confusion, plot_history

HISTORY = [{"epoch": float(epoch), "train_loss": 1 / epoch, "score": 1 - 1 / epoch} for epoch in range(1, 5)]


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_a_learning_curve_is_a_picture_that_depends_on_the_history_alone(tmp_path: Path) -> None:
    first, second, other = (tmp_path / f"{name}.png" for name in ("first", "second", "other"))
    plot_history(HISTORY, "score", first)
    plot_history(HISTORY, "score", second)
    plot_history(HISTORY[:3], "score", other)
    assert _size(first) == (700, 400)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_a_run_of_one_epoch_has_a_learning_curve(tmp_path: Path) -> None:
    plot_history(HISTORY[:1], "score", tmp_path / "history.png")
    assert _size(tmp_path / "history.png") == (700, 400)


@pytest.mark.parametrize("classes", [2, 10, 26])
def test_a_confusion_matrix_grows_with_its_classes(tmp_path: Path, classes: int) -> None:
    confusion = np.diag(np.arange(classes, dtype=np.int64))  # the first class has no example at all
    plot_confusion(confusion, [f"class {number}" for number in range(classes)], tmp_path / "confusion.png")
    assert _size(tmp_path / "confusion.png")[1] == max(500, 62 * classes)


def test_the_rows_of_a_confusion_matrix_are_told_from_its_columns(tmp_path: Path) -> None:
    confusion = np.array([[5, 3], [0, 7]])
    plot_confusion(confusion, ["a", "b"], tmp_path / "one.png")
    plot_confusion(confusion.T, ["a", "b"], tmp_path / "other.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_no_figure_stays_open(tmp_path: Path) -> None:
    plot_history(HISTORY, "score", tmp_path / "history.png")
    plot_confusion(np.eye(2, dtype=np.int64), ["a", "b"], tmp_path / "confusion.png")
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("source", "target"), [(3, 2), (12, 15)])
def test_a_picture_of_attention_grows_with_its_pieces(tmp_path: Path, source: int, target: int) -> None:
    weights = np.full((target, source), 1 / source, np.float32)
    path = tmp_path / "attention.png"
    plot_attention(weights, ["_read"] * source, ["_w\u00f6rter"] * target, path)
    assert _size(path) == (150 + 45 * source, 150 + 32 * target)
    other = tmp_path / "other.png"
    plot_attention(np.eye(target, source, dtype=np.float32), ["_read"] * source, ["_w\u00f6rter"] * target, other)
    assert path.read_bytes() != other.read_bytes()
