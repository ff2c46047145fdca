"""uvicorn with gRPC beside it, taught to end as orchestrators wish: readiness off first, nothing lost, exit code 0."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from service.connections.limits import ConnectionLimits
from service.connections.protocol import BoundedProtocol, bounded
from service.connections.watch import Watch
from service.protocols.open_inference.grpc.server import GrpcServer
from service.repository.repository import Repository
from service.security.tls import Tls
from service.settings import Settings
from service.workers.counts import Counts
from service.workers.sockets import Acceptor

logger = logging.getLogger(__name__)

_IDLE_CONNECTION_S = 75
"""How long a connection may rest between requests: longer than most proxies and clients keep theirs (nginx and load
balancers 60 s), as whoever keeps it longer may send a request into one that is just being closed."""

_FIRST_REQUEST_S = 0.25
"""How long a connection that was accepted last may take to send its request."""

_TRANSFER_BYTES = 2**20
"""Beside twice the largest body: so much may a transfer in chunks add to it."""

_GOODBYE_S = 1.0
"""How long an encrypted connection that rests has to end by itself, once at least and twice at most."""

_HANDSHAKE_S = 2.0
"""How long a connection that was accepted last may take until it is encrypted."""


class DrainingServer(uvicorn.Server):
    """A server that drains on SIGTERM or SIGINT; a second signal ends it at once.

    Readiness goes off and answers say `Connection: close` for `drain_delay_s`, while everything is still admitted, so
    that whoever balances the load can look elsewhere. Then the listener closes, and what was accepted is finished
    within `drain_timeout_s`.

    Args:
        app: what answers.
        settings: with the address to listen on.
        shared: listeners to take connections from in place of that address, once `accept` is called.
        counts: where those who share them say how many connections they have.
    """

    def __init__(
        self, app: FastAPI, settings: Settings, *, shared: Sequence[socket.socket] = (), counts: Counts | None = None
    ) -> None:
        tls: Tls | None = app.state.tls
        self._ssl = tls.context if tls else None
        limits = connection_limits(settings)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=bounded(limits, app.state.bodies, self._tell_connections, app.state.quick),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nobody here asks who the client is
                timeout_keep_alive=_IDLE_CONNECTION_S,
                timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
                ssl_context_factory=(lambda _config, _usual: tls.context) if tls else None,
            )
        )
        self._repository: Repository = app.state.repository
        self._grpc: GrpcServer | None = app.state.grpc
        self._delay_s = settings.drain_delay_s
        self._timeout_s = settings.drain_timeout_s
        self._shared = shared
        self._counts = counts
        self._acceptor: Acceptor | None = None
        # uvicorn's own set, of what `http` makes
        self._watch = Watch(cast("set[BoundedProtocol]", self.server_state.connections), limits)
        self.is_up = asyncio.Event()

    async def accept(self) -> None:
        """Take connections from the shared listeners, and listen for gRPC, unless the server is about to end.

        Raises:
            OSError: gRPC can't listen.
        """
        if self._acceptor or self.should_exit:
            return
        self._acceptor = Acceptor(
            self._shared,
            self._protocol,
            open_connections=lambda: len(self.server_state.connections),
            counts=self._counts,
            tls=self._ssl,
        )
        if self._grpc:
            await self._grpc.start()
        self._acceptor.start()

    def stop(self) -> None:
        """Stop listening, finish what was accepted, and end."""
        self._repository.begin_drain()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. The signal is handled here: uvicorn would raise it again at the end, and not exit with 0."""
        if self._repository.is_draining:
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: draining", signal.Signals(sig).name)
        self._repository.begin_drain()
        asyncio.get_running_loop().call_later(self._delay_s, self.stop)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. Where a second signal came the process ends in here: whatever it is at, nobody waits for it."""
        await super().serve(sockets)
        if self.force_exit:
            logging.shutdown()
            os._exit(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and listen unless listeners are shared."""
        if self._grpc and not self._shared:
            await self._grpc.start()
        await super().startup([] if self._shared else sockets)
        self._watch.start()
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without losing who is connected already, then end as uvicorn does; gRPC meanwhile does so."""
        ending = (
            asyncio.ensure_future(self._grpc.stop(0 if self.force_exit else self._timeout_s)) if self._grpc else None
        )
        await self._accept_the_rest()
        if not self.force_exit:
            await asyncio.sleep(_FIRST_REQUEST_S)
        hanging_up = asyncio.ensure_future(self._hang_up()) if self._ssl else None
        await super().shutdown(sockets)  # its last step, the application's own end, waits for gRPC
        if hanging_up:
            hanging_up.cancel()
        self._watch.stop()
        if ending:
            await ending

    async def _hang_up(self) -> None:
        """End encrypted connections that rest.

        uvicorn closes them, but of TLS that means to wait until the client says goodbye too, and one that rests does
        not even look. What was answered has had its time to go out.
        """
        resting: set[object] = set()
        while True:
            await asyncio.sleep(_GOODBYE_S)
            before, resting = resting, {one for one in self.server_state.connections if _rests(one)}
            for connection in before & resting:
                connection.transport.abort()  # type: ignore[attr-defined] # as all that uvicorn makes have it

    async def _accept_the_rest(self) -> None:
        """Close the listeners, and take the connections that the kernel completed but nobody accepted yet.

        Closing alone would reset them, and their clients had every reason to believe that they were being served.
        """
        listeners = [
            socket.socket(fileno=os.dup(listener.fileno())) for server in self.servers for listener in server.sockets
        ]
        for server in self.servers:
            server.close()
        if self._acceptor:
            self._acceptor.stop()
        opening: list[asyncio.Future[object]] = []
        for listener in (*listeners, *self._shared):
            with listener:
                opening.extend(asyncio.ensure_future(self._connect(one)) for one in _completed(listener))
        if self._acceptor:
            opening.extend(self._acceptor.opening)
        if opening:  # of TLS, it takes as long as its client does
            await asyncio.wait(opening, timeout=_HANDSHAKE_S if self._ssl else None)

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # that client has gone again, or speaks no TLS
            await loop.connect_accepted_socket(self._protocol, connection, ssl=self._ssl)

    def _tell_connections(self) -> None:
        """Say to the other workers how many connections this one has, as one has ended."""
        if self._acceptor:
            self._acceptor.tell()

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for each connection of its own."""
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def connection_limits(settings: Settings) -> ConnectionLimits:
    """What the settings say of connections: for one process, its share of what all of them have."""
    return ConnectionLimits(
        max_connections=max(1, settings.max_connections // settings.processes),
        max_head_bytes=settings.max_head_bytes,
        max_url_bytes=settings.max_url_bytes,
        max_message_bytes=2 * settings.max_body_bytes + _TRANSFER_BYTES,
        max_unread_bytes=max(1, settings.max_inflight_bytes // settings.processes),
        head_timeout_s=settings.head_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        send_timeout_s=settings.send_timeout_s,
    )


def _rests(connection: object) -> bool:
    """Whether nothing is being answered on one of uvicorn's connections."""
    cycle = getattr(connection, "cycle", None)
    return cycle is None or cycle.response_complete


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
