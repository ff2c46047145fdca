"""The names of classes, as a bundle lists them."""

from __future__ import annotations

import json
from pathlib import Path

from service.errors import BundleRefused


def read_labels(folder: Path, file: str) -> tuple[str, ...]:
    """Read a list of names, at least one.

    Args:
        folder: the bundle's folder.
        file: its name in there.

    Raises:
        BundleRefused: it holds something else.
    """
    try:
        labels = json.loads((folder / file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleRefused(file, f"is no JSON ({error})") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise BundleRefused(file, "must be a list of texts")
    return tuple(labels)
