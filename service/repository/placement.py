"""What is to be served, as it travels from who decides to who loads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from service.errors import InferdError
from service.repository.control import Listing
from service.repository.scan import BundleFolder

Key: TypeAlias = tuple[str, int]
"""Name and version."""

Points: TypeAlias = tuple[tuple[int, float], ...]
"""How long runs of a graph take: rows and seconds, by rising number of rows."""

Profiles: TypeAlias = Mapping[str, Points]
"""How long those of a bundle's graphs take of which it is known, by role."""

_MOST_FILES = 1000


class Tuning(msgspec.Struct, frozen=True):
    """How a bundle is best run on this machine.

    Attributes:
        profiles: how long its graphs take then, where that is known.
        threads: of one run; 0 = as many as the server's settings say.
        wide_threads: of a run that has the machine to itself; 0 = as many as of others.
    """

    profiles: dict[str, Points] = {}
    threads: int = 0
    wide_threads: int = 0


class Placement(msgspec.Struct, frozen=True):
    """One version of one model that is to serve.

    Attributes:
        name: of the model.
        version: of the model.
        path: its folder.
        tuning: how it is best run, where that was found out already.
    """

    name: str
    version: int
    path: str
    tuning: Tuning | None = None

    @property
    def key(self) -> Key:
        """Its name and version."""
        return self.name, self.version

    @property
    def folder(self) -> BundleFolder:
        """Where it lies."""
        return BundleFolder(self.name, self.version, Path(self.path))


class Replica(Protocol):
    """One worker's models, changed in two phases so that all workers change or none does."""

    async def prepare(self, placements: Sequence[Placement]) -> Sequence[InferdError | None]:
        """Load `placements` beside what serves. What was prepared before and not committed is let go.

        Returns:
            For each, why it can't be served, if it can't.

        Raises:
            ConnectionError: the worker is gone.
        """
        ...

    async def commit(self, taken: Sequence[Key], dropped: Sequence[Key]) -> None:
        """Switch to `taken` of what was prepared, let go of the rest of it, and serve `dropped` no longer.

        One that serves under the same name and version is replaced. What is replaced or dropped finishes the requests
        that it has begun.

        Raises:
            ConnectionError: the worker is gone.
        """
        ...

    async def publish(self, listing: Listing) -> None:
        """Tell callers from now on what `listing` says of models that don't answer, and of readiness.

        Raises:
            ConnectionError: the worker is gone.
        """
        ...


def fingerprint(folder: Path) -> str:
    """Return a text that changes when a file in `folder` does: names, sizes, times, owners and modes, not contents.

    A folder that can't be read has one too; so has one that is not there. It is never empty.
    """
    seen = [str(folder)]
    for parent, folders, files in os.walk(folder, onerror=lambda error: seen.append(f"{error.filename}:{error.errno}")):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError as error:
                seen.append(f"{path}:{error.errno}")
            else:
                # Mode and owner: what could not be read may be readable now.
                numbers = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_mode, status.st_uid)
                seen.append(":".join(map(str, (path, *numbers))))
        if len(seen) > _MOST_FILES:
            break
    return "\n".join(seen)
