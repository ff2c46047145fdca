"""Graphs that would harm who loads or runs them. All of them but the endless ones are small files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.bundles import Array, graph_of, tensor

LOCAL = "local"
X, Y = tensor("x", "FP32", ["batch", 3]), tensor("y", "FP32", ["batch", 3])


def model(nodes: Sequence[onnx.NodeProto], constants: dict[str, Array] | None = None) -> onnx.ModelProto:
    """Make a model of `nodes` from x to y, both (batch, 3)."""
    return graph_of(nodes, [X], [Y], constants)


def with_functions(bodies: dict[str, Sequence[onnx.NodeProto]], first: str) -> onnx.ModelProto:
    """Make a model that calls a function of its own; each is from a to b."""
    made = model([helper.make_node(first, ["x"], ["y"], domain=LOCAL)])
    made.opset_import.append(helper.make_opsetid(LOCAL, 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(LOCAL, 1)]
    made.functions.extend(
        helper.make_function(LOCAL, name, ["a"], ["b"], list(nodes), imports) for name, nodes in bodies.items()
    )
    return made


def laughs(depth: int, width: int = 2) -> onnx.ModelProto:
    """Make functions that each call the next one several times: width ** depth nodes, in a file of a few kilobytes."""
    bodies: dict[str, Sequence[onnx.NodeProto]] = {}
    for level in range(depth):
        names = ["a", *(f"t{step}" for step in range(1, width)), "b"]
        called = f"f{level + 1}"
        bodies[f"f{level}"] = [
            helper.make_node(called, [names[step]], [names[step + 1]], domain=LOCAL) for step in range(width)
        ]
    bodies[f"f{depth}"] = [helper.make_node("Identity", ["a"], ["b"])]
    return with_functions(bodies, "f0")


def recursive(*cycle: str) -> onnx.ModelProto:
    """Make functions that call each other in a circle."""
    bodies = {
        name: [helper.make_node(cycle[(place + 1) % len(cycle)], ["a"], ["b"], domain=LOCAL)]
        for place, name in enumerate(cycle)
    }
    return with_functions(bodies, cycle[0])


def nested(depth: int) -> bytes:
    """Make a graph in a graph in a graph, as bytes: deeper than the library could write it."""
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "body", [], [tensor("o", "FP32", None)])
    leaf = body.SerializeToString()
    content = leaf
    for _ in range(depth):
        branches = _field(5, _attribute("then_branch", content)) + _field(5, _attribute("else_branch", leaf))
        node = _field(1, b"always") + _field(2, b"o") + _field(4, b"If") + branches
        content = _field(1, node) + _field(2, b"body") + _field(12, tensor("o", "FP32", None).SerializeToString())
    outermost = model([helper.make_node("Identity", ["x"], ["y"])], {"always": np.array(True)})
    branches = _field(5, _attribute("then_branch", content)) + _field(5, _attribute("else_branch", leaf))
    node = _field(1, b"always") + _field(2, b"y") + _field(4, b"If") + branches
    del outermost.graph.node[:]
    graph = _field(1, node) + outermost.graph.SerializeToString()
    outermost.ClearField("graph")
    return outermost.SerializeToString() + _field(7, graph)


def _attribute(name: str, graph: bytes) -> bytes:
    return _field(1, name.encode()) + _field(6, graph) + bytes([20 << 3 & 0x7F | 0x80, 1, onnx.AttributeProto.GRAPH])


def _field(number: int, content: bytes) -> bytes:
    """Write a field of a protocol buffer that has a length."""
    length, rest = b"", len(content)
    while rest > 0x7F:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def endless(trips: int = 2**62) -> onnx.ModelProto:
    """Make a loop that is over when everybody is long gone, on any input whose numbers are over 0.

    Where they are not, as those of a golden replay may be, it is over at once.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Add", ["before_step", "nothing"], ["after_step"]),
        ],
        "body",
        [
            tensor("step", "INT64", []),
            tensor("go_on", "BOOL", []),
            tensor("before_step", "FP32", None),
        ],
        [tensor("goes_on", "BOOL", []), tensor("after_step", "FP32", None)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "one"], ["asked"]),
        helper.make_node("Loop", ["trips", "asked", "x"], ["y"], body=body),
    ]
    constants = {"nothing": np.array(0, np.float32), "one": np.array(1, np.float32), "trips": np.array(trips, np.int64)}
    return model(nodes, constants)


def endless_at_once() -> onnx.ModelProto:
    """Make a loop that nothing that is made up ends."""
    made = endless()
    for one in made.graph.initializer:
        if one.name == "one":
            one.CopyFrom(numpy_helper.from_array(np.array(-1, np.float32), "one"))
    return made


def large(elements: int) -> onnx.ModelProto:
    """Make a graph that fills so many numbers on its way, from a file of a few bytes."""
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["size"], ["many"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1])
        ),
        helper.make_node("ReduceMin", ["many"], ["least"], keepdims=0),
        helper.make_node("Mul", ["x", "least"], ["y"]),
    ]
    return model(nodes, {"size": np.array([elements], np.int64)})


def as_large_as_asked() -> onnx.ModelProto:
    """Make a graph that fills as many numbers as its input says, and answers the least of them."""
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["size"], ["many"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1])
        ),
        helper.make_node("ReduceMin", ["many"], ["least"], keepdims=0),
    ]
    return graph_of(nodes, [tensor("size", "INT64", [1])], [tensor("least", "FP32", [])])


def with_sparse(dims: Sequence[int]) -> onnx.ModelProto:
    """Make a graph with a sparse tensor that is one number, and says that it is as large as `dims`."""
    made = model([helper.make_node("Identity", ["x"], ["y"])])
    values = numpy_helper.from_array(np.ones(1, np.float32), "few")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=dims))
    return made


def with_weight(dims: Sequence[int], raw: bytes, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Make a graph with a weight that says it has the shape `dims`, whatever its bytes are."""
    made = model([helper.make_node("Add", ["x", "w"], ["y"])])
    made.graph.initializer.append(TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw))
    return made


def lying(columns: int = 6) -> onnx.ModelProto:
    """Make a graph that says it answers (batch, 3), and answers more columns in a way that nobody can foresee."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["shape", "times"], ["wide"]),
        helper.make_node("ConstantOfShape", ["wide"], ["y"]),
    ]
    return model(nodes, {"times": np.array([1, columns // 3], np.int64)})
