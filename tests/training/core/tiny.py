"""A run of `fit` that takes milliseconds: in this process, or as a program that kills itself.

python -m tests.training.core.tiny FOLDER STEP      kills itself, as nothing can be caught, in that step
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.loop import FitConfig, fit
from training.core.run import Run
from training.core.seeding import generator, seed_everything

EPOCHS, STEPS = 3, 4
CONFIG = FitConfig(epochs=EPOCHS, learning_rate=0.2, warmup_epochs=0.5, ema_decay=0.8, weight_decay=0.01)

Batch = tuple[int, Tensor, Tensor]


class TinyNet(nn.Module):
    """All that a checkpoint must hold: weights, statistics of a normalisation, and dropout's randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 4) to logits (N, 3)."""
        y: Tensor = self.last(self.dropout(functional.relu(self.norm(self.first(x)))))
        return y


def batches(epoch: int, skip: int) -> Iterator[Batch]:
    """The batches of an epoch, each with the number of its step from 1 on, counted over all epochs."""
    for step in range(skip, STEPS):
        images = torch.randn(6, 4, generator=generator("batch", epoch, step))
        yield epoch * STEPS + step + 1, images, (images[:, 0] > 0).long() + (images[:, 1] > 0).long()


def evaluate(network: nn.Module) -> dict[str, float]:
    """How well the network does on a fixed batch."""
    images = torch.randn(64, 4, generator=generator("validation"))
    truth = (images[:, 0] > 0).long() + (images[:, 1] > 0).long()
    network.eval()
    with torch.no_grad():
        return {"score": -float(functional.cross_entropy(network(images), truth))}


def nothing(_: int) -> None:
    """Let the run go on."""


def tiny_run(
    run: Run,
    *,
    config: FitConfig = CONFIG,
    before_step: Callable[[int], None] = nothing,
    before_evaluation: Callable[[int], None] = nothing,
) -> TinyNet:
    """Train a `TinyNet` from its fixed initial weights, or go on with it, and return it.

    Args:
        run: of the configuration `config`.
        config: of the training.
        before_step: called with the number of each step from 1 on, before its loss is computed.
        before_evaluation: called with the number of each epoch from 1 on, before it is evaluated.
    """
    seed_everything(11)
    model = TinyNet()

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        number, images, truth = batch
        before_step(number)
        return functional.cross_entropy(network(images), truth)

    def measured(network: nn.Module) -> dict[str, float]:
        before_evaluation(len(run.history) + 1)
        return evaluate(network)

    fit(
        model,
        batches=batches,
        steps_per_epoch=STEPS,
        loss=loss,
        evaluate=measured,
        select="score",
        config=config,
        run=run,
    )
    return model


def _kill_at(fatal: int) -> Callable[[int], None]:
    def before_step(step: int) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    return before_step


if __name__ == "__main__":
    torch.set_num_threads(1)
    often = CONFIG.model_copy(update={"checkpoint_minutes": 0.0})
    tiny_run(Run(Path(sys.argv[1]), often), config=often, before_step=_kill_at(int(sys.argv[2])))
