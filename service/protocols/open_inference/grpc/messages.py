"""Messages to what they mean, and back: tensors, parameters, and what describes models and what they did."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from google.protobuf import json_format
from numpy.typing import NDArray

from service.batching.records import Answer
from service.errors import BadInput
from service.manifest import Graph, Tensor
from service.protocols.open_inference import tensors
from service.protocols.open_inference.config import PLATFORM, model_config
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.inference import (
    Given,
    Inference,
    check_names,
    inputs_of,
    parameters,
    refuse_shared_memory,
    timings,
    wanted,
)
from service.protocols.open_inference.statistics import describe
from service.repository.model import Model
from service.repository.statistics import VersionStatistics

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where typed contents lie. The other datatypes have none."""

_INLINE_MESSAGE = 64 * 1024
"""Bytes up to which a request is read in the event loop."""

_INLINE_INPUTS = 100
_INLINE_TEXTS = 4096
"""Texts up to which an answer is written in the event loop."""


def is_slow_to_read(request: pb.ModelInferRequest, size: int) -> bool:
    """Whether reading this request, a message of `size` bytes, belongs in a thread: raw numbers are not even copied."""
    return size > _INLINE_MESSAGE and (
        not request.raw_input_contents
        or len(request.inputs) > _INLINE_INPUTS
        or any(one.datatype == "BYTES" for one in request.inputs)
    )


def read_inference(request: pb.ModelInferRequest, graph: Graph, *, batched: bool, deadline: float | None) -> Inference:
    """Read a request and check it against the graph.

    Args:
        request: as it came.
        graph: what shall run.
        batched: whether the first axis of every input is the batch.
        deadline: of the call; the request may have an earlier one.

    Raises:
        BadInput: the graph can't take it; the message says why.
        Unsupported: it asks for what no model here can do.
    """
    given = parameters_of(request.parameters)
    given_deadline, priority = parameters(given, time.monotonic())
    if given_deadline is not None:
        deadline = given_deadline if deadline is None else min(deadline, given_deadline)
    outputs = wanted(((one.name, parameters_of(one.parameters)) for one in request.outputs), graph)
    arrays = inputs_of(_given(request, graph), graph, batched=batched)
    return Inference(request.id, arrays, outputs, deadline, priority, given)


def is_slow_to_write(asked: Inference, answer: Answer) -> bool:
    """Whether writing this answer belongs in a thread: numbers are only copied, texts are made one by one."""
    return any(
        one.datatype == "BYTES" and answer.outputs[one.tensor.name].size > _INLINE_TEXTS for one in asked.outputs
    )


def write_inference(served: Model, asked: Inference, answer: Answer, response: pb.ModelInferResponse) -> None:
    """Write the answer of a request into `response`, its tensors as raw contents."""
    response.model_name = served.name
    response.model_version = str(served.version)
    response.id = asked.id
    for name, value in timings(answer).items():
        response.parameters[name].int64_param = value
    for one in asked.outputs:
        array = one.array(answer.outputs, served.labels, batched=served.batched)
        response.outputs.add(name=one.tensor.name, datatype=one.datatype, shape=array.shape)
        response.raw_output_contents.append(tensors.to_raw(array, one.datatype))


def parameters_of(given: Mapping[str, Any]) -> dict[str, object]:
    """The values of parameters by name; each is of one kind of several.

    Raises:
        BadInput: one has no value.
    """
    if not given:
        return {}
    values: dict[str, object] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise BadInput(f"parameter {name[:100]!r} has no value")
        values[name] = getattr(parameter, kind)
    return values


def metadata_of(served: Model, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """Describe the tensors of a model."""
    return pb.ModelMetadataResponse(
        name=served.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[_described(tensor) for tensor in served.graph.inputs],
        outputs=[_described(tensor) for tensor in served.graph.outputs],
    )


def config_of(served: Model, versions: Sequence[int]) -> pb.ModelConfig:
    """Describe how a model is served."""
    config = pb.ModelConfig()
    json_format.ParseDict(model_config(served, versions), config)
    return config


def statistics_of(one: VersionStatistics) -> pb.ModelStatistics:
    """Write what a version has done."""
    statistics = pb.ModelStatistics()
    json_format.ParseDict(msgspec.to_builtins(describe(one)), statistics)
    return statistics


def _given(request: pb.ModelInferRequest, graph: Graph) -> list[Given]:
    """The inputs of a request, their data not looked at yet.

    Raises:
        BadInput: it has other inputs than the graph, raw and typed contents, or raw contents of other than every input.
        Unsupported: the data are elsewhere.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadInput(f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs; each input has one")
    check_names([one.name for one in request.inputs], graph)
    given = []
    for index, one in enumerate(request.inputs):
        refuse_shared_memory(f"input {one.name[:100]!r}", one.parameters)
        shape = tuple(one.shape)
        if not raw:
            make = partial(_typed, one, shape)
        elif one.HasField("contents"):
            raise BadInput(
                f"input {one.name[:100]!r} has typed contents, and the request has raw_input_contents: "
                "a request has one or the other"
            )
        else:
            make = partial(_untyped, one, shape, raw, index)
        given.append(Given(one.name, one.datatype, shape, make))
    return given


def _typed(one: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...]) -> NDArray[Any]:
    contents = one.contents
    field = _CONTENTS.get(one.datatype)
    if wrong := [other.name for other, _ in contents.ListFields() if other.name != field]:
        belongs = f"{one.datatype} belongs in {field}" if field else f"{one.datatype} can be sent as raw contents only"
        raise BadInput(f"input {one.name!r}: {belongs}, not in {', '.join(wrong)}")
    return tensors.from_values(one.name, one.datatype, shape, getattr(contents, field) if field else ())


def _untyped(one: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], raw: Any, index: int) -> NDArray[Any]:
    return tensors.from_raw(one.name, one.datatype, shape, raw[index])


def _described(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensors.shape_of(tensor)
    )
