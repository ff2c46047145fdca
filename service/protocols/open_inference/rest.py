"""The Open Inference Protocol (v2) over REST: the calls, by path.

The specification is the protocol's own, as KServe and Triton answer it. What runs a model is in `infer`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import NotReady
from service.manifest import Tensor
from service.protocols.open_inference import compression, statistics
from service.protocols.open_inference.config import EXTENSIONS, PLATFORM, model_config
from service.protocols.open_inference.infer import Infer
from service.protocols.open_inference.inference import flag
from service.protocols.open_inference.tensors import shape_of
from service.protocols.open_inference.version_policy import policy_of
from service.protocols.paths import path_parameters
from service.protocols.requests import addressed, json_response, parse_json, read_body
from service.repository.control import Control
from service.repository.repository import Repository


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _ControlRequest(msgspec.Struct):
    parameters: dict[str, Any] | None = None


_INDEX = msgspec.json.Decoder(_IndexRequest)
_CONTROL = msgspec.json.Decoder(_ControlRequest)

_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "string"]}}
_INFERENCE = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"type": "string"},
                    "data": {"type": "array", "items": {}},
                    "parameters": _PARAMETERS,
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
            },
        },
    },
}

_INFERENCE_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _INFERENCE},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


def router(repository: Repository, control: Control, infer: Infer, *, version: str, max_body_bytes: int) -> APIRouter:
    """The routes of this dialect.

    Args:
        repository: the models that answer here.
        control: the server as a whole.
        infer: the call that runs a model.
        version: inferd's.
        max_body_bytes: of a request, as it is sent and once it is decompressed.
    """
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])
    whole = version

    async def server_metadata() -> Response:
        """Name the server, its version and the extensions it has."""
        return json_response({"name": "inferd", "version": whole, "extensions": ("binary_tensor_data", *EXTENSIONS)})

    async def live() -> Response:
        """Answer 200 while the process lives."""
        return json_response({"live": True})

    async def ready() -> Response:
        """Answer 200 when every model answers, else 503."""
        if not repository.is_ready:
            raise NotReady("not every model is ready")
        return json_response({"ready": True})

    async def model_ready(request: Request) -> Response:
        """Answer 200 when this model answers, else 503."""
        return json_response({"name": addressed(repository, request).name, "ready": True})

    async def model_metadata(request: Request) -> Response:
        """Describe the model's tensors."""
        served = addressed(repository, request)
        return json_response(
            {
                "name": served.name,
                "versions": [str(one) for one in repository.versions(served.name)],
                "platform": PLATFORM,
                "inputs": [_describe(tensor) for tensor in served.graph.inputs],
                "outputs": [_describe(tensor) for tensor in served.graph.outputs],
            }
        )

    async def config(request: Request) -> Response:
        """Describe how the model is served, as Triton's ModelConfig."""
        served = addressed(repository, request)
        return json_response(model_config(served, repository.versions(served.name)))

    async def all_stats() -> Response:
        """Tell what every model has done, in all workers together."""
        counted = await control.statistics()
        return json_response({"model_stats": [statistics.describe(one) for one in counted]})

    async def model_stats(request: Request) -> Response:
        """Tell what one model has done, by version."""
        served = addressed(repository, request)
        counted = [
            statistics.describe(one)
            for one in await control.statistics()
            if one.name == served.name and ("version" not in request.path_params or one.version == served.version)
        ]
        return json_response({"model_stats": counted})

    async def index(request: Request) -> Response:
        """List every version of every model that was found, and what became of it."""
        body = await _read_small(request, max_body_bytes)
        only_ready = parse_json(_INDEX, body, 'empty or {"ready": true or false}').ready if body else False
        return json_response(
            [
                {"name": one.name, "version": str(one.version), "state": one.state, "reason": one.reason}
                for one in await control.index()
                if one.state == "READY" or not only_ready
            ]
        )

    async def load(request: Request, model: str) -> Response:
        """Serve what lies in the model's folder now; answer once every worker does."""
        await control.load(model, policy_of(model, await _read_parameters(request, max_body_bytes)))
        return json_response({})

    async def unload(request: Request, model: str) -> Response:
        """Serve the model no longer; answer once no worker takes requests for it."""
        parameters = await _read_parameters(request, max_body_bytes)
        flag("unload", parameters, "unload_dependents", default=False)  # no model has any
        await control.unload(model)
        return json_response({})

    def get(path: str, answer: Any, *, head: bool = False) -> None:
        described = {"parameters": path_parameters(path)}
        routes.add_api_route(path, answer, response_model=None, openapi_extra=described)
        if head:
            routes.add_api_route(path, answer, methods=["HEAD"], response_model=None, include_in_schema=False)

    def post(path: str, answer: Any, openapi: dict[str, Any]) -> None:
        routes.add_api_route(path, answer, methods=["POST"], response_model=None, openapi_extra=openapi)

    for path in infer.paths:
        post(
            path.removeprefix(routes.prefix), infer.answer, {**_INFERENCE_OPENAPI, "parameters": path_parameters(path)}
        )
    get("", server_metadata)
    get("/health/live", live, head=True)
    get("/health/ready", ready, head=True)
    get("/models/stats", all_stats)  # before the model that could be called so
    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        get(path, model_metadata)
        get(f"{path}/ready", model_ready, head=True)
        get(f"{path}/config", config)
        get(f"{path}/stats", model_stats)
    post("/repository/index", index, _body({"ready": {"type": "boolean"}}))
    post("/repository/models/{model}/load", load, _body({"parameters": _PARAMETERS}))
    post("/repository/models/{model}/unload", unload, _body({"parameters": _PARAMETERS}))
    return routes


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    """The documentation of a call whose body is a small object or nothing."""
    return {"requestBody": {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}}


def _describe(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape_of(tensor)}


def _encoding_of(request: Request) -> str | None:
    return compression.encoding_of(",".join(request.headers.getlist("content-encoding")))


async def _read_small(request: Request, limit: int) -> bytes:
    """Read a body that is small, if it is honest."""
    encoding = _encoding_of(request)
    body = await read_body(request, limit)
    return compression.decompress(body, encoding, limit) if encoding else body


async def _read_parameters(request: Request, limit: int) -> dict[str, Any]:
    body = await _read_small(request, limit)
    return (parse_json(_CONTROL, body, 'empty or {"parameters": {...}}').parameters or {}) if body else {}
