"""Classifiers that measure a generator and take no part in its training.

The *judge* is trained on the real training part, once, before the generator: it watches and measures, and nothing of
it comes back to the networks that it looks at. *Pupils* are trained in `evaluate`, on real and on drawn images. All are
image classification's network, trained by that task's batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.config import ConfigModel
from training.core.loop import FitConfig, best_device, fit
from training.core.run import Run, finished_run
from training.core.seeding import seed_everything
from training.image_classification.augment import AugmentConfig
from training.image_classification.data import DataSet, training_batches
from training.image_classification.model import ModelConfig, ResNet, build_model
from training.image_classification.train import accuracy

_AT_ONCE = 500


class ClassifierConfig(ConfigModel):
    """How a classifier is trained; its tables are those of image classification."""

    model: ModelConfig
    augment: AugmentConfig
    fit: FitConfig
    batch_size: int = 128
    label_smoothing: float = 0.0


class _Identity(ConfigModel):
    """What a classifier's run is of."""

    seed: int
    classifier: ClassifierConfig


def train_classifier(
    config: ClassifierConfig,
    data: DataSet,
    folder: Path,
    *,
    seed: int,
    select: Literal["validation_accuracy", "epoch"] = "validation_accuracy",
) -> ResNet:
    """Train a classifier on `data` in the run folder `folder`, or go on with it, and return it in evaluation mode.

    Args:
        config: see `ClassifierConfig`.
        data: whose training part is learnt from.
        folder: of this classifier alone.
        seed: of its initial weights, and of the order and the changes of images.
        select: which epoch's weights are kept: the best on the validation part, or the last (`epoch`).
    """
    run = Run(folder, _Identity(seed=seed, classifier=config))
    seed_everything(seed)
    device = best_device()
    model = build_model(config.model, channels=data.preprocessing.channels, classes=len(data.labels)).to(device)
    size = min(config.batch_size, len(data.train))

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(network(images).float(), labels, label_smoothing=config.label_smoothing)

    fit(
        model,
        batches=lambda epoch, skip: training_batches(
            data, size, config.augment, seed=seed, epoch=epoch, skip=skip, device=device
        ),
        steps_per_epoch=len(data.train) // size,
        loss=loss,
        evaluate=lambda network: {"validation_accuracy": accuracy(network, data, data.validation)},
        select=select,
        config=config.fit,
        run=run,
    )
    run.load_best(model)
    return model.eval()


def load_classifier(config: ClassifierConfig, data: DataSet, folder: Path, *, seed: int) -> ResNet:
    """The classifier that `train_classifier` left in `folder`, in evaluation mode.

    Raises:
        FileNotFoundError: it has not finished an epoch.
        ValueError: it was trained by another configuration.
    """
    run = finished_run(folder, _Identity(seed=seed, classifier=config), ignore=())
    how = config.model.model_copy(update={"initial_weights": "random"})
    model = build_model(how, channels=data.preprocessing.channels, classes=len(data.labels))
    run.load_best(model)
    return model.to(best_device()).eval()


class Judge:
    """Says what class images have, and describes each by the features that the classifier's last layer reads.

    Args:
        network: a trained classifier.
        data: that it was trained on; its normalisation is the network's.
    """

    def __init__(self, network: ResNet, data: DataSet) -> None:
        self._network = network.eval()
        self._data = data

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map bytes (N, C, H, W) to probabilities (N, classes) and features (N, width), float32, on the CPU."""
        device = next(self._network.parameters()).device
        probabilities, features = [], []
        for some in pixels.split(_AT_ONCE):
            network = self._network
            x = self._data.normalised(some.to(device))
            x = network.stage3(network.stage2(network.stage1(network.stem(x)))).mean((2, 3))
            probabilities.append(network.head(x).softmax(1).cpu())
            features.append(x.cpu())
        return torch.cat(probabilities), torch.cat(features)
