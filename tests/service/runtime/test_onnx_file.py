from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import BundleRefused
from service.runtime.onnx_file import read_onnx
from service.runtime.session import OnnxSession
from tests.bundles import model_of, slow_graph, tensor, tiny_graph
from tests.hostile_graphs import (
    endless,
    laughs,
    model,
    nested,
    recursive,
    with_functions,
    with_sparse,
    with_weight,
)


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


def in_a_training() -> onnx.ModelProto:
    model = tiny_graph()
    model.training_info.add(algorithm=graph_of(node_of(value=elsewhere())))
    return model


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
    "what it is to be trained with": in_a_training,
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_tensor_that_lies_in_another_file_is_found_wherever_it_hides(tmp_path: Path, place: str) -> None:
    written(tmp_path, HIDING_PLACES[place]())
    with pytest.raises(BundleRefused, match=r"model\.onnx: keeps tensor 'hidden' in another file"):
        read_onnx(tmp_path, "model.onnx")


def with_all_kinds_of_attributes() -> onnx.ModelProto:
    """Make a model that is whole, with a constant, a graph in a graph, and a function."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["deep"], value=here())], "inner", [], [tensor("deep", "FP32", [2])]
    )
    outer = helper.make_graph(
        [helper.make_node("If", ["always"], ["taken"], then_branch=inner, else_branch=inner)],
        "outer",
        [],
        [tensor("taken", "FP32", [2])],
    )
    model = with_functions({"f": [helper.make_node("Identity", ["a"], ["b"])]}, "f")
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("If", ["always"], ["unused"], then_branch=outer, else_branch=outer))
    return model


@pytest.mark.parametrize(
    "model",
    [tiny_graph(), slow_graph(), with_all_kinds_of_attributes()],
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


# Where other files lie


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "link",
        "hard",
        "pipe",
        "/dev/zero",
        "/proc/self/environ",
        "model.onnx",
        "",
    ],
)
@pytest.mark.parametrize("offset", ["0", "-1", "18446744073709551615", "half"])
def test_no_other_file_is_opened_wherever_it_lies(tmp_path: Path, location: str, offset: str) -> None:
    """Whatever it is: a link, a pipe that nobody writes into, a device without end."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "secret").write_bytes(b"secret")
    os.link(tmp_path / "secret", tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    damaged = tiny_graph()
    weights = damaged.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", "9223372036854775807")):
        weights.external_data.add(key=key, value=value)
    written(tmp_path, damaged)
    with pytest.raises(BundleRefused, match="keeps tensor 'factors' in another file"):
        read_onnx(tmp_path, "model.onnx")


def test_a_pipe_in_place_of_a_graph_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(BundleRefused, match=r"model\.onnx: is missing or no plain file"):
        read_onnx(tmp_path, "model.onnx")


def test_a_file_over_what_any_model_can_have_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(BundleRefused, match=r"model\.onnx: has 2147483648 bytes, the limit is 2147483647"):
        read_onnx(tmp_path, "model.onnx")


# Operators


def test_operators_of_other_libraries_are_refused(tmp_path: Path) -> None:
    written(tmp_path, foreign("Evil", "com.evil"))
    with pytest.raises(BundleRefused, match=r"has the operator 'Evil' of 'com\.evil', which is none that is served"):
        read_onnx(tmp_path, "model.onnx")


def foreign(operator: str, domain: str) -> onnx.ModelProto:
    made = model([helper.make_node(operator, ["x"], ["y"], domain=domain)])
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    return made


@pytest.mark.parametrize("domain", ["com.microsoft", "com.microsoft.nchwc", "org.pytorch.aten", "ai.onnx.preview"])
@pytest.mark.parametrize("operator", ["EPContext", "PythonOp"])
def test_operators_that_load_files_or_call_python_are_refused(tmp_path: Path, operator: str, domain: str) -> None:
    written(tmp_path, foreign(operator, domain))
    with pytest.raises(BundleRefused, match=f"has the operator '{operator}' of '{domain}'"):
        read_onnx(tmp_path, "model.onnx")


@pytest.mark.parametrize("place", ["a graph in a node", "a function"])
def test_operators_of_other_libraries_are_found_wherever_they_hide(tmp_path: Path, place: str) -> None:
    evil = helper.make_node("Evil", ["a"], ["b"], domain="com.evil")
    hidden = with_node(body=graph_of(evil)) if place == "a graph in a node" else with_functions({"f": [evil]}, "f")
    written(tmp_path, hidden)
    with pytest.raises(BundleRefused, match=r"has the operator 'Evil' of 'com\.evil'"):
        read_onnx(tmp_path, "model.onnx")


def test_contributed_operators_of_onnx_runtime_are_taken(tmp_path: Path) -> None:
    content = written(tmp_path, foreign("Gelu", "com.microsoft"))
    assert read_onnx(tmp_path, "model.onnx").content == content


# Graphs that are larger, deeper or other than they look


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "forty doublings": (lambda: laughs(40), "has over 20000 nodes once its functions are written out"),
    "sixteen doublings": (lambda: laughs(16), "has over 20000 nodes once its functions are written out"),
    "three times twenty-eight": (lambda: laughs(3, 28), "has over 20000 nodes once its functions are written out"),
    "itself": (lambda: recursive("f"), "has a function 'f' that calls itself"),
    "each other": (lambda: recursive("f", "g", "h"), "has a function '[fgh]' that calls itself"),
    "a long chain": (lambda: laughs(5000, 1), "onnx.checker .*depth exceeds limit"),
    "many nodes": (
        lambda: model([helper.make_node("Identity", ["x"], ["y"])] * 100_001),
        "has 100001 nodes, the limit is 100000",
    ),
    "a sparse tensor without end": (
        lambda: with_sparse([10**12]),
        r"sparse tensor 'few' is unpacked to \[1000000000000\]; the limit is 67108864",
    ),
    "a sparse tensor without a number of elements": (
        lambda: with_sparse([2**32, 2**32]),
        "sparse tensor 'few' is unpacked to",
    ),
    "a sparse tensor of a negative size": (lambda: with_sparse([-1]), "sparse tensor 'few' is unpacked to"),
    "fewer bytes than numbers": (
        lambda: with_weight([10**9], bytes(12)),
        "onnx.checker .*raw_data size .* is too small",
    ),
    "no bytes for many numbers": (lambda: with_weight([10**12], b""), "onnx.checker"),
    "a negative size": (lambda: with_weight([-3], bytes(12)), "tensor 'w' has a negative size"),
    "a product that overflows": (lambda: with_weight([2**32, 2**32], b""), "onnx.checker .*overflow"),
    "a product that wraps round to what it has": (
        lambda: with_weight([2**62 + 3, 4], bytes(48)),
        "onnx.checker .*overflow",
    ),
    "an unknown operator": (
        lambda: model([helper.make_node("Whatever", ["x"], ["y"])]),
        "onnx.checker .*No Op registered for Whatever",
    ),
    "a circle": (lambda: model([helper.make_node("Add", ["x", "y"], ["y"])]), "onnx.checker .*topologically sorted"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_at_once(tmp_path: Path, name: str) -> None:
    hostile, problem = HOSTILE[name]
    written(tmp_path, hostile())
    before = time.monotonic()
    with pytest.raises(BundleRefused, match=rf"model\.onnx: .*{problem}"):
        read_onnx(tmp_path, "model.onnx")
    assert time.monotonic() - before < 60  # on a machine that does much else; some would take for ever


@pytest.mark.parametrize("depth", [40, 1000, 3000])
def test_graphs_in_graphs_in_graphs_are_refused(tmp_path: Path, depth: int) -> None:
    (tmp_path / "model.onnx").write_bytes(nested(depth))
    with pytest.raises(BundleRefused, match=r"model\.onnx: is no ONNX model"):
        read_onnx(tmp_path, "model.onnx")


def test_a_few_graphs_in_graphs_are_nothing_unusual(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(nested(10))
    OnnxSession(tmp_path, "model.onnx", providers=("CPUExecutionProvider",), threads=1)


def test_functions_that_call_each_other_in_no_circle_are_taken(tmp_path: Path) -> None:
    content = written(tmp_path, laughs(10))
    assert read_onnx(tmp_path, "model.onnx").content == content


def test_a_loop_without_end_is_no_damage_to_the_file(tmp_path: Path) -> None:
    content = written(tmp_path, endless())
    assert read_onnx(tmp_path, "model.onnx").content == content


def test_a_message_does_not_repeat_a_whole_graph(tmp_path: Path) -> None:
    written(tmp_path, model([helper.make_node("x" * 10_000, ["x"], ["y"])]))
    with pytest.raises(BundleRefused) as caught:
        read_onnx(tmp_path, "model.onnx")
    assert len(str(caught.value)) < 700
