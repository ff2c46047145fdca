"""Reading files of a bundle, which may be hostile: plain files that lie in its folder, up to a size, and read once.

A link is followed as long as it stays in the bundle's folder, as Kubernetes mounts files behind links to `..data`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from service.errors import BundleRefused
from service.manifest.contract import FileEntry

# Nothing waits for whoever writes into a pipe, and no terminal becomes ours; Windows has none of these.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_NOFOLLOW"))
_FLAGS |= getattr(os, "O_BINARY", 0)

_PIECE = 2**20


def read_file(folder: Path, name: str, *, most: int, entry: FileEntry | None = None) -> bytes:
    """Read a file of the bundle in `folder`.

    Args:
        folder: the bundle's.
        name: of the file in there.
        most: bytes that it may have.
        entry: what the manifest says of it, if there is one: what comes back is what it says, whatever lay there when
            the bundle was verified.

    Raises:
        BundleRefused: it is no plain file, lies elsewhere, is too large, can't be read, or has other bytes.
    """
    with open_file(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise BundleRefused(name, f"has {size} bytes, the limit is {most}")
        content = file.read(size + 1)
    if len(content) != size:
        raise BundleRefused(name, "has changed while it was read")
    if entry:
        _compare(name, len(content), hashlib.sha256(content).hexdigest(), entry)
    return content


def verify_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Compare a file of the bundle in `folder` with what the manifest says of it.

    Raises:
        BundleRefused: as `read_file`.
    """
    digest, read = hashlib.sha256(), 0
    with open_file(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry.bytes:
            _compare(name, size, "", entry)
        while read <= entry.bytes and (piece := file.read(_PIECE)):
            digest.update(piece)
            read += len(piece)
    _compare(name, read, digest.hexdigest(), entry)


def check_plain(folder: Path, name: str) -> None:
    """See that there is a plain file of this name in `folder`.

    Raises:
        BundleRefused: there is none.
    """
    with open_file(folder, name):
        pass


@contextmanager
def open_file(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Open a plain file that lies in `folder`.

    Raises:
        BundleRefused: there is none, or it can't be read.
    """
    try:
        path = (folder / name).resolve(strict=True)
        expected = path.lstat()
        if not path.is_relative_to(folder.resolve()):
            raise BundleRefused(name, "is no plain file of this folder: a link leads out of it")
        if not stat.S_ISREG(expected.st_mode):
            raise BundleRefused(name, "is missing or no plain file")
        with open(os.open(path, _FLAGS), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or not os.path.samestat(found, path.lstat()):
                raise BundleRefused(name, "was replaced while it was opened")
            yield file
    except OSError as error:
        raise BundleRefused(name, f"can't be read ({error.strerror})") from error
    except RuntimeError as error:  # Python 3.12 and older say so where links lead in a circle
        raise BundleRefused(name, f"can't be read ({error})") from error


def _compare(name: str, size: int, digest: str, entry: FileEntry) -> None:
    if size != entry.bytes:
        raise BundleRefused(name, f"has {size} bytes, the manifest says {entry.bytes}")
    if digest != entry.sha256:
        raise BundleRefused(name, f"has sha256 {digest}, the manifest says {entry.sha256}")
