"""Finding bundles: the folders `<name>/<version>/` under the models folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from service.manifest import MANIFEST_FILE, MODEL_FILE, NAME_PATTERN

_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, order=True)
class BundleFolder:
    """Where one version of one model lies. Versions are numbers: 10 comes after 9.

    Version 0 stands for a model's folder that can't be listed: it is known, and loading it will say why.
    """

    name: str
    version: int
    path: Path

    @property
    def is_bare(self) -> bool:
        """Whether there is a graph and no manifest: then the graph is served as it is."""
        manifest = self.path / MANIFEST_FILE
        try:
            return not manifest.exists() and not manifest.is_symlink() and (self.path / MODEL_FILE).exists()
        except OSError:  # reading the manifest will say why
            return False


def scan(models: Path) -> list[BundleFolder]:
    """List the bundles under `models`, by name and rising version.

    Folders whose names begin with '.' are passed over: a bundle being written is one. So is anything that is no
    folder, and a folder in a model's folder that is named by no whole number.

    Raises:
        FileNotFoundError: `models` is no folder.
    """
    if not models.is_dir():
        raise FileNotFoundError(f"the models folder {models} does not exist (INFERD_MODELS)")
    found = []
    for model in models.iterdir():
        if not _NAME.fullmatch(model.name) or not model.is_dir():
            continue
        try:
            found += [
                BundleFolder(model.name, int(version.name), version)
                for version in model.iterdir()
                if _VERSION.fullmatch(version.name) and version.is_dir()
            ]
        except OSError:
            found.append(BundleFolder(model.name, 0, model))
    return sorted(found)
