"""A run's folder: its configuration, checkpoints, history (CSV and plot) and best weights.

Runs live outside the source tree, in `INFERD_RUNS_DIR` (default `~/.cache/inferd/runs`). Every file is replaced as a
whole, so that a run killed at any moment can be resumed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

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
            config_file.write_text(json.dumps(identity, indent=2), encoding="utf-8")
        self.history: list[dict[str, float]] = []

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Load the last checkpoint into `parts` and return its step; 0 where there is none."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return 0
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        torch.set_rng_state(saved["rng"])
        self.history = saved["history"]
        return int(saved["step"])

    def checkpoint(self, parts: Mapping[str, Stateful], step: int) -> None:
        """Save `parts`, so that `restore` goes on after `step`."""
        states = {name: part.state_dict() for name, part in parts.items()}
        saved = {"parts": states, "step": step, "history": self.history, "rng": torch.get_rng_state()}
        self._save("checkpoint.pt", saved)

    def record(self, row: dict[str, float], select: str) -> bool:
        """Add an epoch's measures to the history; True where `select` is larger than ever before."""
        best = all(row[select] > earlier[select] for earlier in self.history)
        self.history.append(row)
        with (self.folder / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(self.history)
        return best

    def read_history(self) -> list[dict[str, float]]:
        """The measures of every epoch so far, from the history file."""
        with (self.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]

    def save_best(self, model: nn.Module) -> None:
        """Keep the weights of `model` as the run's result."""
        self._save("best.pt", model.state_dict())

    def load_best(self, model: nn.Module) -> None:
        """Load the run's result into `model`.

        Raises:
            FileNotFoundError: the run has not finished an epoch.
        """
        model.load_state_dict(torch.load(self.folder / "best.pt", map_location="cpu", weights_only=True))

    def _save(self, name: str, content: Any) -> None:
        temporary = self.folder / f"{name}.partial"
        torch.save(content, temporary)
        temporary.replace(self.folder / name)
