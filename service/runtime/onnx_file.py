"""Reading an ONNX file that may be hostile: what must be known before ONNX Runtime sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from service.errors import BundleRefused


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was parsed; what it was parsed into is as large as itself, and is not kept.

    Attributes:
        content: its bytes.
        parameters: numbers in its initializers.
        ranked: the graph's inputs and outputs of which it says how many axes they have.
    """

    content: bytes
    parameters: int
    ranked: frozenset[str]


def read_onnx(folder: Path, name: str) -> OnnxFile:
    """Read an ONNX file that is whole and refers to no other file.

    Args:
        folder: the bundle's folder.
        name: of the file in it.

    Raises:
        BundleRefused: it can't be read, is no ONNX model, or keeps tensors in other files ("external data"), which
            could be any file of this machine.
    """
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BundleRefused(name, f"can't be read ({error.strerror})") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BundleRefused(name, "is no ONNX model, or only a part of one") from error
    if not model.graph.node:
        raise BundleRefused(name, "is no ONNX model: it has no graph")
    bodies = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    # What a function's attributes are unless its caller says otherwise: read as if a node had them.
    bodies += [onnx.NodeProto(attribute=function.attribute_proto) for function in model.functions]
    for tensor in (*model.graph.initializer, *_sparse(model.graph), *_tensors(bodies)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BundleRefused(name, f"keeps tensor {tensor.name!r} in another file; export it in one file")
    return OnnxFile(
        content,
        parameters=sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        ranked=frozenset(
            value.name
            for value in (*model.graph.input, *model.graph.output)
            if value.type.tensor_type.HasField("shape")
        ),
    )


def _sparse(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _tensors(nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor in attributes of `nodes` and of the graphs inside them, at any depth."""
    waiting = list(nodes)
    while waiting:
        for attribute in waiting.pop().attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield sparse.values
                yield sparse.indices
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                yield from _sparse(graph)
                waiting.extend(graph.node)
