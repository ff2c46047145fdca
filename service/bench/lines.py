"""What is said between `inferd bench` and a process that runs graphs alone, each a line of JSON."""

from __future__ import annotations

from typing import Any

import msgspec


class Order(msgspec.Struct, frozen=True):
    """A model to load, and with which settings."""

    settings: str
    name: str
    version: int
    path: str


class Ready(msgspec.Struct, frozen=True):
    """The model is loaded; or it can't be, and `error` says why.

    Attributes:
        error: why there is no limit; empty where there is.
        variant: that was loaded.
        batched: whether it can be run with several rows.
        shapes: of its inputs as they are run here, without the rows.
    """

    error: str = ""
    variant: str = ""
    batched: bool = False
    shapes: dict[str, list[int]] = {}


class Task(msgspec.Struct, frozen=True):
    """Rows to run at once, for at least so many seconds; of a translator, the texts that it translates, and how."""

    rows: int
    seconds: float
    texts: list[str] = []
    parameters: dict[str, Any] = {}


class Done(msgspec.Struct, frozen=True):
    """So many runs in so many seconds, which gave so many units: rows, tokens, texts."""

    runs: int
    seconds: float
    units: float
