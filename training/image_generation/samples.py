"""The pictures of a card: what a bundle's graphs draw, with what to ask a server for the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from service.latents import between, total
from training.image_generation.engine import Floats, GraphEngine, Pixels
from training.image_generation.pictures import save_grid
from training.image_generation.train import ExportConfig

_COLUMNS, _ROWS_WITHOUT_CLASSES = 10, 4
_SEED, _OTHER_SEED = 1, 2


def require_known_classes(asked: ExportConfig, labels: Sequence[str]) -> None:
    """Raise ValueError where a picture is to be of a class that is none of `labels`."""
    named = {name for several in (*asked.interpolations, *asked.arithmetic) for name in several}
    if unknown := sorted(named - set(labels)):
        raise ValueError(f"no pictures of {', '.join(unknown)} can be drawn: the classes are {', '.join(labels)}")


def draw_pictures(engine: GraphEngine, asked: ExportConfig, truncation: float, folder: Path) -> dict[str, str]:
    """Write the pictures into `folder` and return their file names, by caption."""
    pictures = {_samples(engine, truncation, folder / "samples.png"): "samples.png"}
    if asked.interpolations or engine.classes == 1:
        caption = _interpolations(engine, asked.interpolations, truncation, folder / "interpolation.png")
        pictures[caption] = "interpolation.png"
    for number, terms in enumerate(asked.arithmetic, 1):
        file = f"arithmetic-{number}.png"
        pictures[_arithmetic(engine, terms, truncation, folder / file)] = file
    return pictures


def _samples(engine: GraphEngine, truncation: float, path: Path) -> str:
    if engine.classes == 1:
        count = _ROWS_WITHOUT_CLASSES * _COLUMNS
        latents = np.stack([engine.of_seed(_SEED, truncation, number) for number in range(count)])
        _save(engine.paint(latents, _nothing(count)), path)
        return f"The first {count} images of seed {_SEED}"
    latents = np.stack([engine.of_seed(_SEED, truncation, number) for number in range(_COLUMNS)])
    rows = [
        engine.paint(latents, np.repeat(engine.condition(label)[None], _COLUMNS, axis=0)) for label in engine.labels
    ]
    _save(np.concatenate(rows), path)
    return (
        f"The first {_COLUMNS} images of seed {_SEED} of each class, none of them chosen: "
        f"from above {_listed(engine.labels)}"
    )


def _interpolations(engine: GraphEngine, pairs: Sequence[tuple[str, str]], truncation: float, path: Path) -> str:
    latents = between(engine.of_seed(_SEED, truncation), engine.of_seed(_OTHER_SEED, truncation), _COLUMNS)
    if engine.classes == 1:
        _save(engine.paint(latents, _nothing(_COLUMNS)), path)
        return f"From seed {_SEED} to seed {_OTHER_SEED} in {_COLUMNS} steps"
    shares = np.linspace(0, 1, _COLUMNS, dtype=np.float32)[:, None]
    rows = [
        engine.paint(latents, (1 - shares) * engine.condition(start) + shares * engine.condition(end))
        for start, end in pairs
    ]
    _save(np.concatenate(rows), path)
    ways = ", ".join(f"{start} to {end}" for start, end in pairs)
    return f"From seed {_SEED} to seed {_OTHER_SEED} in {_COLUMNS} steps: from above {ways}"


def _arithmetic(engine: GraphEngine, terms: tuple[str, str, str], truncation: float, path: Path) -> str:
    conditions = [engine.condition(label) for label in terms]
    conditions.append(conditions[0] - conditions[1] + conditions[2])
    rows = []
    for number in range(_COLUMNS):
        latent = engine.of_seed(_SEED, truncation, number)
        summed = total(np.stack([latent] * len(terms)), (1, -1, 1))
        rows.append(engine.paint(np.stack([*[latent] * len(terms), summed]), np.stack(conditions)))
    _save(np.concatenate(np.stack(rows, axis=1)), path)
    added, taken, more = terms
    return (
        f"Arithmetic: from above {_listed(terms)}, and {added} - {taken} + {more}, "
        f"with the first {_COLUMNS} latents of seed {_SEED}"
    )


def _save(pixels: Pixels, path: Path) -> None:
    save_grid(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), _COLUMNS, path)


def _nothing(count: int) -> Floats:
    """The conditions of images that have none."""
    return np.ones((count, 1), np.float32)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
