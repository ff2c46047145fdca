"""Reading a manifest, and comparing the files of its folder with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from service.errors import BundleRefused
from service.manifest.contract import FileEntry, Manifest
from service.manifest.files import open_file, read_file, verify_file
from service.manifest.ground import MANIFEST_FILE, SCHEMA_VERSION

_MAX_MANIFEST_BYTES = 1_000_000


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of the bundle in `folder` (the other files are not looked at).

    Raises:
        BundleRefused: it is missing, too large, no JSON, of a newer schema, or breaks the contract; the reason names
            the keys at fault.
    """
    try:
        content = json.loads(read_file(folder, MANIFEST_FILE, most=_MAX_MANIFEST_BYTES))
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
        BundleRefused: a file is missing, is no plain file of the folder, or has other bytes; it is named.
    """
    for name, entry in manifest.files.items():
        verify_file(folder, name, entry)


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a file, as a manifest lists them.

    Raises:
        BundleRefused: it is no plain file, or can't be read.
    """
    with open_file(path.parent, path.name) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(sha256=digest, bytes=stream.tell())


def json_schema() -> str:
    """The JSON Schema of `manifest.json`, as committed in docs/manifest.schema.json."""
    return json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n"
