"""Reading a manifest, and comparing the files of its folder with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from service.errors import BundleRefused
from service.manifest.contract import FileEntry, Manifest
from service.manifest.ground import MANIFEST_FILE, SCHEMA_VERSION

_MAX_MANIFEST_BYTES = 1_000_000


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of the bundle in `folder` (the other files are not looked at).

    Raises:
        BundleRefused: it is missing, too large, no JSON, of a newer schema, or breaks the contract; the reason names
            the keys at fault.
    """
    path = folder / MANIFEST_FILE
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleRefused(MANIFEST_FILE, f"larger than {_MAX_MANIFEST_BYTES} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleRefused(MANIFEST_FILE, f"can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BundleRefused(MANIFEST_FILE, f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise BundleRefused(MANIFEST_FILE, "is no JSON object")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleRefused(
            MANIFEST_FILE, f"made by a newer inferd (schema_version {version}; this one reads up to {SCHEMA_VERSION})"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors()[:5])
        raise BundleRefused(MANIFEST_FILE, problems) from error


def _place(keys: Sequence[str | int]) -> str:
    """Where something is wrong, in the keys of the file: pydantic puts the kind of a processing between them."""
    if keys[:1] in (("preprocessing",), ("postprocessing",)):
        keys = (*keys[:1], *keys[2:])
    return ".".join(map(str, keys)) or "manifest"


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file that `manifest` names with its size and sha256.

    Raises:
        BundleRefused: a file is missing, is no plain file, or has other bytes; it is named.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        linked = path.is_symlink() or (path.parent != folder and path.parent.is_symlink())
        if linked or not path.is_file():
            raise BundleRefused(name, "is missing or no plain file")
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleRefused(name, f"has {size} bytes, the manifest says {entry.bytes}")
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BundleRefused(name, f"can't be read ({error.strerror})") from error
        if digest != entry.sha256:
            raise BundleRefused(name, f"has sha256 {digest}, the manifest says {entry.sha256}")


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a file, as a manifest lists them.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(sha256=digest, bytes=path.stat().st_size)


def json_schema() -> str:
    """The JSON Schema of `manifest.json`, as committed in docs/manifest.schema.json."""
    return json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n"
