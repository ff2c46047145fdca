"""Reading an ONNX file that may be hostile: what must be known before ONNX Runtime sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from service.errors import BundleRefused


def read_onnx(folder: Path, name: str) -> bytes:
    """Return the bytes of an ONNX file that is whole and refers to no other file.

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
    return content


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
