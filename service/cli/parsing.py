"""What several commands have on their command lines."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a command is added."""


def add_model(command: argparse.ArgumentParser) -> None:
    """Let a command say which model it asks, and where."""
    command.add_argument("--model", required=True)
    command.add_argument("--model-version", type=int, help="default: the highest")
    command.add_argument("--url", help="ask the server at this address in place of loading the model here")
