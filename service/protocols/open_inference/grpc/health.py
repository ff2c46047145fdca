"""The standard gRPC health service: of the server, of the inference service, and of each model by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.protocols.open_inference.grpc.open_inference_pb2 import DESCRIPTOR
from service.repository.repository import Repository

SERVICE: str = DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_LOOK_EVERY_S = 0.25
"""How often a watched status is looked at: nobody tells when it changes."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it ships no types
    """Serving is who would answer a request now and need not expect to be stopped.

    Args:
        repository: knows what is ready.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Say of everything that it serves no longer, also to those who watch, and end their streams."""
        self._ended.set()

    async def Check(  # noqa: N802 - the service's own name, as below
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer the status of one service."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service or model")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self, _request: health_pb2.HealthListRequest, _context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """Answer the status of every service."""
        names = ["", SERVICE, *{entry.name: None for entry in self._repository.entries()}]
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names}
        )

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Answer the status of one service whenever it changes, known or not, until the server is stopped."""
        told = None
        while True:
            ended = self._ended.is_set()
            if (status := self._status(request.service)) != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if ended:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _LOOK_EVERY_S)

    def _status(self, service: str) -> int:
        if service in ("", SERVICE):
            serves = self._repository.is_ready
        elif any(entry.name == service for entry in self._repository.entries()):
            serves = bool(self._repository.versions(service))
        else:
            return int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        serves = serves and not self._ended.is_set() and not self._repository.is_draining
        status = health_pb2.HealthCheckResponse
        return int(status.SERVING if serves else status.NOT_SERVING)
