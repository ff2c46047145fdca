"""Reading an ONNX file that may be hostile: what must be known before ONNX Runtime sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import onnx
from google.protobuf.message import DecodeError

from service.errors import BundleRefused
from service.manifest import FileEntry, read_file

MOST_BYTES: Final = 2**31 - 1
"""Protocol buffers have no more."""
MOST_NODES: Final = 100_000
"""Of all graphs and functions together."""
_MOST_WRITTEN_OUT: Final = 20_000
"""Where there are functions, with each of them wherever it is called: ONNX Runtime takes milliseconds a node."""
_MOST_SPARSE_ELEMENTS: Final = 2**26
"""That a sparse tensor, which may say so without having them, is unpacked to."""

_DOMAINS: Final = frozenset(("", "ai.onnx.ml", "com.microsoft"))
"""Those whose operators ONNX Runtime has itself. Others would come from a library beside the model."""
_REFUSED: Final = frozenset(("EPContext", "PythonOp", "PythonOpGrad", "ExternalGradient"))
"""Operators of these that name files to be loaded, or Python code to be called."""

_LONGEST_REASON = 500

FunctionKey: TypeAlias = tuple[str, str, str]
"""Domain, name and overload."""


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


def read_onnx(folder: Path, name: str, entry: FileEntry | None = None) -> OnnxFile:
    """Read an ONNX file that is whole, refers to nothing outside of it, and is as large as it looks.

    Args:
        folder: the bundle's folder.
        name: of the file in it.
        entry: what the bundle's manifest says of the file, if there is one.

    Raises:
        BundleRefused: it can't be read, is no ONNX model, keeps tensors in other files ("external data"), which could
            be any file of this machine, has operators that ONNX Runtime has not, is far larger once it is written out,
            or is no model to `onnx.checker`.
    """
    content = read_file(folder, name, most=MOST_BYTES, entry=entry)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BundleRefused(name, "is no ONNX model, or only a part of one") from error
    if not model.graph.node:
        raise BundleRefused(name, "is no ONNX model: it has no graph")
    try:
        problem = next(_problems(model), None)
    except UnicodeDecodeError as error:
        raise BundleRefused(name, f"has a name that is no text ({error})") from error
    if problem:
        raise BundleRefused(name, problem)
    ends = (*model.graph.input, *model.graph.output)
    ranked = frozenset(value.name for value in ends if value.type.tensor_type.HasField("shape"))
    parameters = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    _check(name, content, model)
    return OnnxFile(content, parameters=parameters, ranked=ranked)


def _check(name: str, content: bytes, model: onnx.ModelProto) -> None:
    """Have `onnx.checker` look at a model, which may be changed for it."""
    checked = content
    for value in (*model.graph.input, *model.graph.output):
        tensor = value.type.tensor_type
        if value.type.WhichOneof("value") == "tensor_type" and not tensor.HasField("shape"):
            tensor.shape.SetInParent()  # to the checker there is none without a rank, though ONNX allows it
            checked = b""
    try:
        onnx.checker.check_model(checked or model.SerializeToString())
    except Exception as error:  # its own ValidationError, and whatever its native code has
        raise BundleRefused(name, f"is no ONNX model to onnx.checker ({_short(error)})") from error


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    """What is wrong with a model that could do harm before anything else finds it."""
    graphs = [model.graph]
    for training in model.training_info:  # nobody here looks at it, and nobody shall
        graphs += [training.initialization, training.algorithm]
    functions = {(_domain(one.domain), one.name, one.overload): list(one.node) for one in model.functions}
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for function in functions.values() for node in function]
    found = sum(1 for _ in _all_nodes(nodes))
    if found > MOST_NODES:
        yield f"has {found} nodes, the limit is {MOST_NODES}"
    # What a function's attributes are unless its caller says otherwise: read as if a node had them.
    nodes += [onnx.NodeProto(attribute=function.attribute_proto) for function in model.functions]
    for tensor in (*(one for graph in graphs for one in _tensors_of(graph)), *_tensors(nodes)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            yield f"keeps tensor {tensor.name!r} in another file; export it in one file"
        if min(tensor.dims, default=0) < 0:
            yield f"tensor {tensor.name!r} has a negative size"
    for sparse in (*(one for graph in graphs for one in graph.sparse_initializer), *_sparse_tensors(nodes)):
        if min(sparse.dims, default=0) < 0 or math.prod(sparse.dims) > _MOST_SPARSE_ELEMENTS:
            yield (
                f"sparse tensor {sparse.values.name!r} is unpacked to {list(sparse.dims)}; "
                f"the limit is {_MOST_SPARSE_ELEMENTS} numbers"
            )
    yield from _foreign(nodes, functions)
    yield from _written_out(model.graph.node, functions)


def _foreign(
    nodes: Sequence[onnx.NodeProto], functions: Mapping[FunctionKey, Sequence[onnx.NodeProto]]
) -> Iterator[str]:
    for node in _all_nodes(nodes):
        if not node.op_type:
            continue
        own = _called(node) in functions
        if node.op_type in _REFUSED or not (own or _domain(node.domain) in _DOMAINS):
            yield f"has the operator {node.op_type!r} of {node.domain or 'ai.onnx'!r}, which is none that is served"


def _written_out(
    main: Sequence[onnx.NodeProto], functions: Mapping[FunctionKey, Sequence[onnx.NodeProto]]
) -> Iterator[str]:
    """Whether there are too many nodes once every function is written out wherever it is called.

    A few functions that each call the next one twice are more nodes than any memory has.
    """
    calls: dict[FunctionKey, list[FunctionKey]] = {}
    sizes: dict[FunctionKey, int] = {}
    for key, body in functions.items():
        calls[key] = [one for node in _all_nodes(body) if (one := _called(node)) in functions]
    for key in functions:
        waiting = [key]
        begun = set()
        while waiting:  # by hand: functions may be nested as deep as they like
            one = waiting[-1]
            unknown = [called for called in calls[one] if called not in sizes] if one not in sizes else []
            if not unknown:
                waiting.pop()
                if one not in sizes:
                    plain = sum(1 for _ in _all_nodes(functions[one])) - len(calls[one])
                    sizes[one] = min(plain + sum(sizes[called] for called in calls[one]), _MOST_WRITTEN_OUT + 1)
                continue
            if one in begun:
                yield f"has a function {one[1]!r} that calls itself"
                return
            begun.add(one)
            waiting += unknown
    written_out = sum(sizes.get(_called(node), 1) for node in _all_nodes(main))
    if functions and written_out > _MOST_WRITTEN_OUT:
        yield f"has over {_MOST_WRITTEN_OUT} nodes once its functions are written out, which is the limit"


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield `nodes` and those of the graphs inside them, at any depth."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield a graph's own tensors."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _tensors(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in attributes of `nodes` and of the graphs inside them, at any depth."""
    for node in _all_nodes(nodes):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield sparse.values
                yield sparse.indices
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of(graph)


def _sparse_tensors(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.SparseTensorProto]:
    """Yield every sparse tensor in attributes of `nodes` and of the graphs inside them, at any depth."""
    for node in _all_nodes(nodes):
        for attribute in node.attribute:
            yield attribute.sparse_tensor
            yield from attribute.sparse_tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.sparse_initializer


def _called(node: onnx.NodeProto) -> FunctionKey:
    return _domain(node.domain), node.op_type, node.overload


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
