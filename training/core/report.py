"""Pictures of a run: its learning curve, a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def plot_history(history: Sequence[dict[str, float]], measure: str, path: Path) -> None:
    """Draw the training loss and `measure` over the epochs of `history` into a PNG at `path`."""
    epochs = [row["epoch"] for row in history]
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    left.plot(epochs, [row["train_loss"] for row in history], color="tab:gray", label="training loss")
    left.set(xlabel="epoch", ylabel="training loss")
    right = left.twinx()
    right.plot(epochs, [row[measure] for row in history], color="tab:blue")
    right.set_ylabel(measure.replace("_", " "), color="tab:blue")
    right.grid(alpha=0.3)
    _save(figure, path)


def plot_confusion(confusion: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix (true classes down, predicted ones across) into a PNG at `path`."""
    size = max(5.0, 0.62 * len(labels))
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= 25:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=7)
    _save(figure, path)


def plot_attention(weights: NDArray[np.float32], source: Sequence[str], target: Sequence[str], path: Path) -> None:
    """Draw where a decoder looked into a PNG at `path`.

    Args:
        weights: shares of the places that were looked at (target, source).
        source: what was read, piece by piece.
        target: what was written.
        path: of the picture.
    """
    figure, axes = plt.subplots(figsize=(1.5 + 0.45 * len(source), 1.5 + 0.32 * len(target)), layout="constrained")
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(source)), source, rotation=60, ha="left")
    axes.set_yticks(range(len(target)), target)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # Without the date and the version of matplotlib, the same numbers give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
