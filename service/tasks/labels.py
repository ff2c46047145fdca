"""The names of classes, as a bundle lists them."""

from __future__ import annotations

import json
from pathlib import Path

from service.errors import BundleRefused
from service.manifest import FileEntry, read_file

_MOST_BYTES = 16 * 2**20


def read_labels(folder: Path, file: str, entry: FileEntry | None = None) -> tuple[str, ...]:
    """Read a list of names, at least one.

    Args:
        folder: the bundle's folder.
        file: its name in there.
        entry: what the manifest says of it.

    Raises:
        BundleRefused: it holds something else.
    """
    try:
        labels = json.loads(read_file(folder, file, most=_MOST_BYTES, entry=entry))
    except (ValueError, RecursionError) as error:
        raise BundleRefused(file, f"is no JSON ({error})") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise BundleRefused(file, "must be a list of texts")
    return tuple(labels)
