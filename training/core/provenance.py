"""Where and with what something was made: the facts that a manifest records."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from service.manifest import Provenance, Source
from training.core.config import ConfigModel
from training.core.export import OPSET
from training.core.run import Run

TOOLS = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy")


def provenance(
    config: ConfigModel, seed: int, run: Run, data: Source, initial_weights: Source | None = None
) -> Provenance:
    """What a manifest says of where a model comes from.

    Args:
        config: the run's whole configuration.
        seed: of the run.
        run: finished, or as far as it has come.
        data: what it was trained on.
        initial_weights: what it started from, if not at random.
    """
    return Provenance(
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        commit=commit(),
        seed=seed,
        config=config.model_dump(mode="json"),
        data=data,
        initial_weights=initial_weights,
        tools=tools(),
        opset=OPSET,
        training_hardware=", then ".join(run.read_hardware()) or hardware(),
        training_seconds=round(sum(row["seconds"] for row in run.read_history())),
    )


def commit() -> str:
    """The commit of the source tree, with `-dirty` where it was changed; `unknown` outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)  # noqa: S603
        changes = subprocess.run(  # noqa: S603
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def hardware() -> str:
    """The GPU where there is one, else the processor with its number of cores."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return processor()


def tools(names: Iterable[str] = TOOLS) -> dict[str, str]:
    """The versions of Python and of the libraries that decide what an export looks like."""
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def processor() -> str:
    """The processor's name and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.processor() or platform.machine()}"
