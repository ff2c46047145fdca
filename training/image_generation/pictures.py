"""Pictures of a GAN's run: grids of what it draws, and the curves by which a collapse is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image
from torch import Tensor

mpl.use("Agg")
from matplotlib import pyplot as plt

_CURVES = (
    ("loss", ("discriminator_loss", "generator_loss")),
    ("label entropy, bits", ("label_entropy",)),
    ("agreement with the judge", ("label_agreement",)),
    ("spread within classes, real = 1", ("relative_spread",)),
    ("Fréchet distance on the judge's features", ("frechet_distance",)),
)


def save_grid(pixels: Tensor, columns: int, path: Path, *, scale: int = 2) -> None:
    """Write bytes (N, C, H, W) as a PNG of rows of `columns` images, a pixel of an image `scale` pixels wide."""
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, channels, height, width), np.uint8)
    sheet[:count] = pixels.cpu().numpy()
    sheet = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    image = Image.fromarray(sheet.reshape(rows * height, columns * width, channels).squeeze())
    size = (image.width * scale, image.height * scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize(size, Image.Resampling.NEAREST).save(path, "PNG")


def plot_watch(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw what is watched over the epochs of `history` into a PNG at `path`, one curve below the other."""
    epochs = [row["epoch"] for row in history]
    curves = [(title, names) for title, names in _CURVES if names[0] in history[0]]
    figure, axes = plt.subplots(len(curves), figsize=(7, 1.8 * len(curves)), sharex=True, layout="constrained")
    for one, (title, names) in zip(axes, curves, strict=True):
        for name in names:
            one.plot(epochs, [row[name] for row in history], label=name.replace("_", " "))
        one.set_title(title, fontsize=9)
        one.grid(alpha=0.3)
        if len(names) > 1:
            one.legend(fontsize=8)
    axes[-1].set_xlabel("epoch")
    # Without the version of matplotlib, the same numbers give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
