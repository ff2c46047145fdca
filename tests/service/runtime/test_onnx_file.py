from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import BundleRefused
from service.runtime.onnx_file import read_onnx
from tests.bundles import model_of, slow_graph, tiny_graph


def written(folder: Path, model: onnx.ModelProto) -> bytes:
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    return content


def elsewhere(name: str = "hidden") -> onnx.TensorProto:
    """Make a tensor whose numbers lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def here(name: str = "") -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(2, np.float32), name)


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def with_node(**attributes: object) -> onnx.ModelProto:
    """Make a model with one more node, whose attributes may be anything; nobody will run it."""
    model = tiny_graph()
    model.graph.node.append(node_of(**attributes))
    return model


def node_of(**attributes: object) -> onnx.NodeProto:
    node = helper.make_node("Whatever", [], ["unused"])
    for name, value in attributes.items():
        node.attribute.append(helper.make_attribute(name, value))
    return node


def graph_of(*nodes: onnx.NodeProto, initializer: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "inner", [], [], initializer=list(initializer))


def function_of(*nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("local", "F", [], [], list(nodes), [helper.make_opsetid("", 17)])


def with_function(function: onnx.FunctionProto) -> onnx.ModelProto:
    model = tiny_graph()
    model.functions.append(function)
    return model


def in_an_initializer() -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.initializer.append(elsewhere())
    return model


def in_an_initializer_that_hides_it() -> onnx.ModelProto:
    """Name the other file, but leave out that it is to be used."""
    model = in_an_initializer()
    model.graph.initializer[-1].ClearField("data_location")
    return model


def in_an_initializer_without_address() -> onnx.ModelProto:
    model = in_an_initializer()
    model.graph.initializer[-1].ClearField("external_data")
    return model


def in_a_sparse_initializer(values: onnx.TensorProto, indices: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.sparse_initializer.append(sparse(values, indices))
    return model


def in_a_functions_default() -> onnx.ModelProto:
    function = function_of(node_of())
    function.attribute_proto.append(helper.make_attribute("value", elsewhere()))
    return with_function(function)


HIDING_PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    "an initializer": in_an_initializer,
    "an initializer that hides it": in_an_initializer_that_hides_it,
    "an initializer without address": in_an_initializer_without_address,
    "a sparse initializer's values": lambda: in_a_sparse_initializer(elsewhere(), here()),
    "a sparse initializer's indices": lambda: in_a_sparse_initializer(here(), elsewhere()),
    "a node's tensor": lambda: with_node(value=elsewhere()),
    "a node's last tensor": lambda: with_node(values=[here(), here(), elsewhere()]),
    "a node's sparse tensor": lambda: with_node(value=sparse(elsewhere(), here())),
    "a node's sparse tensors": lambda: with_node(values=[sparse(here(), here()), sparse(here(), elsewhere())]),
    "a graph in a node": lambda: with_node(body=graph_of(initializer=(elsewhere(),))),
    "a node in a graph in a node": lambda: with_node(body=graph_of(node_of(value=elsewhere()))),
    "the last graph in a node": lambda: with_node(bodies=[graph_of(), graph_of(initializer=(elsewhere(),))]),
    "a graph in a graph in a graph": lambda: with_node(
        body=graph_of(node_of(body=graph_of(node_of(body=graph_of(initializer=(elsewhere(),))))))
    ),
    "a function's node": lambda: with_function(function_of(node_of(), node_of(value=elsewhere()))),
    "a graph in a function": lambda: with_function(function_of(node_of(body=graph_of(initializer=(elsewhere(),))))),
    "a function's default": in_a_functions_default,
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_tensor_that_lies_in_another_file_is_found_wherever_it_hides(tmp_path: Path, place: str) -> None:
    written(tmp_path, HIDING_PLACES[place]())
    with pytest.raises(BundleRefused, match=r"model\.onnx: keeps tensor 'hidden' in another file"):
        read_onnx(tmp_path, "model.onnx")


@pytest.mark.parametrize(
    "model",
    [tiny_graph(), slow_graph(), with_node(value=here(), body=graph_of(node_of()))],
    ids=["flat", "with a loop", "with all kinds of attributes"],
)
def test_a_model_in_one_file_is_read_as_it_is(tmp_path: Path, model: onnx.ModelProto) -> None:
    content = written(tmp_path, model)
    assert read_onnx(tmp_path, "model.onnx").content == content


def test_a_tensor_in_another_file_is_found_as_deep_as_models_can_be_nested(tmp_path: Path) -> None:
    graph = graph_of(initializer=(elsewhere(),))
    for _ in range(25):
        graph = graph_of(node_of(body=graph))
    written(tmp_path, model_of([node_of(body=graph)], {}))
    with pytest.raises(BundleRefused, match="keeps tensor 'hidden' in another file"):
        read_onnx(tmp_path, "model.onnx")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it has no graph"),
        (b"no model at all", "is no ONNX model, or only a part of one"),
        (tiny_graph().SerializeToString()[:-1], "is no ONNX model, or only a part of one"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "it has no graph"),
    ],
    ids=["empty", "text", "cut", "no graph"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleRefused, match=rf"model\.onnx: .*{problem}"):
        read_onnx(tmp_path, "model.onnx")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"model\.onnx: can't be read \(No such file"):
        read_onnx(tmp_path, "model.onnx")
