"""Writing a bundle: all of it, or nothing that anyone would see."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.manifest import MANIFEST_FILE, NAME_PATTERN, FileEntry, Manifest, read_manifest, verify_files
from training.core.config import ConfigModel
from training.core.data import sha256_of


class BundleConfig(ConfigModel):
    """The bundle that an export writes.

    Attributes:
        models: folder of all models.
        name: of the model: its folder there.
        version: its folder in that.
        replace: whether a bundle of that version may be overwritten.
        title: what people call the model.
        description: one paragraph for its card.
    """

    models: str = "models"
    name: str
    version: int = 1
    replace: bool = False
    title: str
    description: str


@contextmanager
def new_bundle(models: Path, name: str, version: int, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder to write a bundle into, and rename it to `models/name/version` at the end.

    Nothing is left behind when the block raises. The folder must then hold a manifest that fits its files.

    Args:
        models: the folder of all models.
        name: of the model.
        version: whole number from 1.
        replace: whether a bundle of that version may be there already. Replacing takes two renames: a server that
            looks between them finds none of that version.

    Raises:
        ValueError: the server would never find a bundle of that name or version.
        FileExistsError: it is, and may not.
        BundleRefused: what was written breaks the contract.
    """
    if not re.fullmatch(NAME_PATTERN, name) or version < 1:
        raise ValueError(f"a model's name is like {NAME_PATTERN} and its version 1 or more, not {name!r} and {version}")
    target = models / name / str(version)
    if target.exists() and not replace:
        raise FileExistsError(f"{target} exists: choose another version, or replace it (--set export.replace=true)")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{version}-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        verify_files(temporary, read_manifest(temporary))
        if target.exists():
            # No rename replaces a folder that holds files: the old one steps aside first.
            aside = Path(tempfile.mkdtemp(prefix=f".tmp-{version}-", dir=target.parent)) / "old"
            target.rename(aside)
            try:
                temporary.rename(target)
            except OSError:
                aside.rename(target)
                raise
            finally:
                shutil.rmtree(aside.parent)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it holds other versions, as it mostly does
            target.parent.rmdir()


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Size and sha256 of every file in `folder` but the manifest."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into a bundle whose other files are all there, with their entries as they are now."""
    complete = manifest.model_copy(update={"files": file_entries(folder)})
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
