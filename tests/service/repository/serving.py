"""A worker's models as they are, with nobody around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from service.metrics import Metrics
from service.repository.bundle import LoadOptions
from service.repository.placement import Placement, Tuning
from service.repository.repository import QueueLimits, Repository
from service.settings import Settings
from service.threads import BoundedThreads


@asynccontextmanager
async def replica(let_go_s: float = 30.0, **settings: Any) -> AsyncIterator[Repository]:
    """A worker's models, told what to serve by the test."""
    metrics = Metrics("0")
    repository = Repository(
        options=LoadOptions.of(Settings(**{"threads": 1, **settings})),
        queue=QueueLimits(max_s=10.0, max_rows=100),
        metrics=metrics,
        decoding=BoundedThreads(1, max_pending=4, name="decode"),
        let_go_s=let_go_s,
    )
    try:
        yield repository
    finally:
        await repository.close()


def placed(folder: Path) -> Placement:
    return Placement(folder.parent.name, int(folder.name), str(folder), Tuning())


async def serve(repository: Repository, *folders: Path) -> None:
    placements = [placed(folder) for folder in folders]
    assert await repository.prepare(placements) == [None] * len(folders)
    await repository.commit([one.key for one in placements], [])
