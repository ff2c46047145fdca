"""A control channel with both of its ends in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from service.workers.channel import Channel, Handler


@asynccontextmanager
async def connected(
    here: Mapping[str, Handler], there: Mapping[str, Handler]
) -> AsyncIterator[tuple[Channel, Channel]]:
    """Two ends of a channel, each of which answers with its handlers; for a minute at most."""
    ends = [await Channel.over(end) for end in socket.socketpair()]
    serving = [asyncio.create_task(end.serve(handlers)) for end, handlers in zip(ends, (here, there), strict=True)]
    try:
        async with asyncio.timeout(60):
            yield ends[0], ends[1]
    finally:
        for end in ends:
            end.close()
        await asyncio.gather(*serving)
