"""How good a generator is: what a judge sees in its images, what a pupil learns from them, and whether it remembers.

Everything is measured on bytes, as they would be sent. Real images are measured in the same way beside the drawn ones,
so that a figure says how far from real the drawn ones are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.core.data import sha256_of
from training.core.loop import best_device
from training.core.provenance import hardware
from training.core.run import Run, finished_run
from training.core.seeding import generator
from training.image_classification.data import DataSet, Part
from training.image_classification.train import accuracy
from training.image_generation.captions import load_captions
from training.image_generation.classifier import ClassifierConfig, Judge, load_classifier, train_classifier
from training.image_generation.data import load_pictures
from training.image_generation.model import Generator, count_parameters
from training.image_generation.pictures import plot_watch, save_grid
from training.image_generation.scores import (
    frechet_distance,
    label_agreement,
    label_entropy,
    nearest,
    quantiles,
    spread_within_classes,
)
from training.image_generation.text import figures as text_figures
from training.image_generation.text import load_text
from training.image_generation.train import (
    JUDGE,
    NOT_OF_THE_RUN,
    TEXT,
    Config,
    build_generator,
    draw_pixels,
    save_samples,
)

logger = logging.getLogger(__name__)

REPORT = "evaluation.json"

_SHOWN = 40


def load_trained(config: Config, folder: Path) -> tuple[Run, DataSet, Generator]:
    """The run in `folder` with its data and the generator it came to, in evaluation mode.

    Raises:
        FileNotFoundError: the run has not finished an epoch.
        ValueError: it is a run of another configuration.
    """
    run = finished_run(folder, config, ignore=NOT_OF_THE_RUN)
    data = load_pictures(config.data)
    network = build_generator(config, data)
    run.load_best(network)
    return run, data, network.to(best_device()).eval()


def evaluate(config: Config, folder: Path) -> None:
    """Measure the generator of the run in `folder`, and write `evaluation.json` and pictures into it.

    Raises:
        FileNotFoundError: the run, or the baseline that is asked for, has not finished an epoch.
        ValueError: either is a run of another configuration, or of other data.
    """
    run, data, network = load_trained(config, folder)
    classifier = load_classifier(config.judge, data, folder / JUDGE, seed=config.seed)
    judge = Judge(classifier, data)
    asked = config.evaluate
    report: dict[str, Any] = {
        "of": identity(config, folder),
        "data": data.name,
        "epochs": len(run.read_history()),
        "seed": config.seed,
        "hardware": hardware(),
        "parameters": count_parameters(network),
        "judge_test_accuracy": accuracy(classifier, data, data.test),
        "feature_width": classifier.head.in_features,
        "drawn": judged(network, judge, data, asked.images, config.seed),
        "truncated": {
            str(factor): judged(network, judge, data, asked.images, config.seed, factor) for factor in asked.truncations
        },
        "real": judged_real(judge, data, asked.images),
    }
    if asked.baseline:
        report["baseline"] = _baseline(config, folder, judge, data)
    report["nearest_training_image"] = remembered(network, data, asked.nearest, config.seed, folder / "nearest.png")
    if network.classes > 1:
        report["pupils"] = pupils(network, data, config, folder)
    if config.text.captions:
        encoder = load_text(config.text, folder / TEXT, len(data.labels))
        report["text"] = {
            "parameters": count_parameters(encoder),
            **text_figures(encoder, load_captions(config.text.captions, data.labels)),
        }
    (folder / REPORT).write_text(json.dumps(report, indent=2), encoding="utf-8")
    save_samples(network, folder / "samples.png", config.seed)
    plot_watch(run.read_history(), folder / "watch.png")
    logger.info("%s", json.dumps(report))


def identity(config: Config, folder: Path) -> dict[str, Any]:
    """What a report is of: how it was asked to measure, and the weights of all that takes part."""
    weights = {"generator": folder, "judge": folder / JUDGE}
    if config.evaluate.baseline:
        weights["baseline"] = _baseline_folder(config, folder)
    return {
        "asked": config.evaluate.model_dump(mode="json"),
        "weights": {name: sha256_of(path / "best.pt") for name, path in weights.items()},
    }


def load_report(config: Config, folder: Path) -> dict[str, Any]:
    """What `evaluate` found of the run in `folder`.

    Raises:
        FileNotFoundError: it was not evaluated.
        ValueError: it was evaluated with other weights, or asked to measure otherwise.
    """
    path = folder / REPORT
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: evaluate the run first")
    report: dict[str, Any] = json.loads(path.read_bytes())
    if report.get("of") != identity(config, folder):
        raise ValueError(f"{path} is of other weights, or was measured otherwise: evaluate the run again")
    return report


def judged(
    network: Generator, judge: Judge, data: DataSet, count: int, seed: int, truncation: float = 1.0
) -> dict[str, Any]:
    """What the judge sees in `count` drawn images, of classes as frequent as in the test part, beside that part."""
    labels = asked_classes(data, count)
    pixels = draw_pixels(network, labels, generator(seed, "evaluate"), truncation)
    return seen(pixels, labels if network.classes > 1 else None, judge, data)


def asked_classes(data: DataSet, count: int) -> Tensor:
    """`count` class numbers, as frequent as in the test part."""
    return data.test.labels[torch.arange(count) % len(data.test)]


def seen(pixels: Tensor, labels: Tensor | None, judge: Judge, data: DataSet) -> dict[str, Any]:
    """What the judge sees in drawn images (N, C, H, W) of the classes `labels` (N,), if any were asked for."""
    probabilities, features = judge(pixels)
    _, real = judge(data.test.pixels)
    found: dict[str, Any] = {
        "n": len(pixels),
        "frechet_distance": frechet_distance(features, real),
        "label_entropy": label_entropy(probabilities),
    }
    if labels is not None:
        found["label_agreement"] = label_agreement(probabilities, labels)
        found["by_class"] = agreement_by_class(probabilities, labels, data.labels)
        found["relative_spread"] = spread_within_classes(features, labels) / spread_within_classes(
            real, data.test.labels
        )
    return found


def agreement_by_class(probabilities: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The agreement of each class, by its name, of which there are images."""
    return {
        name: label_agreement(probabilities[labels == number], labels[labels == number])
        for number, name in enumerate(names)
        if bool((labels == number).any())
    }


def judged_real(judge: Judge, data: DataSet, count: int) -> dict[str, Any]:
    """What the judge sees in `count` real images of the training part, of the same classes, beside the test part."""
    labels = asked_classes(data, count)
    _, features = judge(data.train.pixels[_of_classes(data.train.labels, labels)])
    probabilities, real = judge(data.test.pixels)
    return {
        "n": count,
        "frechet_distance": frechet_distance(features, real),
        # Of the test part: the judge was trained on the other.
        "test_n": len(data.test),
        "label_entropy": label_entropy(probabilities),
        "label_agreement": label_agreement(probabilities, data.test.labels),
        "by_class": agreement_by_class(probabilities, data.test.labels, data.labels),
    }


def _of_classes(among: Tensor, labels: Tensor) -> Tensor:
    """Indices into `among` of images of the classes `labels` (N,), all different ones as long as there are any."""
    indices = torch.empty_like(labels)
    order = torch.randperm(len(among), generator=generator("real"))
    for label in labels.unique():
        members = order[among[order] == label]
        wanted = (labels == label).nonzero().flatten()
        indices[wanted] = members[torch.arange(len(wanted)) % len(members)]
    return indices


def _baseline(config: Config, folder: Path, judge: Judge, data: DataSet) -> dict[str, Any]:
    """What the judge sees in the images of another run beside this one."""
    other = _baseline_folder(config, folder)
    saved = json.loads((other / "config.json").read_bytes())
    theirs = Config.model_validate({**saved, "evaluate": config.evaluate, "export": config.export})
    if theirs.data != config.data:
        raise ValueError(f"{other} was trained on other data")
    run, _, network = load_trained(theirs, other)
    found = judged(network, judge, data, config.evaluate.images, config.seed)
    return {
        "recipe": theirs.model.recipe,
        "epochs": len(run.read_history()),
        "parameters": count_parameters(network),
        **found,
    }


def _baseline_folder(config: Config, folder: Path) -> Path:
    other = folder.parent / config.evaluate.baseline
    if not (other / "best.pt").is_file():
        raise FileNotFoundError(
            f"{other} holds no run that has finished an epoch: train the baseline first, "
            "or set evaluate.baseline to another run or to nothing"
        )
    return other


def remembered(network: Generator, data: DataSet, count: int, seed: int, picture: Path) -> dict[str, Any]:
    """How near drawn images come to training images, beside how near those of the test part do.

    The drawn images that come nearest, and what each comes near to, are written to `picture`, one below the other.
    """
    order = torch.randperm(len(data.test), generator=generator("nearest"))[:count]
    unseen = data.test.pixels[order]
    labels = data.test.labels[order]
    pixels = draw_pixels(network, labels, generator(seed, "nearest"))
    drawn, real = (nearest(one, data.train.pixels) for one in (pixels, unseen))
    closest = drawn.distances.argsort()[:_SHOWN]
    rows = [
        one
        for some in closest.split(10)
        for one in (*_filled(pixels[some], 10), *_filled(data.train.pixels[drawn.indices[some]], 10))
    ]
    save_grid(torch.stack(rows), 10, picture)
    low = torch.quantile(real.distances, 0.01)
    return {
        "n": len(labels),
        "unit": "root mean squared difference of pixels, of 0..1",
        "drawn": quantiles(drawn.distances),
        "test": quantiles(real.distances),
        "drawn_nearer_than_percentile_1_of_test": float((drawn.distances < low).float().mean()),
    }


def pupils(network: Generator, data: DataSet, config: Config, folder: Path) -> dict[str, Any]:
    """GAN-train and GAN-test (Shmelkov et al. 2018, arXiv:1807.09499), with a classifier trained for each.

    GAN-train is the accuracy on the real test part of a pupil that has seen drawn images alone, as many as there are
    real ones and of the same classes. GAN-test is the accuracy on drawn images of a pupil that has seen real ones.
    """
    pupil = config.evaluate.pupil
    labels = data.train.labels
    pixels = draw_pixels(network, labels, generator(config.seed, "pupil"))
    drawn = dataclasses.replace(data, train=Part(pixels, labels))
    of_real = train_classifier(
        pupil, data, folder / "pupils" / f"real-{_digest(pupil)}", seed=config.seed, select="epoch"
    )
    of_drawn = train_classifier(
        pupil,
        drawn,
        folder / "pupils" / f"drawn-{_digest(pupil, sha256_of(folder / 'best.pt'))}",
        seed=config.seed,
        select="epoch",
    )
    test_labels = asked_classes(data, config.evaluate.images)
    test_pixels = draw_pixels(network, test_labels, generator(config.seed, "evaluate"))
    real_accuracy, gan_train = (accuracy(one, data, data.test) for one in (of_real, of_drawn))
    return {
        "n_train": len(labels),
        "n_test": len(data.test),
        "real_accuracy": real_accuracy,
        "gan_train": gan_train,
        "points_below_real": 100 * (real_accuracy - gan_train),
        "gan_test": accuracy(of_real, data, Part(test_pixels, test_labels)),
    }


def _digest(config: ClassifierConfig, *more: str) -> str:
    """A name for a pupil, which changes with how it is trained and with what drew its images."""
    return hashlib.sha256("".join((config.model_dump_json(), *more)).encode()).hexdigest()[:12]


def _filled(pixels: Tensor, count: int) -> Tensor:
    """`pixels` (N, C, H, W), followed by black images up to `count`."""
    return torch.cat([pixels, torch.zeros(count - len(pixels), *pixels.shape[1:], dtype=torch.uint8)])
