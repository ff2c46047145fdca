"""A run's folder: its configuration, checkpoints, history (CSV and plot) and best weights.

Runs live outside the source tree, in `INFERD_RUNS_DIR` (default `~/.cache/inferd/runs`). Every file is replaced as a
whole, so that a run killed at any moment can be resumed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.core.config import ConfigModel


class Stateful(Protocol):
    """What a checkpoint holds: anything with PyTorch's pair of state methods."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state."""
        ...


def runs_dir() -> Path:
    """The folder of all runs."""
    return Path(os.environ.get("INFERD_RUNS_DIR", "~/.cache/inferd/runs")).expanduser()


def finished_run(folder: Path, config: ConfigModel, ignore: Collection[str] = ("export",)) -> Run:
    """The run in `folder`, which has come to a result; whatever its export, or another table to `ignore`, is like.

    Raises:
        FileNotFoundError: it has not finished an epoch.
        ValueError: it is a run of another configuration.
    """
    if not (folder / "best.pt").is_file():
        raise FileNotFoundError(
            f"{folder} holds no run that has finished an epoch: train first, or choose another --run"
        )
    return Run(folder, config, ignore)


class Run:
    """The folder of one run.

    Args:
        folder: made where it is missing.
        config: the run's configuration; a folder begun with another one is refused rather than mixed up.
        ignore: tables of it that don't change the run.

    Raises:
        ValueError: the folder holds a run of another configuration.
    """

    def __init__(self, folder: Path, config: ConfigModel, ignore: Collection[str] = ()) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config_file = folder / "config.json"
        identity = config.model_dump(mode="json", exclude=set(ignore))
        if config_file.is_file():
            if json.loads(config_file.read_bytes()) != identity:
                raise ValueError(f"{folder} holds a run of another configuration: choose another --run, or remove it")
        else:
            self._replace("config.json", lambda path: path.write_text(json.dumps(identity, indent=2), encoding="utf-8"))
        self.history: list[dict[str, float]] = []
        self.losses: Sequence[Tensor] = ()
        self.seconds = 0.0

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Load the last checkpoint into `parts` and return its step; 0 where there is none.

        `history`, `losses` and `seconds` are what they were: the last two are of the epoch that was cut off.
        """
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return 0
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        torch.set_rng_state(saved["rng"])
        self.history = saved["history"]
        self.losses, self.seconds = saved.get("losses", ()), saved.get("seconds", 0.0)
        return int(saved["step"])

    def checkpoint(
        self, parts: Mapping[str, Stateful], step: int, losses: Sequence[Tensor] = (), seconds: float = 0.0
    ) -> None:
        """Save `parts`, so that `restore` goes on after `step`.

        Args:
            parts: by name.
            step: how many were taken.
            losses: of the steps of an epoch that goes on.
            seconds: that this epoch has taken.
        """
        saved = {
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "step": step,
            "history": self.history,
            "rng": torch.get_rng_state(),
            "losses": list(losses),
            "seconds": seconds,
        }
        self._replace("checkpoint.pt", lambda path: torch.save(saved, path))

    def record(self, row: dict[str, float], select: str) -> bool:
        """Add an epoch's measures to the history; True where `select` is larger than ever before."""
        best = all(row[select] > earlier[select] for earlier in self.history)
        self.history.append(row)
        self._replace("history.csv", self._write_history)
        return best

    def read_history(self) -> list[dict[str, float]]:
        """The measures of every epoch so far, from the history file."""
        with (self.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]

    def add_hardware(self, name: str) -> None:
        """Note that the run is trained on `name`: a run may go on elsewhere, and be exported elsewhere again."""
        names = self.read_hardware()
        if name not in names:
            self._replace("hardware.json", lambda path: path.write_text(json.dumps([*names, name]), encoding="utf-8"))

    def read_hardware(self) -> list[str]:
        """On what the run was trained, in the order of its parts."""
        path = self.folder / "hardware.json"
        return list(json.loads(path.read_bytes())) if path.is_file() else []

    def save_best(self, model: nn.Module) -> None:
        """Keep the weights of `model` as the run's result."""
        self._replace("best.pt", lambda path: torch.save(model.state_dict(), path))

    def load_best(self, model: nn.Module) -> None:
        """Load the run's result into `model`.

        Raises:
            FileNotFoundError: the run has not finished an epoch.
        """
        model.load_state_dict(torch.load(self.folder / "best.pt", map_location="cpu", weights_only=True))

    def _write_history(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(self.history[-1]))
            writer.writeheader()
            writer.writerows(self.history)

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        temporary = self.folder / f"{name}.partial"
        write(temporary)
        temporary.replace(self.folder / name)
