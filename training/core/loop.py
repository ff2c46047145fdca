"""The training loop that supervised tasks share: one `fit()` that reads from top to bottom.

Stochastic gradient descent or AdamW with a schedule a step, a learning rate of its own for each part of the network,
an exponential moving average (EMA) of the weights, mixed precision, checkpoints by the clock, and resuming from the
very batch at which a run was cut off.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.core.config import ConfigModel
from training.core.run import Run, Stateful

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")


class FitConfig(ConfigModel):
    """How a network is trained.

    Attributes:
        epochs: passes over the training part.
        learning_rate: the largest, reached after `warmup_epochs` of linear growth.
        schedule: what follows the warm-up, down to zero at the end (`constant`: no fall).
        restarts: epochs after which the schedule begins anew (Loshchilov and Hutter 2016, arXiv:1608.03983).
        restart_factor: how much of the learning rate each new beginning has of the one before.
        learning_rate_scale: factor for a part of the network, by its attribute name (smaller for what is fine-tuned).
        weight_decay: L2, on matrices and filters; never on biases and normalisation.
        ema_decay: of the averaged weights, a step; 0 = no averaging.
        clip_norm: largest norm of the gradient.
        precision: `auto` is bfloat16 where the device computes in it, else float32.
    """

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    restarts: tuple[int, ...] = ()
    restart_factor: float = Field(default=0.3, gt=0)
    learning_rate_scale: Mapping[str, float] = {}
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    clip_norm: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: float = 3.0

    @model_validator(mode="after")
    def _restarts_in_order(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise((self.warmup_epochs, *self.restarts))):
            raise ValueError("restarts must rise, and come after the warm-up")
        return self


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    model: nn.Module,
    *,
    batches: Callable[[int, int], Iterator[Batch]],
    steps_per_epoch: int,
    loss: Callable[[nn.Module, Batch], Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    select: str,
    config: FitConfig,
    run: Run,
    carried: Mapping[str, Stateful] | None = None,
) -> None:
    """Train `model` and leave the best weights (by `select`) in the run's folder.

    Args:
        model: on its device already.
        batches: `(epoch, skip)` -> the batches of that epoch after the first `skip`; must depend on these two alone.
        steps_per_epoch: how many batches an epoch has.
        loss: of one batch, a scalar.
        evaluate: measures of a model on the validation part, after each epoch, on the averaged weights.
        select: the measure whose largest value decides which weights are kept; `epoch` keeps the last.
        config: see `FitConfig`.
        run: where checkpoints and the history go; a checkpoint found there is resumed.
        carried: what else goes from step to step, e.g. a recurrent network's state, so that it is resumed too.
    """
    device = next(model.parameters()).device
    optimiser = _optimiser(model, config)
    total_steps = config.epochs * steps_per_epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(config, steps_per_epoch, total_steps))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
    parts: dict[str, Stateful] = {"model": model, "averaged": averaged, "optimiser": optimiser, "scheduler": scheduler}
    parts |= carried or {}
    step = run.restore(parts)
    losses, seconds = [value.to(device) for value in run.losses], run.seconds  # of an epoch that was cut off
    precision = _precision(config, device)
    saved_at = time.monotonic()

    for epoch in range(step // steps_per_epoch, config.epochs):
        started = time.monotonic() - seconds
        model.train()
        progress = tqdm(
            batches(epoch, step % steps_per_epoch),
            desc=f"epoch {epoch + 1}/{config.epochs}",
            initial=step % steps_per_epoch,
            total=steps_per_epoch,
            mininterval=5,
        )
        for batch in progress:
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                value = loss(model, batch)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            scheduler.step()
            averaged.update_parameters(model)
            step += 1
            losses.append(value.detach())
            # Not after an epoch's last step: a run resumed there would miss that epoch's evaluation.
            if step % steps_per_epoch and time.monotonic() - saved_at > config.checkpoint_minutes * 60:
                run.checkpoint(parts, step, losses, time.monotonic() - started)
                saved_at = time.monotonic()
        measures = evaluate(averaged.module)
        row: dict[str, float] = {
            "epoch": epoch + 1,
            "train_loss": float(torch.stack(losses).mean()),
            **measures,
            "learning_rate": max(float(rate) for rate in scheduler.get_last_lr()),
            "seconds": time.monotonic() - started,
        }
        if run.record(row, select):
            run.save_best(averaged.module)
        run.checkpoint(parts, step)
        losses, seconds = [], 0.0
        logger.info("%s", " ".join(f"{name}={value:.4g}" for name, value in row.items()))


def _optimiser(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """Group parameters by part of the network (its learning rate) and by whether weight decay applies to them."""
    unknown = set(config.learning_rate_scale) - {name for name, _ in model.named_children()}
    if unknown:
        raise ValueError(f"learning_rate_scale names {sorted(unknown)}, which the model does not have")
    groups = []
    parts = [(name, part.parameters()) for name, part in model.named_children()]
    seen: set[nn.Parameter] = set()  # tied weights belong to the first part that has them
    for name, parameters in (*parts, ("", model.parameters(recurse=False))):
        rate = config.learning_rate * config.learning_rate_scale.get(name, 1.0)
        trained = [parameter for parameter in parameters if parameter.requires_grad and parameter not in seen]
        seen.update(trained)
        for decay, members in (
            (config.weight_decay, [parameter for parameter in trained if parameter.ndim > 1]),
            (0.0, [parameter for parameter in trained if parameter.ndim <= 1]),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "weight_decay": decay})
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)


def _schedule(config: FitConfig, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    """The learning rate of a step, as a factor of the largest."""
    warmup = config.warmup_epochs * steps_per_epoch
    begins = [warmup, *(epoch * steps_per_epoch for epoch in config.restarts if epoch < config.epochs)]
    ends = [*begins[1:], total_steps]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        cycle = bisect_right(begins, step) - 1
        begin, end = begins[cycle], ends[cycle]
        done = min(1.0, (step - begin) / max(1.0, end - begin))
        peak = config.restart_factor**cycle
        if config.schedule == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        return peak * (1 - done) if config.schedule == "linear" else peak

    return factor


def _precision(config: FitConfig, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for plain float32."""
    if config.precision == "float32":
        return None
    if config.precision == "auto" and not computes_in_bfloat16(device):
        return None
    return torch.bfloat16


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 makes `device` faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # PyTorch would emulate it elsewhere, which is slower than float32.
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_avx512_bf16_supported())
