"""Files that a training needs: found in `INFERD_DATA_DIR`, else downloaded once, and checked by digest either way."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch


@dataclass(frozen=True)
class RemoteFile:
    """A file that its authors publish.

    Attributes:
        folder: the folder it has under `INFERD_DATA_DIR` and in the cache.
        name: its file name.
        url: where it is downloaded from.
        digest: `algorithm:hexdigest` of its bytes, as its publisher states it.
    """

    folder: str
    name: str
    url: str
    digest: str


def cache_dir() -> Path:
    """The folder of downloads: `INFERD_CACHE_DIR`, by default `~/.cache/inferd/data`."""
    return Path(os.environ.get("INFERD_CACHE_DIR", "~/.cache/inferd/data")).expanduser()


def fetch(file: RemoteFile) -> Path:
    """Return a local path of `file`, downloading it (with a progress bar) where it is not there yet.

    Raises:
        ValueError: the bytes found or downloaded do not have the digest expected.
        OSError: the download failed.
    """
    given = os.environ.get("INFERD_DATA_DIR")
    if given:
        path = Path(given).expanduser() / file.folder / file.name
        if path.is_file():
            algorithm, _, expected = file.digest.partition(":")
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, algorithm).hexdigest()
            if found != expected:
                raise ValueError(f"{path} has {algorithm} {found}, not {expected} as its publisher states")
            return path
    folder = cache_dir() / file.folder
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=60)
    return Path(pooch.retrieve(file.url, known_hash=file.digest, fname=file.name, path=folder, downloader=downloader))


def sha256_of(path: Path) -> str:
    """Return the sha256 of the file at `path` in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
