"""The Open Inference Protocol (v2) over JSON: a model as its graph, tensors in and tensors out.

The specification is the protocol's own, as KServe and Triton answer it. The `infer` route keeps bulk data away from
pydantic: numbers go from JSON to lists to arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadInput, NotReady
from service.manifest import Graph, Tensor
from service.protocols.requests import (
    answer_headers,
    deadline_of,
    json_response,
    parse_json,
    read_body,
    run,
    while_connected,
)
from service.repository.model import Model
from service.repository.repository import Repository
from service.tensors import DTYPES, Arrays

PLATFORM = "onnxruntime_onnx"


class _InputTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class _RequestedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _InferRequest(msgspec.Struct):
    inputs: list[_InputTensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_RequestedOutput] = []


@dataclass(frozen=True)
class _Asked:
    id: str | None
    arrays: Arrays
    outputs: list[Tensor]


_INLINE_BODY = 64 * 1024
"""Bytes up to which a body is parsed in the event loop."""

_REQUEST = msgspec.json.Decoder(_InferRequest)

_GIVEN_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""NumPy's kinds of what JSON held, that fit each kind of datatype: whole numbers are floats too, not the other way."""

_TENSOR_SCHEMA = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
    },
}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": _TENSOR_SCHEMA},
                        "outputs": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                        },
                    },
                }
            }
        },
    }
}


def router(repository: Repository, *, version: str, max_body_bytes: int) -> APIRouter:
    """The routes of this dialect; `version` is inferd's."""
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])

    async def server_metadata() -> Response:
        """Name the server, its version and the extensions it has."""
        return json_response({"name": "inferd", "version": version, "extensions": []})

    async def live() -> Response:
        """Answer 200 while the process lives."""
        return json_response({"live": True})

    async def ready() -> Response:
        """Answer 200 when every model answers, else 503."""
        if not repository.is_ready:
            raise NotReady("not every model is ready")
        return json_response({"ready": True})

    async def model_ready(model: str, version: str | None = None) -> Response:
        """Answer 200 when this model answers, else 503."""
        served = repository.get(model, version)
        return json_response({"name": served.name, "ready": True})

    async def model_metadata(model: str, version: str | None = None) -> Response:
        """Describe the model's tensors."""
        served = repository.get(model, version)
        graph = served.bundle.session.graph
        return json_response(
            {
                "name": served.name,
                "versions": [str(one) for one in repository.versions(served.name)],
                "platform": PLATFORM,
                "inputs": [_describe(tensor) for tensor in graph.inputs],
                "outputs": [_describe(tensor) for tensor in graph.outputs],
            }
        )

    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        """Run the model's graph on tensors."""
        served = repository.get(model, version)
        with served.measured():
            deadline = deadline_of(request)
            body = await read_body(request, max_body_bytes)
            read = partial(_read, body, served.bundle.session.graph)
            if len(body) > _INLINE_BODY:
                asked = await while_connected(request, served.offload(read))
            else:
                asked = read()
            answer = await run(request, served, asked.arrays, deadline)
            return json_response(_response(served, asked, answer.outputs), answer_headers(served, answer))

    routes.add_api_route("", server_metadata, response_model=None)
    routes.add_api_route("/health/live", live, response_model=None)
    routes.add_api_route("/health/ready", ready, response_model=None)
    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        routes.add_api_route(path, model_metadata, response_model=None)
        routes.add_api_route(f"{path}/ready", model_ready, response_model=None)
        routes.add_api_route(f"{path}/infer", infer, methods=["POST"], response_model=None, openapi_extra=_OPENAPI)
    return routes


def _describe(tensor: Tensor) -> dict[str, object]:
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}


def _read(body: bytes, graph: Graph) -> _Asked:
    """Parse a request and check it against the graph.

    Raises:
        BadInput: it is no request, or not one that the graph can take.
    """
    request = parse_json(_REQUEST, body, "an inference request")
    return _Asked(request.id, _to_arrays(request.inputs, graph.inputs), _wanted(request.outputs, graph.outputs))


def _to_arrays(given: list[_InputTensor], expected: tuple[Tensor, ...]) -> Arrays:
    """Make an array of every input, after checking it against the graph."""
    by_name = {tensor.name: tensor for tensor in given}
    names = [tensor.name for tensor in expected]
    if len(by_name) != len(given) or set(by_name) != set(names):
        raise BadInput(f"inputs must be {names}, once each; given: {[tensor.name for tensor in given]}")
    arrays = {tensor.name: _to_array(by_name[tensor.name], tensor) for tensor in expected}
    rows = {array.shape[0] for array in arrays.values()}
    if len(rows) > 1:
        raise BadInput(f"inputs must have one batch size; given: {sorted(rows)}")
    return arrays


def _to_array(given: _InputTensor, expected: Tensor) -> NDArray[Any]:
    if given.datatype != expected.datatype:
        raise BadInput(f"input {given.name!r} must be {expected.datatype}, not {given.datatype}")
    fits = len(given.shape) == len(expected.shape) and all(
        size >= 1 and (size == wanted or isinstance(wanted, str))
        for size, wanted in zip(given.shape, expected.shape, strict=True)
    )
    if not fits:
        raise BadInput(
            f"input {given.name!r} has shape {given.shape}; expected {_describe(expected)['shape']} (-1: any size)"
        )
    array = _to_numbers(given)
    if array.ndim > 1 and array.shape != tuple(given.shape):
        raise BadInput(f"input {given.name!r}: data are nested as {list(array.shape)}, but shape is {given.shape}")
    if array.size != math.prod(given.shape):
        raise BadInput(f"input {given.name!r}: data have {array.size} numbers; shape {given.shape} needs other")
    return array.reshape(given.shape)


def _to_numbers(given: _InputTensor) -> NDArray[Any]:
    """Make an array of the datatype asked for, if every number is one of that datatype: none is cut or wrapped."""
    dtype = DTYPES.get(given.datatype)
    if dtype is None:
        raise BadInput(f"input {given.name!r}: {given.datatype} can't be sent as JSON numbers")
    try:
        numbers = np.asarray(given.data)
    except ValueError as error:
        raise BadInput(f"input {given.name!r}: data are not nested evenly") from error
    if numbers.size == 0 or numbers.dtype == dtype:
        return numbers.astype(dtype)
    if numbers.dtype.kind not in _GIVEN_KINDS[dtype.kind]:
        raise BadInput(f"input {given.name!r}: data are no {given.datatype} numbers")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= numbers.min() <= numbers.max() <= np.iinfo(dtype).max:
        raise BadInput(f"input {given.name!r}: data have numbers that {given.datatype} has not")
    with np.errstate(over="ignore"):
        array = numbers.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        # JSON has no infinite numbers: what is one now was too large.
        raise BadInput(f"input {given.name!r}: data have numbers too large for {given.datatype}")
    return array


def _wanted(asked: list[_RequestedOutput], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    by_name = {tensor.name: tensor for tensor in outputs}
    for one in asked:
        if one.name not in by_name:
            raise BadInput(f"there is no output {one.name!r}; outputs: {list(by_name)}")
    return [by_name[one.name] for one in asked] if asked else list(outputs)


def _response(model: Model, asked: _Asked, outputs: Arrays) -> dict[str, object]:
    response: dict[str, object] = {"model_name": model.name, "model_version": str(model.version)}
    if asked.id is not None:
        response["id"] = asked.id
    response["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(outputs[tensor.name].shape),
            "data": outputs[tensor.name].ravel().tolist(),
        }
        for tensor in asked.outputs
    ]
    return response
