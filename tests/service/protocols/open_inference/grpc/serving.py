"""A gRPC server and a client of it in one process, with a real port between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from service.metrics import Metrics
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.server import GrpcServer
from service.protocols.open_inference.grpc.service import SERVICE
from service.protocols.open_inference.tensors import from_raw, to_raw
from service.repository.bundle import LoadOptions
from service.repository.controller import Controller, ControlOptions
from service.repository.local_control import LocalControl
from service.repository.repository import QueueLimits, Repository
from service.security.access import Access
from service.security.tls import Tls
from service.settings import Settings
from service.threads import BoundedThreads

ADMIN_KEY = "opens-control"
VERSION = "9.8.7"


class Client:
    """A channel to a server, and its methods by name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def call(self, method: str, request: Message | None = None, **options: Any) -> grpc.aio.UnaryUnaryCall:
        """Begin a call; without a request, with an empty one."""
        described = SERVICE.methods_by_name[method]
        multi = self.channel.unary_unary(
            f"/{SERVICE.full_name}/{method}",
            lambda message: message.SerializeToString(),
            getattr(pb, described.output_type.name).FromString,
        )
        return multi(getattr(pb, described.input_type.name)() if request is None else request, **options)

    async def ask(self, method: str, request: Message | None = None, **options: Any) -> Any:
        """Make a call, and return its answer."""
        return await self.call(method, request, **options)

    async def refused(self, method: str, request: Message | None = None, **options: Any) -> grpc.aio.AioRpcError:
        """Make a call that must fail, and return how it did."""
        try:
            answer = await self.call(method, request, **options)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"was answered: {answer}")

    def stream(self, **options: Any) -> grpc.aio.StreamStreamCall:
        """Begin a stream of inferences."""
        multi = self.channel.stream_stream(
            f"/{SERVICE.full_name}/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        return multi(**options)


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    client: Client
    server: GrpcServer
    port: int
    repository: Repository
    control: LocalControl
    metrics: Metrics
    access: Access


@asynccontextmanager
async def serving(
    models: Path,
    *,
    admin_key: str = ADMIN_KEY,
    during_load: Callable[[Client], Awaitable[None]] | None = None,
    share_port: bool = False,
    tls: Tls | None = None,
    **changes: Any,
) -> AsyncIterator[Serving]:
    """Serve what lies in `models`; `changes` are settings. `during_load` runs before anything is loaded."""
    usual = {"models": models, "threads": 1, "model_control": "explicit", "admin_key": admin_key}
    settings = Settings(**{**usual, **changes})
    metrics = Metrics(VERSION)
    repository = Repository(
        options=LoadOptions.of(settings),
        queue=QueueLimits(settings.max_queue_s, settings.max_queue_rows),
        metrics=metrics,
        decoding=BoundedThreads(2, max_pending=64, name="decode"),
        let_go_s=settings.let_go_timeout_s,
    )
    controller = Controller(models, ControlOptions.of(settings), trial=None)
    control = LocalControl(controller, repository, metrics)
    access = Access.of(settings, metrics)
    server = GrpcServer(
        repository=repository,
        control=control,
        access=access,
        tls=tls,
        metrics=metrics,
        version=VERSION,
        host=settings.host,
        port=0,
        max_connections=settings.max_connections,
        message_timeout_s=settings.body_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        share_port=share_port,
        access_log=settings.access_log,
    )
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:  # unused with TLS
            client = Client(channel)
            await controller.join(repository)
            await controller.discover()
            if during_load:
                await during_load(client)
            await controller.start(tried=False)
            yield Serving(client, server, port, repository, control, metrics, access)
    finally:
        await server.stop(5)
        await controller.close()
        await repository.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that tells nobody when it happens."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.001)


UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def infer_request(model: str, *inputs: tuple[str, str, NDArray[Any]], **changes: Any) -> pb.ModelInferRequest:
    """Ask `model` about inputs (name, datatype, array) as raw contents; `changes` are fields of the request."""
    request = pb.ModelInferRequest(model_name=model, **changes)
    for name, datatype, array in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(to_raw(array, datatype))
    return request


def pictures(rows: int = 1, brightness: float = 1.0, **changes: Any) -> pb.ModelInferRequest:
    """Ask the tiny model about evenly bright pictures."""
    return infer_request("tiny", ("image", "FP32", np.full((rows, 1, 4, 6), brightness, np.float32)), **changes)


def outputs_of(response: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """Read the tensors of an answer."""
    return {
        one.name: from_raw(one.name, one.datatype, tuple(one.shape), raw)
        for one, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
