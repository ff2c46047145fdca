"""The gRPC server of one process: it listens, answers, and ends without losing what it accepted."""

from __future__ import annotations

import asyncio
import errno
import logging
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.metrics import Metrics
from service.protocols.open_inference.grpc.calls import Calls
from service.protocols.open_inference.grpc.health import SERVICE, Health
from service.protocols.open_inference.grpc.service import InferenceService
from service.protocols.open_inference.grpc.streams import Streams
from service.repository.control import Control
from service.repository.repository import Repository
from service.security.access import Access
from service.security.tls import Pem, Tls
from service.tracing import Tracing

logger = logging.getLogger(__name__)

ENVELOPE_BYTES = 64 * 1024
"""What a message may have beside tensors that are as large as a body may be: names, shapes, parameters."""

_MOST_CALLS = 4096
_MOST_CALLS_A_CONNECTION = 1024
_MOST_IN_A_STREAM = 64

_LOOK_EVERY_S = 0.25
"""How often is looked whether gRPC has ended by itself; and how long a port is left alone that was not free then."""

_HELD_BACK_S = 0.1
"""How long no call may have come, while answers are kept back, before clients are told to connect elsewhere."""

_LONGEST_HELD_BACK_S = 1.0
"""How long answers are kept back at most: there may be clients that call without waiting for answers."""

_CONNECTIONS = {
    "grpc.max_concurrent_streams": _MOST_CALLS_A_CONNECTION,
    "grpc.max_connection_idle_ms": 600_000,
    "grpc.server_handshake_timeout_ms": 10_000,
    # A peer that is gone without a word is found within a minute and a half, whether or not a call is open.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    # Clients may ping as often as every ten seconds; those that do so more often are turned away.
    "grpc.http2.min_ping_interval_without_data_ms": 10_000,
}


class GrpcServer:
    """The Open Inference Protocol, health and reflection on one port.

    Args:
        repository: the models.
        control: the server as a whole.
        access: who may do what. Health and reflection need no key.
        tls: of connections; None = they are not encrypted.
        metrics: where calls are counted.
        version: of inferd.
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        max_connections: so many at once; others are closed as they come.
        message_timeout_s: how long a call of one request may take until that is there.
        max_body_bytes: how large the tensors of one message may be; a message may be `ENVELOPE_BYTES` larger, before
            and after decompression, in both directions.
        share_port: whether other processes may listen on the same port and get their share of its connections.
        access_log: whether every call is logged.
        tracing: what makes a span of every call, if anything does.
    """

    def __init__(
        self,
        *,
        repository: Repository,
        control: Control,
        access: Access,
        tls: Tls | None,
        metrics: Metrics,
        version: str,
        host: str,
        port: int,
        max_connections: int,
        message_timeout_s: float,
        max_body_bytes: int,
        share_port: bool = True,
        access_log: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        max_message_bytes = max_body_bytes + ENVELOPE_BYTES
        self._options = {
            **_CONNECTIONS,
            "grpc.max_allowed_incoming_connections": max_connections,
            "grpc.max_receive_message_length": max_message_bytes,
            "grpc.max_send_message_length": max_message_bytes,
            "grpc.so_reuseport": int(share_port),
        }
        self._health = Health(repository)
        self._streams = Streams(_MOST_IN_A_STREAM)
        self._service = InferenceService(repository=repository, control=control, version=version, streams=self._streams)
        self._tls = tls
        self._calls = Calls(
            metrics,
            access,
            max_message_bytes=max_message_bytes,
            message_timeout_s=message_timeout_s,
            access_log=access_log,
            tracing=tracing,
        )
        self._server: grpc.aio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._beginning = asyncio.Lock()
        self._stopping: asyncio.Future[None] | None = None

    async def start(self) -> int:
        """Listen and answer, in this event loop.

        Returns:
            The port.

        Raises:
            OSError: the address can't be listened on.
        """
        self._port = await self._listen()
        self._watching = asyncio.create_task(self._listen_again())
        logger.info("gRPC is served on %s:%d", self._host, self._port)
        return self._port

    async def _listen(self) -> int:
        address = f"{self._host}:{self._port}"
        server = grpc.aio.server(options=list(self._options.items()), maximum_concurrent_rpcs=_MOST_CALLS)
        handlers = self._service.handlers(self._calls)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            port: int = (
                server.add_secure_port(address, _credentials(self._tls))
                if self._tls
                else server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise OSError(
                errno.EADDRINUSE, f"gRPC can't listen on {address}: taken, or no address of this machine"
            ) from error
        await server.start()
        self._server = server
        return port

    async def _listen_again(self) -> None:
        """Begin anew whenever gRPC has ended by itself.

        One request whose path is no UTF-8 ends a whole server of grpc.aio, with every call that it has (1.85 does it),
        and nothing that Python is asked comes before that. So what can be done is to be there for whoever calls next.
        """
        while self._server and not self._stopping:
            try:  # it says so at the end of the time, though connections may keep it from its end for long
                await self._server.wait_for_termination(_LOOK_EVERY_S)
            except Exception as error:
                logger.warning("gRPC ended by itself, and begins anew: %r", error)
                async with self._beginning:
                    while not (self._stopping or await self._can_listen()):
                        pass

    async def _can_listen(self) -> bool:
        try:
            await self._listen()
        except OSError as error:  # it may take a moment until the port is free
            logger.warning("%s", error)
            await asyncio.sleep(_LOOK_EVERY_S)
            return False
        return True

    async def stop(self, grace_s: float) -> None:
        """Take no further call, and return when those that were accepted are answered.

        Args:
            grace_s: after which calls are ended without their answers. Where the server is stopping already, what was
                said first counts.
        """
        if self._stopping is None:
            self._health.end()
            self._streams.stop()
            self._stopping = asyncio.ensure_future(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        """Stop without losing a call that is under way.

        gRPC drops calls that have come and are not handed over yet, and clients go on calling until they are told. So
        answers are kept back for a moment: a client that waits for one calls no more, and is told before it gets it.
        """
        if not self._server:
            return
        async with self._beginning:  # of a server that begins anew nobody else would know
            pass
        self._calls.hold()
        await self._until_nobody_calls(min(_LONGEST_HELD_BACK_S, grace_s))
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        await asyncio.sleep(0)  # by now it has told the connections
        self._calls.release()
        await stopping
        if self._watching:
            await self._watching

    async def _until_nobody_calls(self, longest_s: float) -> None:
        """Look a few times whether a call has come: where the processor is busy, one look may be before all of them."""
        looks = 5
        quiet, seen, until = 0, self._calls.came, time.monotonic() + longest_s
        while quiet < looks and time.monotonic() < until:
            await asyncio.sleep(min(_HELD_BACK_S, longest_s) / looks)
            quiet = quiet + 1 if self._calls.came == seen else 0
            seen = self._calls.came


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Certificates for each new connection: those that were read last."""
    told = tls.pem

    def of(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.client_ca)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        pem = tls.pem
        if pem is told:
            return None
        told = pem
        return of(pem)

    return grpc.dynamic_ssl_server_credentials(of(told), changed, tls.asks_clients)
