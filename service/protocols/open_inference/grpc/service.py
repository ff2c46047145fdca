"""The calls of the inference service: the table from a method's name to what answers it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import grpc

from service.batching.records import Answer
from service.errors import InferdError, Unsupported
from service.protocols.open_inference.config import EXTENSIONS
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.calls import Call, Calls, Duplex, UnaryHandler, parse
from service.protocols.open_inference.grpc.errors import UNEXPECTED, status_of
from service.protocols.open_inference.grpc.messages import (
    config_of,
    is_slow_to_read,
    is_slow_to_write,
    metadata_of,
    parameters_of,
    read_inference,
    statistics_of,
    write_inference,
)
from service.protocols.open_inference.grpc.streams import Streams
from service.protocols.open_inference.inference import flag
from service.protocols.open_inference.version_policy import policy_of
from service.protocols.requests import answer_headers
from service.repository.control import Control
from service.repository.model import Model
from service.repository.repository import Repository
from service.security.keys import Scope

logger = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

SCOPES: Mapping[str, Scope | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "ModelReady": None,
    "ServerMetadata": "predict",
    "ModelMetadata": "predict",
    "ModelInfer": "predict",
    "ModelStreamInfer": "predict",
    "ModelConfig": "predict",
    "ModelStatistics": "predict",
    "RepositoryIndex": "predict",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}
"""The scope that a key needs for each method; None = it needs no key, as probes have none."""

T = TypeVar("T")


class InferenceService:
    """Every method of `inference.GRPCInferenceService`.

    Args:
        repository: the models.
        control: the server as a whole.
        version: of inferd.
        streams: where streams are served.
    """

    def __init__(self, *, repository: Repository, control: Control, version: str, streams: Streams) -> None:
        self._repository = repository
        self._control = control
        self._version = version
        self._streams = streams
        self._unary: Mapping[str, UnaryHandler] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_model_load,
            "RepositoryModelUnload": self._repository_model_unload,
        }

    def handlers(self, calls: Calls) -> dict[str, grpc.RpcMethodHandler]:
        """What gRPC calls, by the method's name."""
        methods = {
            name: calls.unary(name, SCOPES[name], getattr(pb, SERVICE.methods_by_name[name].input_type.name), handler)
            for name, handler in self._unary.items()
        }
        stream = "ModelStreamInfer"
        return {**methods, stream: calls.stream(stream, "predict", self._model_stream_infer)}

    async def _server_live(self, _request: pb.ServerLiveRequest, _call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: pb.ServerReadyRequest, _call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._repository.is_ready)

    async def _model_ready(self, request: pb.ModelReadyRequest, _call: Call) -> pb.ModelReadyResponse:
        serving = map(str, self._repository.versions(request.name))
        return pb.ModelReadyResponse(ready=request.version in serving if request.version else any(serving))

    async def _server_metadata(self, _request: pb.ServerMetadataRequest, _call: Call) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="inferd", version=self._version, extensions=EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _call: Call) -> pb.ModelMetadataResponse:
        served = self._repository.get(request.name, request.version or None)
        return metadata_of(served, self._repository.versions(served.name))

    async def _model_config(self, request: pb.ModelConfigRequest, _call: Call) -> pb.ModelConfigResponse:
        served = self._repository.get(request.name, request.version or None)
        return pb.ModelConfigResponse(config=config_of(served, self._repository.versions(served.name)))

    async def _model_statistics(self, request: pb.ModelStatisticsRequest, _call: Call) -> pb.ModelStatisticsResponse:
        if request.name:
            self._repository.get(request.name, request.version or None)  # says so where it does not serve
        return pb.ModelStatisticsResponse(
            model_stats=[
                statistics_of(one)
                for one in await self._control.statistics()
                if request.name in ("", one.name) and request.version in ("", str(one.version))
            ]
        )

    async def _repository_index(self, request: pb.RepositoryIndexRequest, _call: Call) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise _unnamed(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=one.name, version=str(one.version), state=one.state, reason=one.reason
                )
                for one in await self._control.index()
                if one.state == "READY" or not request.ready
            ]
        )

    async def _repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, _call: Call
    ) -> pb.RepositoryModelLoadResponse:
        name = _model_to_control(request)
        await self._control.load(name, policy_of(name, parameters_of(request.parameters)))
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def _repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, _call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        name = _model_to_control(request)
        flag("unload", parameters_of(request.parameters), "unload_dependents", default=False)  # no model has any
        await self._control.unload(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def _model_infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse()
        served, answer = await self._infer(request, call.size, call.deadline, response)
        call.trailers.extend(answer_headers(served, answer).items())
        return response

    async def _model_stream_infer(self, duplex: Duplex, call: Call) -> None:
        async def answer(body: bytes) -> bytes:
            """Answer one request; what fails says so in its answer, and the stream goes on."""
            request = pb.ModelInferRequest()
            response = pb.ModelStreamInferResponse()
            inferred = response.infer_response
            inferred.parameters["triton_final_response"].bool_param = True  # a request has one answer
            try:
                with call.admit():
                    request = parse(pb.ModelInferRequest, body)
                    await self._infer(request, len(body), call.deadline, inferred)
                    return call.serialize(response)
            except Exception as error:
                inferred.Clear()
                inferred.id = request.id
                inferred.parameters["triton_final_response"].bool_param = True
                response.error_message = _message_of(error)
                return call.serialize(response)

        await self._streams.serve(duplex, answer)

    async def _infer(
        self, request: pb.ModelInferRequest, size: int, deadline: float | None, response: pb.ModelInferResponse
    ) -> tuple[Model, Answer]:
        """Run a request, a message of `size` bytes, and write its answer into `response`."""
        served = self._repository.get(request.model_name, request.model_version or None)
        with served.measured():
            read = partial(read_inference, request, served.graph, batched=served.batched, deadline=deadline)
            asked = await _do(served, read, in_thread=is_slow_to_read(request, size))
            answer = await served.submit(asked.arrays, asked.deadline, asked.priority, asked.parameters)
            served.observe(answer)
            write = partial(write_inference, served, asked, answer, response)
            await _do(served, write, in_thread=is_slow_to_write(asked, answer))
            return served, answer


async def _do(served: Model, work: Callable[[], T], *, in_thread: bool) -> T:
    return await served.offload(work) if in_thread else work()


def _model_to_control(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The name of the model, whichever field the client has for it.

    Raises:
        Unsupported: it names a repository too.
    """
    if request.model_name and request.repository_name:
        raise _unnamed(request.repository_name)
    return str(request.model_name or request.repository_name)


def _unnamed(repository: str) -> Unsupported:
    return Unsupported(f"there is no repository {repository[:100]!r}: the only one has no name")


def _message_of(error: Exception) -> str:
    """What the client of a stream is told; what is our fault is logged."""
    if not isinstance(error, InferdError):
        logger.error("a request of a stream failed unexpectedly", exc_info=error)
        return UNEXPECTED
    if status_of(error) is grpc.StatusCode.INTERNAL:
        logger.error("a request failed: %s", error, exc_info=error.__cause__)
    return str(error)
