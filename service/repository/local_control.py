"""The server as a whole where it is this one process."""

from __future__ import annotations

from service.metrics import Metrics
from service.repository.control import Listed, VersionPolicy
from service.repository.controller import Controller
from service.repository.repository import Repository
from service.repository.statistics import VersionStatistics


class LocalControl:
    """See `Control`.

    Args:
        controller: what decides what serves.
        repository: its only replica.
        metrics: of this process.
    """

    def __init__(self, controller: Controller, repository: Repository, metrics: Metrics) -> None:
        self._controller = controller
        self._repository = repository
        self._metrics = metrics

    async def index(self) -> list[Listed]:
        """See `Control.index`."""
        return await self._controller.index()

    async def load(self, name: str, policy: VersionPolicy | None) -> None:
        """See `Control.load`."""
        await self._controller.load(name, policy)

    async def unload(self, name: str) -> None:
        """See `Control.unload`."""
        await self._controller.unload(name)

    async def statistics(self) -> list[VersionStatistics]:
        """See `Control.statistics`."""
        return self._repository.statistics()

    async def render_metrics(self) -> bytes:
        """See `Control.render_metrics`."""
        return self._metrics.render()
