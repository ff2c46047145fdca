"""Train a character LSTM: text, network, loss and measure, put together for `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.core.bundle import BundleConfig
from training.core.config import ConfigModel
from training.core.loop import FitConfig, best_device, fit
from training.core.provenance import hardware
from training.core.report import plot_history
from training.core.run import Run
from training.core.seeding import seed_everything
from training.text_generation.data import Chunk, DataConfig, Text, chunks_per_epoch, load_text, training_chunks
from training.text_generation.model import CharacterLSTM, ModelConfig, State

_WATCHED_STREAMS, _WATCHED_STEPS, _WARM_UP_STEPS = 32, 1024, 256
WATCHED_CHARACTERS = _WATCHED_STREAMS * _WATCHED_STEPS
"""Of the validation part, from its beginning: what a training is watched by."""


class TrainConfig(ConfigModel):
    """Truncated back-propagation through time, with the state carried from chunk to chunk.

    Attributes:
        streams: places of the text that are read side by side.
        steps: characters of each that a step learns from; gradients reach no farther back.
        reset_probability: how often a stream's state starts from zero at a chunk.
        l1: factor of the sum of absolute values of all matrices, in the loss (L2 is `fit.weight_decay`).
    """

    streams: int = Field(default=64, ge=1)
    steps: int = Field(default=128, ge=1)
    reset_probability: float = Field(default=0.05, ge=0, le=1)
    l1: float = Field(default=0.0, ge=0)


class ExportConfig(BundleConfig):
    """The bundle that is written.

    Attributes:
        max_loss_nats: a character, that int8 may lose against float32 to become the default.
    """

    max_loss_nats: float = 0.01


class Config(ConfigModel):
    """A whole run, as in `config.toml`."""

    seed: int = 1
    data: DataConfig
    model: ModelConfig
    fit: FitConfig
    train: TrainConfig
    export: ExportConfig


class CarriedState:
    """The state in which each stream is, a part of a run's checkpoint."""

    def __init__(self, state: State) -> None:
        self._state = state

    def begin(self, fresh: Tensor) -> State:
        """The state to start a chunk from: zero for streams that are `fresh` (streams,)."""
        kept = ~fresh[:, None, None]
        return self._state[0] * kept, self._state[1] * kept

    def end(self, state: State) -> None:
        """Take the state after a chunk; no gradient goes back through it."""
        self._state = (state[0].detach(), state[1].detach())

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return {"hidden": self._state[0], "cell": self._state[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state."""
        device = self._state[0].device
        self._state = (state_dict["hidden"].to(device), state_dict["cell"].to(device))


def train(config: Config, folder: Path) -> None:
    """Train by `config` in the run folder `folder`, going on where an earlier call was cut off.

    What ships is the average of the weights at the end: nothing is chosen by the validation part, which is only
    watched.
    """
    run = Run(folder, config, ignore={"export"})
    run.add_hardware(hardware())
    seed_everything(config.seed)
    device = best_device()
    text = load_text(config.data)
    asked = config.train
    steps_per_epoch = chunks_per_epoch(text.train, asked.streams, asked.steps)
    if not steps_per_epoch:
        raise ValueError(
            f"{len(text.train)} characters to train on are no {asked.streams} streams of {asked.steps} each"
        )
    model = CharacterLSTM(config.model, len(text.vocabulary)).to(device)
    carried = CarriedState(model.zero_state(asked.streams))

    def loss(network: nn.Module, chunk: Chunk) -> Tensor:
        logits, state = network(chunk.inputs, carried.begin(chunk.fresh))
        carried.end(state)
        value = functional.cross_entropy(logits.flatten(0, 1).float(), chunk.targets.flatten())
        if asked.l1:
            value = value + asked.l1 * sum(weight.abs().sum() for weight in network.parameters() if weight.ndim > 1)
        return value

    fit(
        model,
        batches=lambda epoch, skip: training_chunks(
            text.train,
            streams=asked.streams,
            steps=asked.steps,
            reset_probability=asked.reset_probability,
            seed=config.seed,
            epoch=epoch,
            skip=skip,
            device=device,
        ),
        steps_per_epoch=steps_per_epoch,
        loss=loss,
        evaluate=lambda network: {"validation_loss": watched_loss(network, text)},
        select="epoch",
        config=config.fit,
        run=run,
        carried={"state": carried},
    )
    plot_history(run.read_history(), "validation_loss", folder / "history.png")


@torch.no_grad()
def watched_loss(network: nn.Module, text: Text) -> float:
    """The loss on the first characters of the validation part, in nats a character: enough to watch a training by.

    They are read in many places side by side, each from the zero state after some characters to warm up; what
    `evaluate` measures is exact and takes longer.
    """
    network.eval()
    device = next(network.parameters()).device
    tokens = text.validation[:WATCHED_CHARACTERS]
    streams = max(1, len(tokens) // _WATCHED_STEPS)
    length = len(tokens) // streams
    before = torch.cat([torch.full((_WARM_UP_STEPS + 1,), text.start), tokens])
    rows = [before[number * length : (number + 1) * length + _WARM_UP_STEPS + 1] for number in range(streams)]
    read = torch.stack(rows, 1).to(device)
    state = network.zero_state(streams)  # type: ignore[operator]
    total, count = 0.0, 0
    for begin in range(0, len(read) - 1, _WARM_UP_STEPS):
        targets = read[begin + 1 : begin + _WARM_UP_STEPS + 1]
        logits, state = network(read[begin : begin + len(targets)], state)
        if begin:
            total += float(functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
            count += targets.numel()
    return total / count
