"""Train a generator against a discriminator, in a loop of its own, and the text encoder that tells it what to draw.

In the run's folder lie, beside what every run has: `text/`, the text encoder; `judge/`, a classifier; both were trained
before. And `samples/`, a grid of drawn images after each epoch, of the same latents each time; `watch.png`.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.core.bundle import BundleConfig
from training.core.config import ConfigModel
from training.core.loop import best_device, computes_in_bfloat16
from training.core.provenance import hardware
from training.core.run import Run, Stateful
from training.core.seeding import generator, seed_everything
from training.image_classification.data import DataConfig, DataSet
from training.image_generation.captions import load_captions
from training.image_generation.classifier import ClassifierConfig, Judge, train_classifier
from training.image_generation.data import (
    Batch,
    conditions_of,
    draw_latents,
    load_pictures,
    to_pixels,
    training_batches,
)
from training.image_generation.losses import changed, discriminator_loss, generator_loss, gradient_penalty
from training.image_generation.model import Discriminator, Generator, ModelConfig
from training.image_generation.pictures import plot_watch, save_grid
from training.image_generation.scores import (
    frechet_distance,
    label_agreement,
    label_entropy,
    spread_within_classes,
)
from training.image_generation.text import TextConfig, train_text

logger = logging.getLogger(__name__)

NOT_OF_THE_RUN = frozenset({"export", "evaluate"})
"""Tables of a configuration that don't change how a generator is trained."""

JUDGE, TEXT = "judge", "text"

Paint = Callable[[Tensor, Tensor], Tensor]
"""From latents (N, numbers) and conditions (N, classes) to bytes (N, C, H, W)."""

_AT_ONCE = 250
_SAMPLES_A_CLASS = 10
_SETTLING_BATCHES = 20


class FitConfig(ConfigModel):
    """How the two networks are trained.

    Attributes:
        epochs: passes of the discriminator over the training part.
        batch_size: real images a step, and drawn ones.
        learning_rate: of the generator.
        discriminator_learning_rate: of the discriminator.
        betas: of Adam, for both.
        decay: share of all steps, at the end, over which the learning rates fall linearly to zero.
        penalty: weight of the gradient penalty R1; 0 = none.
        penalty_every: steps from one penalty to the next, which is larger by as much.
        shift: of real and drawn images before they are judged, a share of a side; 0 = none.
        cutout: side of the square that is cut out of them, a share of a side; 0 = none.
        ema_decay: of the generator's averaged weights, a step.
        precision: of both networks' layers; `auto` is bfloat16 where the device computes in it, else float32. The
            penalty and the losses are float32 always.
        checkpoint_minutes: between checkpoints.
        watched: images drawn after each epoch to watch the training by.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=2e-4, gt=0)
    discriminator_learning_rate: float = Field(default=4e-4, gt=0)
    betas: tuple[float, float] = (0.0, 0.9)
    decay: float = Field(default=0.5, ge=0, le=1)
    penalty: float = Field(default=0.0, ge=0)
    penalty_every: int = Field(default=16, ge=1)
    shift: float = Field(default=0.0, ge=0, lt=1)
    cutout: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: float = 3.0
    watched: int = Field(default=2000, ge=2)


class EvaluateConfig(ConfigModel):
    """How a generator is measured.

    Attributes:
        images: drawn for the judge and for the Fréchet distance.
        truncations: factors of latents with which all that the judge sees is measured too.
        nearest: images whose nearest training images are looked for.
        pupil: a classifier that is trained on drawn images, and one alike on real ones.
        baseline: name of another run beside this one, which is measured by the same judge.
    """

    images: int = Field(default=10_000, ge=2)
    truncations: tuple[float, ...] = ()
    nearest: int = Field(default=1000, ge=1)
    pupil: ClassifierConfig
    baseline: str = ""


class ExportConfig(BundleConfig):
    """The bundle that is written.

    Attributes:
        min_agreement: images are drawn with the largest truncation of 1 and `evaluate.truncations` with which the judge
            agrees with this share of them; 0 = with 1.
        classifier: name of a model in the same folder whose agreement is measured too; empty = none.
        seeds: how many images it looks at: the first of each seed from 0 on. The prompt of a seed names the class
            `seed % classes`.
        caption: that prompt, with `{label}` where the class's name goes.
        texts: whose readings the card shows.
        interpolations: pairs of classes between which the card shows the way.
        arithmetic: classes a, b, c of which the card shows a - b + c.
    """

    min_agreement: float = Field(default=0.0, ge=0, le=1)
    classifier: str = ""
    seeds: int = Field(default=1000, ge=1)
    caption: str = Field(default="a picture of a {label}", pattern=r"\{label\}")
    texts: tuple[str, ...] = ()
    interpolations: tuple[tuple[str, str], ...] = ()
    arithmetic: tuple[tuple[str, str, str], ...] = ()


class Config(ConfigModel):
    """A whole run, as in `config.toml`."""

    seed: int = 1
    data: DataConfig
    model: ModelConfig
    fit: FitConfig
    judge: ClassifierConfig
    text: TextConfig = TextConfig()
    evaluate: EvaluateConfig
    export: ExportConfig

    @model_validator(mode="after")
    def _text_needs_classes(self) -> Self:
        if self.text.captions and not self.model.conditional:
            raise ValueError(
                "text can only say what to draw where classes do: set model.conditional, or no text.captions"
            )
        return self


def train(config: Config, folder: Path) -> None:
    """Train by `config` in the run folder `folder`, going on where an earlier call was cut off.

    What ships is the generator's averaged weights at the end: nothing is chosen by the judge, which only watches.
    """
    run = Run(folder, config, ignore=NOT_OF_THE_RUN)
    run.add_hardware(hardware())
    data = load_pictures(config.data)
    if not len(data.train) // config.fit.batch_size:
        raise ValueError(f"{len(data.train)} images to train on are no batch of {config.fit.batch_size}")
    if config.text.captions:
        captions = load_captions(config.text.captions, data.labels)
        train_text(config.text, captions, folder / TEXT, seed=config.seed)
    judge = Judge(train_classifier(config.judge, data, folder / JUDGE, seed=config.seed), data)
    fit_gan(config, data, judge, run)


def fit_gan(config: Config, data: DataSet, judge: Judge, run: Run) -> None:
    """Train both networks in alternation, and leave the generator's averaged weights in the run's folder."""
    asked, recipe = config.fit, config.model.recipe
    seed_everything(config.seed)  # the initial weights don't depend on what was trained before
    device = best_device()
    halved = asked.precision == "bfloat16" or (asked.precision == "auto" and computes_in_bfloat16(device))
    painter, critic = build_networks(config, data)
    for network in (painter, critic):
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(painter, multi_avg_fn=get_ema_multi_avg_fn(asked.ema_decay))
    painter_steps = torch.optim.Adam(painter.parameters(), asked.learning_rate, asked.betas)
    critic_steps = torch.optim.Adam(critic.parameters(), asked.discriminator_learning_rate, asked.betas)
    parts: dict[str, Stateful] = {
        "generator": painter,
        "discriminator": critic,
        "averaged": averaged,
        "generator_optimiser": painter_steps,
        "discriminator_optimiser": critic_steps,
    }
    steps_per_epoch = len(data.train) // asked.batch_size
    total = asked.epochs * steps_per_epoch
    step = run.restore(parts)
    losses, seconds = [value.to(device) for value in run.losses], run.seconds  # of an epoch that was cut off
    real = judge(data.validation.pixels)
    saved_at = time.monotonic()

    def judged(images: Tensor, conditions: Tensor, part: str) -> Tensor:
        draw = generator(config.seed, "changes", part, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=halved):
            answer: Tensor = critic(changed(images, asked.shift, asked.cutout, draw), conditions)
        return answer.float()

    def drawn(latents: Tensor, conditions: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=halved):
            image: Tensor = painter(latents, conditions)
        return image.float()

    def train_discriminator(batch: Batch) -> Tensor:
        with torch.no_grad():
            fakes = drawn(batch.latents, batch.conditions)
        if recipe == "dcgan":  # real and drawn images are normalised apart
            real = judged(batch.images, batch.conditions, "real")
            fake = judged(fakes, batch.conditions, "drawn")
        else:
            both = judged(torch.cat([batch.images, fakes]), batch.conditions.repeat(2, 1), "both")
            real, fake = both.chunk(2)
        value = discriminator_loss(real, fake, recipe)
        total_loss = value
        if asked.penalty and step % asked.penalty_every == 0:
            weight = asked.penalty / 2 * asked.penalty_every
            total_loss = value + weight * gradient_penalty(critic, batch.images, batch.conditions)
        critic_steps.zero_grad(set_to_none=True)
        total_loss.backward()
        critic_steps.step()
        return value.detach()

    def train_generator(batch: Batch) -> Tensor:
        critic.requires_grad_(False)
        images = drawn(batch.other_latents, batch.other_conditions)
        value = generator_loss(judged(images, batch.other_conditions, "other"), recipe)
        painter_steps.zero_grad(set_to_none=True)
        value.backward()
        painter_steps.step()
        critic.requires_grad_(True)
        averaged.update_parameters(painter)
        return value.detach()

    for epoch in range(step // steps_per_epoch, asked.epochs):
        started = time.monotonic() - seconds
        painter.train()
        critic.train()
        batches = training_batches(
            data,
            asked.batch_size,
            classes=painter.classes,
            latent=painter.latent,
            seed=config.seed,
            epoch=epoch,
            skip=step % steps_per_epoch,
            device=device,
        )
        for batch in tqdm(
            batches,
            desc=f"epoch {epoch + 1}/{asked.epochs}",
            initial=step % steps_per_epoch,
            total=steps_per_epoch,
            mininterval=5,
        ):
            factor = min(1.0, (total - step) / (asked.decay * total)) if asked.decay else 1.0
            for optimiser, rate in (
                (painter_steps, asked.learning_rate),
                (critic_steps, asked.discriminator_learning_rate),
            ):
                for group in optimiser.param_groups:
                    group["lr"] = rate * factor
            losses.append(torch.stack([train_discriminator(batch), train_generator(batch)]))
            step += 1
            # Not after an epoch's last step: a run resumed there would miss that epoch's watch.
            if step % steps_per_epoch and time.monotonic() - saved_at > asked.checkpoint_minutes * 60:
                run.checkpoint(parts, step, losses, time.monotonic() - started)
                saved_at = time.monotonic()
        settled = settle(averaged.module, data, config.seed)
        critic_loss, painter_loss = torch.stack(losses).mean(0).tolist()
        row: dict[str, float] = {
            "epoch": epoch + 1,
            "discriminator_loss": critic_loss,
            "generator_loss": painter_loss,
            **watch(settled, judge, real, data, config),
            "seconds": time.monotonic() - started,
        }
        run.record(row, "epoch")
        run.save_best(settled)
        save_samples(settled, run.folder / "samples" / f"epoch-{epoch + 1:03}.png", config.seed)
        plot_watch(run.history, run.folder / "watch.png")
        run.checkpoint(parts, step)
        losses, seconds = [], 0.0
        logger.info("%s", " ".join(f"{name}={value:.4g}" for name, value in row.items()))


def build_networks(config: Config, data: DataSet) -> tuple[Generator, Discriminator]:
    """The two networks of `config` for the images of `data`, with new weights."""
    return build_generator(config, data), Discriminator(config.model, **_shape(config, data))


def build_generator(config: Config, data: DataSet) -> Generator:
    """The generator of `config` for the images of `data`, with new weights."""
    return Generator(config.model, **_shape(config, data))


def _shape(config: Config, data: DataSet) -> dict[str, int]:
    return {
        "size": data.preprocessing.width,
        "channels": data.preprocessing.channels,
        "classes": len(data.labels) if config.model.conditional else 1,
    }


@torch.no_grad()
def settle(network: nn.Module, data: DataSet, seed: int) -> Generator:
    """A copy of a generator, in evaluation mode, with the statistics that its own weights give.

    Averaged weights have had no images of their own: what was normalised by until now are other weights' images.
    """
    settled: Generator = copy.deepcopy(network)  # type: ignore[assignment]
    for module in settled.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    settled.train()
    draw = generator(seed, "settle")
    device = next(settled.parameters()).device
    for _ in range(_SETTLING_BATCHES):
        labels = data.train.labels[torch.randint(len(data.train), (_AT_ONCE,), generator=draw)]
        latents = draw_latents(_AT_ONCE, settled.latent, draw)
        settled(latents.to(device), conditions_of(labels, settled.classes).to(device))
    return settled.eval()


def draw_pixels(network: Generator, labels: Tensor, draw: torch.Generator, truncation: float = 1.0) -> Tensor:
    """Draw an image of each class number in `labels` (N,): bytes (N, C, H, W), on the CPU.

    Latents are multiplied by `truncation`: below 1, images are more like each other, and more surely of their class.
    """
    network.eval()
    device = next(network.parameters()).device

    @torch.no_grad()
    def paint(latents: Tensor, conditions: Tensor) -> Tensor:
        return to_pixels(network(latents.to(device), conditions.to(device))).cpu()

    return painted(paint, labels, draw, latent=network.latent, classes=network.classes, truncation=truncation)


def painted(
    paint: Paint, labels: Tensor, draw: torch.Generator, *, latent: int, classes: int, truncation: float
) -> Tensor:
    """What `draw_pixels` does, with whatever makes bytes of latents and conditions."""
    pixels = [
        paint(truncation * draw_latents(len(some), latent, draw), conditions_of(some, classes))
        for some in labels.split(_AT_ONCE)
    ]
    return torch.cat(pixels)


def even_labels(count: int, classes: int) -> Tensor:
    """`count` class numbers, each as often as any other."""
    return torch.arange(count) % classes


def watch(
    network: Generator, judge: Judge, real: tuple[Tensor, Tensor], data: DataSet, config: Config
) -> dict[str, float]:
    """What shows that a generator collapses: by a judge, on the same latents each time.

    Beside it is `real`, what the judge says of the validation part. The entropy falls when only some classes are
    drawn, the spread within classes (1 is that of the validation part) when all images of a class look alike.
    """
    labels = even_labels(config.fit.watched, len(data.labels))
    probabilities, features = judge(draw_pixels(network, labels, generator(config.seed, "watch")))
    real_probabilities, real_features = real
    # An unconditional generator was not asked for classes: they are those that the judge sees.
    asked = network.classes > 1
    seen = labels if asked else probabilities.argmax(1)
    real_labels = data.validation.labels if asked else real_probabilities.argmax(1)
    found = {
        "label_entropy": label_entropy(probabilities),
        "relative_spread": spread_within_classes(features, seen)
        / max(spread_within_classes(real_features, real_labels), 1e-12),
        "frechet_distance": frechet_distance(features, real_features),
    }
    return {"label_agreement": label_agreement(probabilities, labels), **found} if asked else found


def save_samples(network: Generator, path: Path, seed: int) -> None:
    """Write a grid of drawn images, a class in each row, of the same latents each time."""
    rows = network.classes if network.classes > 1 else _SAMPLES_A_CLASS
    labels = torch.arange(rows).repeat_interleave(_SAMPLES_A_CLASS)
    save_grid(draw_pixels(network, labels, generator(seed, "samples")), _SAMPLES_A_CLASS, path)
