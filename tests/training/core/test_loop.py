from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.core.tiny import CONFIG, EPOCHS, STEPS, TinyNet, tiny_run
from training.core import loop
from training.core.loop import FitConfig, fit
from training.core.run import Run, Stateful

ROOT = Path(__file__).parents[3]
OFTEN = CONFIG.model_copy(update={"checkpoint_minutes": 0.0})
"""With a checkpoint after every step."""

SELDOM = CONFIG.model_copy(update={"checkpoint_minutes": 1e6})
"""With a checkpoint after every epoch and none in between."""


# Resuming


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves, but for how long it took."""

    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    history: list[dict[str, float]]

    def assert_equals(self, other: Outcome) -> None:
        """Compare bit for bit."""
        for mine, others in ((self.weights, other.weights), (self.best, other.best)):
            assert mine.keys() == others.keys()
            assert [name for name in mine if not torch.equal(mine[name], others[name])] == []
        assert self.history == other.history


def _outcome(model: nn.Module, run: Run) -> Outcome:
    best = TinyNet()
    run.load_best(best)
    assert run.read_history() == run.history
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]
    return Outcome(dict(model.state_dict()), dict(best.state_dict()), history)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run = Run(tmp_path_factory.mktemp("uninterrupted"), CONFIG)
    return _outcome(tiny_run(run), run)


def _kill_at(fatal: int) -> Callable[[int], None]:
    def check(number: int) -> None:
        if number == fatal:
            raise Killed

    return check


def _resumed(folder: Path, config: FitConfig) -> Outcome:
    run = Run(folder, config)
    return _outcome(tiny_run(run, config=config), run)


@pytest.mark.parametrize("config", [OFTEN, SELDOM], ids=["a checkpoint every step", "a checkpoint every epoch"])
@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_a_run_killed_in_any_step_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Outcome, step: int, config: FitConfig
) -> None:
    with pytest.raises(Killed):
        tiny_run(Run(tmp_path, config), config=config, before_step=_kill_at(step))
    _resumed(tmp_path, config).assert_equals(uninterrupted)


@pytest.mark.parametrize("config", [OFTEN, SELDOM], ids=["a checkpoint every step", "a checkpoint every epoch"])
@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_a_run_killed_while_it_evaluates_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Outcome, epoch: int, config: FitConfig
) -> None:
    with pytest.raises(Killed):
        tiny_run(Run(tmp_path, config), config=config, before_evaluation=_kill_at(epoch))
    _resumed(tmp_path, config).assert_equals(uninterrupted)


@dataclass
class _Mortal:
    """Dies at the given call."""

    calls: int
    seen: int = 0

    def __call__(self) -> None:
        self.seen += 1
        if self.seen == self.calls:
            raise Killed


class DyingRun(Run):
    """A run that is killed around one of its writes."""

    def __init__(self, folder: Path, config: FitConfig, **moments: int) -> None:
        super().__init__(folder, config)
        self._moments = {name: _Mortal(call) for name, call in moments.items()}

    def _pass(self, moment: str) -> None:
        if moment in self._moments:
            self._moments[moment]()

    def checkpoint(self, parts: Mapping[str, Stateful], step: int, *more: Any, **named: Any) -> None:
        self._pass("before_checkpoint")
        super().checkpoint(parts, step, *more, **named)
        self._pass("after_checkpoint")

    def save_best(self, model: nn.Module) -> None:
        self._pass("before_best")
        super().save_best(model)


@pytest.mark.parametrize("moment", ["before_checkpoint", "after_checkpoint", "before_best"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_run_killed_around_a_write_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Outcome, moment: str, call: int
) -> None:
    with pytest.raises(Killed):
        tiny_run(DyingRun(tmp_path, SELDOM, **{moment: call}), config=SELDOM)
    _resumed(tmp_path, SELDOM).assert_equals(uninterrupted)


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path, uninterrupted: Outcome) -> None:
    for step in (2, 3, 3, 4, 9, 12):
        with pytest.raises(Killed):
            tiny_run(Run(tmp_path, OFTEN), config=OFTEN, before_step=_kill_at(step))
    _resumed(tmp_path, OFTEN).assert_equals(uninterrupted)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system can't kill a process for good")
def test_a_process_that_was_killed_for_good_is_gone_on_with_to_the_same_bits(
    tmp_path: Path, uninterrupted: Outcome
) -> None:
    command = [sys.executable, "-m", "tests.training.core.tiny", str(tmp_path), "7"]
    died = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    seen: list[int] = []
    run = Run(tmp_path, OFTEN)
    model = tiny_run(run, config=OFTEN, before_step=seen.append)
    assert seen == list(range(7, EPOCHS * STEPS + 1))
    _outcome(model, run).assert_equals(uninterrupted)


def test_a_finished_run_is_not_trained_any_further(tmp_path: Path, uninterrupted: Outcome) -> None:
    tiny_run(Run(tmp_path, CONFIG))
    seen: list[int] = []
    run = Run(tmp_path, CONFIG)
    model = tiny_run(run, before_step=seen.append)
    assert seen == []
    _outcome(model, run).assert_equals(uninterrupted)


def test_an_epoch_that_was_cut_off_counts_the_time_before_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def a_second_passes(_: int) -> None:
        now[0] += 1.0

    def a_second_passes_and_the_sixth_is_the_last(step: int) -> None:
        a_second_passes(step)
        _kill_at(6)(step)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(Killed):
        tiny_run(Run(tmp_path, OFTEN), config=OFTEN, before_step=a_second_passes_and_the_sixth_is_the_last)
    now[0] = -1000.0  # the clock of another boot
    run = Run(tmp_path, OFTEN)
    tiny_run(run, config=OFTEN, before_step=a_second_passes)
    assert [row["seconds"] for row in run.history] == [STEPS] * EPOCHS


def test_the_history_names_epoch_loss_measure_rate_and_time(tmp_path: Path) -> None:
    run = Run(tmp_path, CONFIG)
    tiny_run(run)
    assert [row["epoch"] for row in run.read_history()] == [1, 2, 3]
    assert set(run.read_history()[0]) == {"epoch", "train_loss", "score", "learning_rate", "seconds"}


# The arithmetic of a step: with one weight each and gradients that are known, every number can be worked out by hand.


near = partial(pytest.approx, abs=1e-6)
"""Equal but for what float32 does to numbers around 1."""


class Known(nn.Module):
    """A network whose every value starts at 1, in two parts, with a normalisation that has statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 1)
        for parameter in self.parameters():
            nn.init.ones_(parameter)


def plain(**changes: Any) -> FitConfig:
    """Steps of 0.1 times the gradient and nothing else, unless `changes` say so."""
    nothing_else: dict[str, Any] = {
        "epochs": 1,
        "learning_rate": 0.1,
        "warmup_epochs": 0,
        "schedule": "constant",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "ema_decay": 0.0,
        "precision": "float32",
    }
    return FitConfig(**{**nothing_else, **changes})


def _sum_of_values(network: nn.Module) -> Tensor:
    """A loss whose gradient is 1 everywhere."""
    return torch.stack([parameter.sum() for parameter in network.parameters()]).sum()


@dataclass
class Watched:
    """What was seen of a training: the weights before each step and at its end, and the averaged ones evaluated."""

    model: nn.Module
    before: list[dict[str, Tensor]] = field(default_factory=list)
    evaluated: list[dict[str, Tensor]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """The course of a value (the first of a tensor)."""
        course = [*self.before, self.model.state_dict()]
        return [float(state[name].flatten()[0]) for state in course]

    def steps(self, name: str) -> list[float]:
        """How far each step moved it."""
        values = self.values(name)
        return [before - after for before, after in pairwise(values)]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def train(
    folder: Path,
    config: FitConfig,
    *,
    model: nn.Module | None = None,
    steps_per_epoch: int = 1,
    loss: Callable[[nn.Module], Tensor] = _sum_of_values,
    scores: tuple[float, ...] = (),
) -> Watched:
    """Fit a network, by default a `Known` one, to a loss that needs no data."""
    watched = Watched(model or Known())
    score = iter(scores)

    def batches(epoch: int, skip: int) -> Iterator[int]:
        watched.asked.append((epoch, skip))
        return iter(range(skip, steps_per_epoch))

    def watched_loss(network: nn.Module, _: int) -> Tensor:
        watched.before.append(_copy(network))
        return loss(network)

    def evaluate(network: nn.Module) -> dict[str, float]:
        watched.evaluated.append(_copy(network))
        return {"score": next(score, 0.0)}

    fit(
        watched.model,
        batches=batches,
        steps_per_epoch=steps_per_epoch,
        loss=watched_loss,
        evaluate=evaluate,
        select="score",
        config=config,
        run=Run(folder, config),
    )
    return watched


def test_a_plain_step_is_the_rate_times_the_gradient(tmp_path: Path) -> None:
    watched = train(tmp_path, plain())
    for name in ("body.weight", "body.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"):
        assert watched.steps(name) == near([0.1])


def test_each_epoch_asks_for_its_own_batches_from_the_start(tmp_path: Path) -> None:
    assert train(tmp_path, plain(epochs=3)).asked == [(0, 0), (1, 0), (2, 0)]


def test_a_part_with_a_scale_learns_at_a_rate_of_its_own(tmp_path: Path) -> None:
    watched = train(tmp_path, plain(learning_rate_scale={"body": 0.5, "norm": 2.0}))
    assert watched.steps("body.weight") == watched.steps("body.bias") == near([0.05])
    assert watched.steps("norm.weight") == near([0.2])
    assert watched.steps("head.weight") == near([0.1])


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_part_with_a_scale_of_0_stays_as_it_is(tmp_path: Path, optimiser: str) -> None:
    watched = train(tmp_path, plain(learning_rate_scale={"body": 0.0}, optimiser=optimiser, weight_decay=0.5))
    assert watched.steps("body.weight") == watched.steps("body.bias") == [0.0]


def test_a_scale_for_a_part_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"learning_rate_scale names \['boddy'\]"):
        train(tmp_path, plain(learning_rate_scale={"boddy": 0.5, "head": 0.5}))


def test_values_that_belong_to_no_part_are_trained_too(tmp_path: Path) -> None:
    class WithItsOwn(Known):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(1))

    watched = train(tmp_path, plain(learning_rate_scale={"body": 0.5}), model=WithItsOwn())
    assert watched.steps("temperature") == near([0.1])


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_weight_decay_shrinks_matrices_and_spares_biases_and_normalisation(tmp_path: Path, optimiser: str) -> None:
    config = plain(weight_decay=0.5, optimiser=optimiser, learning_rate_scale={"head": 0.5})
    watched = train(tmp_path, config, loss=lambda network: 0 * _sum_of_values(network))
    assert watched.values("body.weight")[-1] == near(1 - 0.1 * 0.5)
    assert watched.values("head.weight")[-1] == near(1 - 0.05 * 0.5)
    for name in ("body.bias", "norm.weight", "norm.bias", "head.bias"):
        assert watched.values(name)[-1] == 1.0


def test_momentum_carries_earlier_gradients_on(tmp_path: Path) -> None:
    # Nesterov: the velocity is 1, 1.5, 1.75; a step goes along the gradient and half of the velocity.
    watched = train(tmp_path, plain(momentum=0.5), steps_per_epoch=3)
    assert watched.steps("body.bias") == near([0.1 * 1.5, 0.1 * 1.75, 0.1 * 1.875])


def test_adamw_steps_by_the_rate_whatever_the_gradient(tmp_path: Path) -> None:
    watched = train(tmp_path, plain(optimiser="adamw"), loss=lambda network: 1000 * _sum_of_values(network))
    assert watched.steps("body.bias") == near([0.1])


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * done)) for done in (0, 1 / 4, 2 / 4, 3 / 4)]),
    ],
)
def test_the_rate_follows_its_schedule_over_all_epochs(tmp_path: Path, schedule: str, factors: list[float]) -> None:
    watched = train(tmp_path, plain(schedule=schedule, epochs=2), steps_per_epoch=2)
    assert watched.steps("body.bias") == near([0.1 * factor for factor in factors])


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
        ("linear", [1 / 4, 2 / 4, 3 / 4, 1, 2 / 3, 1 / 3]),
        ("cosine", [1 / 4, 2 / 4, 3 / 4, 1, 3 / 4, 1 / 4]),
    ],
)
def test_the_rate_grows_during_the_warm_up_and_then_follows_its_schedule(
    tmp_path: Path, schedule: str, factors: list[float]
) -> None:
    watched = train(tmp_path, plain(schedule=schedule, epochs=2, warmup_epochs=1), steps_per_epoch=3)
    assert watched.steps("body.bias") == near([0.1 * factor for factor in factors])


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 0.5, 0.5]),
        ("linear", [1 / 3, 2 / 3, 1, 1 / 2, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, 1 / 2, 0.5, 0.25]),
    ],
)
def test_the_schedule_begins_anew_after_a_restart_with_a_part_of_the_rate(
    tmp_path: Path, schedule: str, factors: list[float]
) -> None:
    config = plain(schedule=schedule, epochs=3, warmup_epochs=1, restarts=(2,), restart_factor=0.5)
    watched = train(tmp_path, config, steps_per_epoch=2)
    assert watched.steps("body.bias") == near([0.1 * factor for factor in factors])


@pytest.mark.parametrize("restarts", [(1,), (3, 2), (2, 2)])
def test_restarts_that_do_not_rise_after_the_warm_up_are_refused(restarts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="restarts must rise"):
        plain(epochs=4, warmup_epochs=1, restarts=restarts)


def test_a_restart_that_the_run_does_not_reach_changes_nothing(tmp_path: Path) -> None:
    watched = train(tmp_path, plain(schedule="linear", epochs=2, restarts=(2,)), steps_per_epoch=1)
    assert watched.steps("body.bias") == near([0.1, 0.05])


def test_a_part_with_a_scale_follows_the_schedule_too(tmp_path: Path) -> None:
    config = plain(schedule="linear", learning_rate_scale={"body": 0.5})
    watched = train(tmp_path, config, steps_per_epoch=2)
    assert watched.steps("body.bias") == near([0.05, 0.025])


def test_a_gradient_longer_than_the_limit_is_shortened_and_keeps_its_direction(tmp_path: Path) -> None:
    count = sum(parameter.numel() for parameter in Known().parameters())
    watched = train(tmp_path, plain(clip_norm=2.0), loss=lambda network: 1000 * _sum_of_values(network))
    for name in ("body.weight", "norm.bias", "head.bias"):
        assert watched.steps(name) == near([0.1 * 2.0 / math.sqrt(count)], rel=1e-4)


def test_a_gradient_shorter_than_the_limit_stays_as_it_is(tmp_path: Path) -> None:
    assert train(tmp_path, plain(clip_norm=100.0)).steps("body.bias") == near([0.1])


def test_what_is_evaluated_are_the_averaged_weights(tmp_path: Path) -> None:
    watched = train(tmp_path, plain(ema_decay=0.75, epochs=2), steps_per_epoch=2)
    # The weights are 0.9, 0.8 | 0.7, 0.6 after the steps; the first starts the average.
    first = 0.75 * 0.9 + 0.25 * 0.8
    second = 0.75 * (0.75 * first + 0.25 * 0.7) + 0.25 * 0.6
    found = [float(state["head.bias"]) for state in watched.evaluated]
    assert found == near([first, second])


def test_statistics_of_a_normalisation_are_averaged_with_the_weights(tmp_path: Path) -> None:
    means: list[float] = []

    def shifts_the_mean(network: nn.Module) -> Tensor:
        assert isinstance(network, Known)
        network.norm.running_mean.fill_(float(len(means) + 1))  # type: ignore[union-attr] # it keeps statistics
        means.append(len(means) + 1.0)
        return _sum_of_values(network)

    watched = train(tmp_path, plain(ema_decay=0.75), steps_per_epoch=3, loss=shifts_the_mean)
    expected = 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 3
    assert watched.evaluated[0]["norm.running_mean"].tolist() == near([expected] * 2)


def test_without_averaging_the_weights_are_evaluated_as_they_are(tmp_path: Path) -> None:
    watched = train(tmp_path, plain(epochs=2), steps_per_epoch=3)
    last = watched.model.state_dict()
    assert [name for name, value in watched.evaluated[-1].items() if not torch.equal(value, last[name])] == []


def test_the_averaged_weights_of_the_best_epoch_are_kept_and_not_the_last(tmp_path: Path) -> None:
    config = plain(epochs=4, ema_decay=0.5)
    watched = train(tmp_path, config, scores=(0.1, 0.9, 0.9, 0.5))
    best = Known()
    Run(tmp_path, config).load_best(best)
    assert best.state_dict()["head.bias"] == watched.evaluated[1]["head.bias"] != watched.values("head.bias")[-1]


def test_parts_that_are_frozen_stay_as_they_are_also_in_the_average(tmp_path: Path) -> None:
    model = Known()
    model.body.requires_grad_(False)
    frozen = {name: value for name, value in _copy(model).items() if name.startswith("body.")}
    watched = train(tmp_path, plain(weight_decay=0.5, momentum=0.9, ema_decay=0.9, epochs=2), model=model)
    for states in (watched.model.state_dict(), watched.evaluated[-1]):
        assert [name for name, value in frozen.items() if not torch.equal(states[name], value)] == []
    assert watched.values("head.bias")[-1] < 1.0


@pytest.mark.parametrize(("precision", "computed"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(
    tmp_path: Path, precision: str, computed: torch.dtype
) -> None:
    seen: list[torch.dtype] = []

    def loss(network: nn.Module) -> Tensor:
        assert isinstance(network, Known)
        outputs = network.head(network.body(torch.ones(3, 2)))
        seen.append(outputs.dtype)
        return outputs.float().mean()

    watched = train(tmp_path, plain(precision=precision), steps_per_epoch=2, loss=loss)
    assert seen == [computed] * 2
    assert {value.dtype for name, value in watched.evaluated[0].items() if "num_batches" not in name} == {torch.float32}
    assert watched.steps("head.bias") == near([0.1, 0.1])


computes_in_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()


@pytest.mark.parametrize(
    ("supported", "computed"),
    [
        (False, torch.float32),
        pytest.param(
            True,
            torch.bfloat16,
            marks=pytest.mark.skipif(not computes_in_bfloat16, reason="this processor does not compute in bfloat16"),
        ),
    ],
)
def test_by_default_the_precision_is_mixed_where_the_processor_computes_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool, computed: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    seen: list[torch.dtype] = []

    def loss(network: nn.Module) -> Tensor:
        assert isinstance(network, Known)
        outputs = network.head(torch.ones(3, 2))
        seen.append(outputs.dtype)
        return outputs.float().mean()

    train(tmp_path, plain(precision="auto"), loss=loss)
    assert seen == [computed]


def test_the_network_is_in_training_mode_in_every_epoch(tmp_path: Path) -> None:
    modes: list[bool] = []

    def loss(network: nn.Module) -> Tensor:
        modes.append(network.training)
        network.eval()
        return _sum_of_values(network)

    train(tmp_path, plain(epochs=3), loss=loss)
    assert modes == [True] * 3
