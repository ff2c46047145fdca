"""What a worker answers its supervisor on the control channel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from service.metrics import Metrics
from service.repository.control import Listing
from service.repository.placement import Key, Placement
from service.repository.repository import Repository
from service.repository.statistics import VersionStatistics
from service.snapshots import Snapshot, snapshot
from service.workers.channel import Handler, WireError, encode_error


def handlers(
    repository: Repository, metrics: Metrics, *, accept: Callable[[], Awaitable[None]], stop: Callable[[], None]
) -> Mapping[str, Handler]:
    """The methods, by name: those of `workers.remote.RemoteReplica`.

    Args:
        repository: the worker's models.
        metrics: the worker's own.
        accept: takes connections from now on.
        stop: finishes what was accepted, and ends the worker.
    """

    async def started() -> None:
        pass

    async def prepare(placements: list[Placement]) -> list[WireError | None]:
        outcomes = await repository.prepare(placements)
        return [None if outcome is None else encode_error(outcome) for outcome in outcomes]

    async def commit(taken: list[Key], dropped: list[Key]) -> None:
        await repository.commit(taken, dropped)

    async def publish(listing: Listing) -> None:
        await repository.publish(listing)

    async def take_connections() -> None:
        await accept()

    async def drain() -> None:
        repository.begin_drain()

    async def end() -> None:
        stop()

    async def measure() -> tuple[Snapshot, list[VersionStatistics]]:
        return snapshot(metrics.registry), repository.statistics()

    return {
        "started": started,
        "prepare": prepare,
        "commit": commit,
        "publish": publish,
        "accept": take_connections,
        "drain": drain,
        "stop": end,
        "measure": measure,
    }
