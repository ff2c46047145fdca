"""uvicorn, taught to end as an orchestrator expects: readiness off first, nothing lost, exit code 0."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_REQUEST_S = 0.25
"""How long a connection that was accepted last may take to send its request."""


class DrainingServer(uvicorn.Server):
    """A server that drains on SIGTERM or SIGINT; a second signal ends it at once.

    Readiness goes off and answers say `Connection: close` for `drain_delay_s`, while everything is still admitted, so
    that whoever balances the load can look elsewhere. Then the listener closes, and what was accepted is finished
    within `drain_timeout_s`.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
            )
        )
        self._repository = app.state.repository
        self._delay_s = settings.drain_delay_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. The signal is handled here: uvicorn would raise it again at the end, and not exit with 0."""
        if self._repository.is_draining:
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: draining", signal.Signals(sig).name)
        self._repository.begin_drain()
        asyncio.get_running_loop().call_later(self._delay_s, self._close)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without losing who is connected already, then end as uvicorn does."""
        await self._accept_the_rest()
        if not self.force_exit:
            await asyncio.sleep(_FIRST_REQUEST_S)
        await super().shutdown(sockets)

    async def _accept_the_rest(self) -> None:
        """Close the listeners, and take the connections that the kernel completed but nobody accepted yet.

        Closing alone would reset them, and their clients had every reason to believe that they were being served.
        """
        listeners = [
            socket.socket(fileno=os.dup(listener.fileno())) for server in self.servers for listener in server.sockets
        ]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for listener in listeners:
            with listener:
                accepted = _completed(listener)
            for connection in accepted:
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for each connection of its own."""
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _close(self) -> None:
        self.should_exit = True


def _completed(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits at `listener`."""
    listener.setblocking(False)
    accepted = []
    while True:
        try:
            accepted.append(listener.accept()[0])
        except ConnectionAbortedError:
            continue  # that client has gone again; the next one has not
        except OSError:
            return accepted  # none is left, or no more can be taken
