"""Workers without a process: replicas and a trial that load a bundle by checking its digests, and their controller."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from service.errors import BundleRefused, InferdError
from service.manifest import read_manifest, verify_files
from service.repository.control import Listed, Listing, VersionPolicy
from service.repository.controller import Controller, ControlOptions, Trial
from service.repository.placement import Key, Placement, Tuning
from service.repository.scan import BundleFolder
from tests.bundles import edit, truncate

LONG_S = 1000.0
"""Virtual seconds after which what is waited for will not happen."""
TUNING = Tuning({"model": ((1, 0.001), (8, 0.002))}, threads=1)
LATEST = VersionPolicy(latest=1)


def check(folder: Path) -> str:
    """Load the bundle in `folder` as far as a test needs: its title, if its files are what its manifest says."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return manifest.title


class MemoryReplica:
    """A worker's models without a worker: what serves is told by the titles of its bundles.

    Attributes:
        serving: title by name and version.
        prepared: title by name and version.
        listing: the last that was published.
        loads: every version that was loaded, as often as it was.
        placements: every placement that was to be prepared.
        refuses: what it can't load, though others may.
        dies_at: the step, `prepare`, `commit` or `publish`, at which it goes away.
        gone: whether it has.
        may_load: loading waits until it is set.
        loading: how many loads are under way, and the most that ever were.
    """

    def __init__(self) -> None:
        self.serving: dict[Key, str] = {}
        self.prepared: dict[Key, str] = {}
        self.listing = Listing()
        self.loads: list[Key] = []
        self.placements: list[Placement] = []
        self.refuses: dict[Key, InferdError] = {}
        self.dies_at = ""
        self.gone = False
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.loading = [0, 0]
        self._changed = asyncio.Event()

    async def prepare(self, placements: Sequence[Placement]) -> list[InferdError | None]:
        self._step("prepare")
        self.loading = [self.loading[0] + 1, max(self.loading[0] + 1, self.loading[1])]
        await self.may_load.wait()
        self.loading[0] -= 1
        self._step("prepare")
        self.prepared.clear()
        outcomes: list[InferdError | None] = []
        for placement in placements:
            self.placements.append(placement)
            try:
                if placement.key in self.refuses:
                    raise self.refuses[placement.key]
                self.prepared[placement.key] = check(placement.folder.path)
                self.loads.append(placement.key)
                outcomes.append(None)
            except InferdError as error:
                outcomes.append(error)
        return outcomes

    async def commit(self, taken: Sequence[Key], dropped: Sequence[Key]) -> None:
        self._step("commit")
        for key in dropped:
            del self.serving[key]
        for key in taken:
            self.serving[key] = self.prepared[key]
        self.prepared.clear()
        self._changed.set()

    async def publish(self, listing: Listing) -> None:
        self._step("publish")
        self.listing = listing
        self._changed.set()

    def _step(self, step: str) -> None:
        self.gone = self.gone or self.dies_at == step
        if self.gone:
            raise ConnectionError("the other process is gone")

    async def until(self, condition: Callable[[MemoryReplica], object]) -> None:
        """Wait until the controller has brought the replica to where `condition` holds."""
        async with asyncio.timeout(LONG_S):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    def states(self) -> dict[Key, str]:
        """What is published of each version."""
        return {(one.name, one.version): one.state for one in self.listing.entries}

    def reason(self, name: str, version: int) -> str:
        """Why a version is not as it should be."""
        (reason,) = (one.reason for one in self.listing.entries if (one.name, one.version) == (name, version))
        return reason


class MemoryTrial:
    """A trial without a process.

    Attributes:
        tried: what was tried together, call by call.
        may_end: it waits until this is set.
        fails_with: what it raises, if it is broken itself.
    """

    def __init__(self) -> None:
        self.tried: list[list[Key]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.fails_with: Exception | None = None

    async def __call__(self, folders: Sequence[BundleFolder]) -> list[Tuning | InferdError]:
        self.tried.append([(one.name, one.version) for one in folders])
        await self.may_end.wait()
        if self.fails_with:
            raise self.fails_with
        outcomes: list[Tuning | InferdError] = []
        for folder in folders:
            try:
                check(folder.path)
                outcomes.append(TUNING)
            except InferdError as error:
                outcomes.append(error)
        return outcomes


class Shelf:
    """A folder of models whose bundles are put there as a deployment does: made elsewhere, then renamed.

    Args:
        folder: empty yet.
        template: the bundle that is copied.
    """

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self._template = template

    def put(self, name: str = "tiny", version: int = 1, title: str = "", *, broken: bool = False) -> None:
        """Put a bundle there, in place of the one that is there. Its title is `name version` unless said otherwise."""
        made = self.folder / ".made"
        shutil.copytree(self._template, made)
        edit(made, "title", to=title or f"{name} {version}")
        if broken:
            truncate(made / "model.onnx")
        self.remove(name, version)
        (self.folder / name).mkdir(exist_ok=True)
        made.rename(self.folder / name / str(version))

    def remove(self, name: str = "tiny", version: int = 1) -> None:
        """Take a version away, if it is there."""
        shutil.rmtree(self.folder / name / str(version), ignore_errors=True)

    def versions(self, name: str) -> list[int]:
        """The versions of `name` that lie there."""
        folder = self.folder / name
        return sorted(int(one.name) for one in folder.iterdir()) if folder.is_dir() else []

    def title(self, name: str, version: int) -> str | None:
        """The title of what lies there; None if it is broken."""
        try:
            return check(self.folder / name / str(version))
        except BundleRefused:
            return None


def only(*versions: int) -> VersionPolicy:
    return VersionPolicy(specific=versions)


@asynccontextmanager
async def controlled(
    shelf: Shelf,
    *replicas: MemoryReplica,
    trial: Trial | None = None,
    awaited: int | None = None,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[Controller]:
    """A controller of `replicas`, started as a supervisor starts it; `options` are `ControlOptions`."""
    expected = len(replicas) if awaited is None else awaited
    controller = Controller(shelf.folder, ControlOptions(**options), trial=trial or MemoryTrial(), replicas=expected)
    await controller.discover()
    if start:
        await controller.start(tried=True)
    for replica in replicas:
        await controller.join(replica)
    try:
        yield controller
    finally:
        await controller.close()


def explicit(shelf: Shelf, *replicas: MemoryReplica, **options: Any) -> Any:
    """A controller that does what it is told."""
    return controlled(shelf, *replicas, mode="explicit", **options)


def polling(shelf: Shelf, *replicas: MemoryReplica, **options: Any) -> Any:
    """A controller that looks at the folder every five seconds."""
    return controlled(shelf, *replicas, mode="poll", **options)


async def a_round() -> None:
    """Wait until the folder was looked at, and all that was found there is done."""
    await asyncio.sleep(5.1)


def states(entries: list[Listed]) -> list[tuple[str, int, str, str]]:
    return [(one.name, one.version, one.state, one.reason) for one in entries]
