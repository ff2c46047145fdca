"""What lies at the other end of a control channel, as if it were here: a worker's models, and the server as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from service.errors import InferdError, NotReady
from service.repository.control import Listed, Listing, VersionPolicy
from service.repository.placement import Key, Placement
from service.repository.statistics import VersionStatistics
from service.snapshots import Snapshot
from service.workers.channel import Channel, ChannelClosed, WireError, decode_error

T = TypeVar("T")

_QUICK_S = 10.0
"""How long a call may take that only reads or changes memory, on a machine that is busy."""

_MEASURE_S = 2.0
"""How long a scrape waits for a worker; the last figures of one that is slower are taken."""


class RemoteReplica:
    """A worker's models, as the supervisor's controller sees them.

    Args:
        channel: to the worker.
        load_timeout_s: how long loading may take.
    """

    def __init__(self, channel: Channel, *, load_timeout_s: float) -> None:
        self._channel = channel
        self._load_timeout_s = load_timeout_s
        self._loads = False

    async def prepare(self, placements: Sequence[Placement]) -> list[InferdError | None]:
        """See `Replica.prepare`."""
        timeout_s = _QUICK_S + self._load_timeout_s * len(placements)
        self._loads = True
        try:
            outcomes = await self._tell("prepare", placements, answer=list[WireError | None], timeout_s=timeout_s)
        finally:
            self._loads = False
        return [None if outcome is None else decode_error(outcome) for outcome in outcomes]

    async def commit(self, taken: Sequence[Key], dropped: Sequence[Key]) -> None:
        """See `Replica.commit`."""
        await self._tell("commit", taken, dropped, answer=type(None), timeout_s=_QUICK_S)

    async def publish(self, listing: Listing) -> None:
        """See `Replica.publish`."""
        await self._tell("publish", listing, answer=type(None), timeout_s=_QUICK_S)

    async def started(self) -> None:
        """Wait until the worker can be called at all."""
        await self._tell("started", answer=type(None), timeout_s=self._load_timeout_s)

    async def until_silent(self, for_s: float) -> None:
        """Return once the worker has not answered for so long. While it loads, which has its own bound, it need not.

        It has to miss two calls on end: one may be lost because this process, or the whole machine, stood still.
        """
        missed = 0
        while missed < 2:
            await asyncio.sleep(for_s / 10)
            try:
                await self._channel.call("started", answer=type(None), timeout_s=for_s / 2)
                missed = 0
            except ConnectionError:
                missed = 0 if self._loads else missed + 1

    async def accept(self) -> None:
        """Have the worker take connections from now on."""
        await self._tell("accept", answer=type(None), timeout_s=_QUICK_S)

    async def drain(self) -> None:
        """Have the worker turn readiness off and answer `Connection: close`."""
        await self._tell("drain", answer=type(None), timeout_s=_QUICK_S)

    async def stop(self) -> None:
        """Have the worker finish what it has accepted, and end."""
        await self._tell("stop", answer=type(None), timeout_s=_QUICK_S)

    async def measure(self) -> tuple[Snapshot, list[VersionStatistics]]:
        """Read the worker's metrics and statistics.

        Raises:
            ConnectionError: it does not tell them.
        """
        try:
            return await self._channel.call(
                "measure", answer=tuple[Snapshot, list[VersionStatistics]], timeout_s=_MEASURE_S
            )
        except InferdError as error:
            raise ChannelClosed(str(error)) from error

    async def _tell(self, method: str, *arguments: object, answer: type[T], timeout_s: float) -> T:
        """Call a method that must not be missed: one that does not answer, or fails, is given up and replaced."""
        try:
            return await self._channel.call(method, *arguments, answer=answer, timeout_s=timeout_s)
        except ConnectionError:
            self._channel.close()
            raise
        except InferdError as error:
            self._channel.close()
            raise ChannelClosed(f"the worker is given up: {error}") from error


class RemoteControl:
    """The server as a whole, as a worker sees it: see `Control`. A call is NotReady while nobody is there to answer it.

    Args:
        channel: to the supervisor.
        load_timeout_s: how long loading may take.
    """

    def __init__(self, channel: Channel, *, load_timeout_s: float) -> None:
        self._channel = channel
        self._change_timeout_s = 10 * load_timeout_s  # it may have to wait for another change

    async def index(self) -> list[Listed]:
        """See `Control.index`."""
        return await self._ask("index", answer=list[Listed])

    async def load(self, name: str, policy: VersionPolicy | None) -> None:
        """See `Control.load`."""
        await self._ask("load", name, policy, answer=type(None), timeout_s=self._change_timeout_s)

    async def unload(self, name: str) -> None:
        """See `Control.unload`."""
        await self._ask("unload", name, answer=type(None), timeout_s=self._change_timeout_s)

    async def statistics(self) -> list[VersionStatistics]:
        """See `Control.statistics`."""
        return await self._ask("statistics", answer=list[VersionStatistics])

    async def render_metrics(self) -> bytes:
        """See `Control.render_metrics`."""
        return await self._ask("metrics", answer=bytes)

    async def _ask(self, method: str, *arguments: object, answer: type[T], timeout_s: float = _QUICK_S) -> T:
        try:
            return await self._channel.call(method, *arguments, answer=answer, timeout_s=timeout_s)
        except ConnectionError as error:
            raise NotReady(f"what controls the server can't be reached: {error}") from error
