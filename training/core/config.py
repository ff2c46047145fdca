"""A run's configuration: one TOML file, checked on reading, with single values changed from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Base of every configuration table: frozen, and an unknown key is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ConfigT = TypeVar("ConfigT", bound=ConfigModel)


def read_config(kind: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read `path` as a `kind`.

    Args:
        kind: the configuration model.
        path: a TOML file.
        overrides: `table.key=value` texts, the value in TOML syntax; a value that is no TOML is taken as a string.

    Raises:
        ValueError: an override is not of that form, or the result does not fit the model.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set takes table.key=value, not {override!r}")
        *parents, key = name.strip().split(".")
        target = table
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ValueError(f"--set {override!r}: {parent!r} is no table")
        target[key] = _toml_value(text)
    return kind.model_validate(table)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
