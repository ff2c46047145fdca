"""Fine-tune a classifier: data, network, loss and measure, put together for `fit`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.bundle import BundleConfig
from training.core.config import ConfigModel
from training.core.loop import FitConfig, best_device, fit
from training.core.provenance import hardware
from training.core.report import plot_history
from training.core.run import Run
from training.core.seeding import seed_everything
from training.image_classification.augment import AugmentConfig
from training.image_classification.data import DataConfig, DataSet, Part, load_data, training_batches
from training.image_classification.model import ModelConfig, build_model


class TrainConfig(ConfigModel):
    """What the loss sees: images a step, and how much of the target is spread over all classes."""

    batch_size: int = 128
    label_smoothing: float = 0.0


class ExportConfig(BundleConfig):
    """The bundle that is written.

    Attributes:
        calibration_images: of the training part, by which int8's ranges are chosen.
        max_loss_points: accuracy that int8 may lose against float32, in points, to become the default.
    """

    calibration_images: int = 512
    max_loss_points: float = 0.2


class Config(ConfigModel):
    """A whole run, as in `config.toml`."""

    seed: int = 1
    data: DataConfig
    model: ModelConfig
    augment: AugmentConfig
    fit: FitConfig
    train: TrainConfig
    export: ExportConfig


def train(config: Config, folder: Path) -> None:
    """Train by `config` in the run folder `folder`, going on where an earlier call was cut off."""
    run = Run(folder, config, ignore={"export"})
    run.add_hardware(hardware())
    seed_everything(config.seed)
    device = best_device()
    data = load_data(config.data)
    steps_per_epoch = len(data.train) // config.train.batch_size
    if not steps_per_epoch:
        raise ValueError(f"{len(data.train)} images to train on are no batch of {config.train.batch_size}")
    model = build_model(config.model, channels=data.preprocessing.channels, classes=len(data.labels)).to(device)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(network(images).float(), labels, label_smoothing=config.train.label_smoothing)

    fit(
        model,
        batches=lambda epoch, skip: training_batches(
            data, config.train.batch_size, config.augment, seed=config.seed, epoch=epoch, skip=skip, device=device
        ),
        steps_per_epoch=steps_per_epoch,
        loss=loss,
        evaluate=lambda network: {"validation_accuracy": accuracy(network, data, data.validation)},
        select="validation_accuracy",
        config=config.fit,
        run=run,
    )
    plot_history(run.read_history(), "validation_accuracy", folder / "history.png")


def accuracy(network: nn.Module, data: DataSet, part: Part) -> float:
    """The share of `part` that `network` classifies rightly, 0..1."""
    return float((logits(network, data, part).argmax(1) == part.labels).float().mean())


@torch.no_grad()
def logits(network: nn.Module, data: DataSet, part: Part) -> Tensor:
    """The network's outputs for all images of `part`: (N, classes), float32, on the CPU."""
    device = next(network.parameters()).device
    network.eval()
    return torch.cat([network(data.normalised(pixels.to(device))).float().cpu() for pixels in part.pixels.split(500)])
