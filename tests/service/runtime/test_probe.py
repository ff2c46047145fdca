from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import OutOfMemory, RuntimeFailure
from service.manifest import Graph, Tensor
from service.runtime.probe import ROWS, find_example, influence
from service.runtime.session import OnnxSession
from service.tensors import DTYPES, Arrays
from tests.bundles import (
    entangled_graph,
    graph_of,
    identities_graph,
    identity_graph,
    lengths_graph,
    lookup_graph,
    sum_graph,
    tensor,
)
from tests.hostile_graphs import large

X = Tensor(name="x", datatype="FP32", shape=("batch", "length"))


def session_of(folder: Path, model: onnx.ModelProto) -> OnnxSession:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxSession(folder, "model.onnx", providers=("CPUExecutionProvider",), threads=1)


def example_of(session: OnnxSession, rows: int = ROWS) -> Arrays:
    example = find_example(session.run, session.graph, rows=rows)
    assert not isinstance(example, str), example
    return example


def influence_in(folder: Path, model: onnx.ModelProto) -> str | None:
    session = session_of(folder, model)
    return influence(session.run, session.graph, example_of(session))


def elementwise(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Make a model of float rows (batch, 4) from x to y."""
    shape = ["batch", 4]
    return graph_of(nodes, [tensor("x", "FP32", shape)], [tensor("y", "FP32", shape)], constants)


# Inputs that are made up


@pytest.mark.parametrize("datatype", DTYPES)
def test_inputs_of_any_datatype_are_small_and_their_rows_differ(tmp_path: Path, datatype: str) -> None:
    session = session_of(tmp_path, identity_graph(datatype, ["batch", 5]))
    array = example_of(session)["x"]
    assert (array.shape, array.dtype) == ((3, 5), DTYPES[datatype])
    if datatype == "BYTES":
        assert {"a", "b"} == set(array.ravel())
    else:
        assert 0 <= array.astype(float).min() <= array.astype(float).max() <= 1
    assert array[0].tolist() != array[1].tolist()


@pytest.mark.parametrize("datatype", ["BOOL", "INT64", "BYTES"])
def test_two_rows_of_a_single_element_differ_too(tmp_path: Path, datatype: str) -> None:
    model = identities_graph({f"x{number}": (datatype, ["batch"]) for number in range(8)})
    assert all(array[0] != array[1] for array in example_of(session_of(tmp_path, model)).values())


def test_the_same_inputs_are_made_up_every_time(tmp_path: Path) -> None:
    session = session_of(tmp_path, identities_graph({"a": ("FP32", ["n", 2]), "b": ("BYTES", ["n", "m"])}))
    one, other = example_of(session), example_of(session)
    assert {name: array.tolist() for name, array in one.items()} == {name: other[name].tolist() for name in other}


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 2)])
def test_sizes_that_are_fixed_are_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for datatype in ("FP32", "INT8", "BYTES"):
        assert example_of(session_of(tmp_path, identity_graph(datatype, shape)))["x"].shape == shape


def test_an_axis_of_any_size_gets_one_that_the_graph_takes(tmp_path: Path) -> None:
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    for size in (8, 32, 1, 224, 3):
        model = graph_of(
            [reshape],
            [tensor("x", "FP32", ["batch", "length"])],
            [tensor("y", "FP32", ["batch", None])],
            {"shape": np.array([3, size], np.int64)},
        )
        assert example_of(session_of(tmp_path, model))["x"].shape == (3, size)


def test_axes_of_one_name_have_one_size_and_others_may_have_others(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["a", "shape"], ["flat"]),
        helper.make_node("Concat", ["flat", "b"], ["y"], axis=1),
    ]
    model = graph_of(
        nodes,
        [tensor("a", "FP32", ["batch", "channels", "size", "size"]), tensor("b", "FP32", ["batch", "length"])],
        [tensor("y", "FP32", ["batch", None])],
        {"shape": np.array([3, 3 * 8 * 8], np.int64)},
    )
    example = example_of(session_of(tmp_path, model))
    assert example["a"].shape == (3, 3, 8, 8)


def test_a_rank_is_found_where_the_graph_says_none(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])]
    model = graph_of(nodes, [tensor("x", "FP32", None)], [tensor("y", "FP32", None)])
    assert example_of(session_of(tmp_path, model))["x"].ndim == 3


def test_why_nothing_runs_is_what_the_graph_said(tmp_path: Path) -> None:
    session = session_of(tmp_path, lookup_graph(9))
    problem = find_example(session.run, session.graph)
    assert isinstance(problem, str)
    assert "indices element out of data bounds" in problem


def test_nothing_huge_is_made_up_nor_is_there_an_end_to_no_trying() -> None:
    def refuse(_: Arrays) -> Arrays:
        nonlocal runs
        runs += 1
        raise RuntimeFailure("never")

    runs = 0
    huge = Tensor(name="x", datatype="FP32", shape=(2**20, "a", 2**10))
    small = Tensor(name="x", datatype="FP32", shape=("a", "b", "c", "d"))
    output = Tensor(name="y", datatype="FP32", shape=())
    problem = find_example(refuse, Graph(file="model.onnx", inputs=(huge,), outputs=(output,)))
    assert isinstance(problem, str)
    assert "has over 4194304 elements" in problem
    assert runs == 0
    graph = Graph(file="model.onnx", inputs=(small,), outputs=(output,))
    assert find_example(refuse, graph) == "never"
    assert 5 < runs <= 200
    runs = 0
    assert find_example(refuse, graph, clock=iter(range(100)).__next__) == "never"
    assert runs == 4  # a clock that ticks once a try, a budget of five, and one try that is too large


def test_a_graph_that_got_no_memory_and_never_ran_is_told_apart(tmp_path: Path) -> None:
    session = session_of(tmp_path, large(10**15))
    with pytest.raises(OutOfMemory, match="Failed to allocate memory"):
        find_example(session.run, session.graph)


def test_one_that_gets_its_memory_with_smaller_inputs_has_an_example() -> None:
    def run(inputs: Arrays) -> Arrays:
        if inputs["x"].size > 10:
            raise OutOfMemory("too much")
        if inputs["x"].size > 1:
            raise RuntimeFailure("takes one only")
        return {}

    found = find_example(run, Graph(file="model.onnx", inputs=(X,), outputs=(X,)), rows=1)
    assert not isinstance(found, str)
    assert found["x"].shape == (1, 1)


# Rows


@pytest.mark.parametrize("make", [sum_graph, lengths_graph, lookup_graph])
def test_rows_that_are_independent_are_found_so(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    assert influence_in(tmp_path, make()) is None


def test_rows_that_got_no_memory_together_are_not_taken_to_depend_on_each_other() -> None:
    def run(inputs: Arrays) -> Arrays:
        raise OutOfMemory("too much")

    with pytest.raises(OutOfMemory):
        influence(run, Graph(file="model.onnx", inputs=(X,), outputs=(X,)), {"x": np.zeros((2, 8), np.float32)})


@pytest.mark.parametrize("datatype", DTYPES)
def test_rows_of_every_datatype_are_compared(tmp_path: Path, datatype: str) -> None:
    session = session_of(tmp_path, identity_graph(datatype))
    example = example_of(session)
    assert influence(session.run, session.graph, example) is None

    def mixing(inputs: Arrays) -> Arrays:
        return {"y": inputs["x"][::-1]}

    assert "depends on the rows beside it" in str(influence(mixing, session.graph, example))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [helper.make_node("ReduceMax", ["x"], ["m"], axes=[0]), helper.make_node("Max", ["x", "m"], ["y"])],
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        [helper.make_node("Slice", ["x", "end", "start", "axis", "back"], ["y"])],
        [helper.make_node("ReduceL2", ["x"], ["norm"]), helper.make_node("Div", ["x", "norm"], ["y"])],
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
    ],
    ids=["softmax", "max", "cumsum", "turned-round", "norm", "quantised-by-what-is-there"],
)
def test_rows_that_influence_each_other_are_found_so(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    constants = {
        "axis": np.array([0], np.int64),
        "end": np.array([-1], np.int64),
        "start": np.array([-(2**31)], np.int64),
        "back": np.array([-1], np.int64),
    }
    used = {name for node in nodes for name in node.input}
    if nodes[0].op_type == "CumSum":
        constants["axis"] = np.array(0, np.int64)
    model = elementwise(*nodes, **{name: value for name, value in constants.items() if name in used})
    assert influence_in(tmp_path, model) == "output 'y' of a row depends on the rows beside it"


def test_the_entangled_model_is_entangled(tmp_path: Path) -> None:
    assert influence_in(tmp_path, entangled_graph()) == "output 'y' of a row depends on the rows beside it"


def test_an_output_whose_rows_are_not_the_inputs_is_told(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Less", ["x", "half"], ["is_less"]),
        helper.make_node("NonZero", ["is_less"], ["found"]),
        helper.make_node("Transpose", ["found"], ["y"]),
    ]
    model = graph_of(
        nodes, [tensor("x", "FP32", ["batch", 4])], [tensor("y", "INT64", [None, 2])], {"half": np.float32(0.5)}
    )
    assert "output 'y' has shape [" in str(influence_in(tmp_path, model))
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    model = graph_of(nodes, [tensor("x", "FP32", ["batch", 4])], [tensor("y", "FP32", [])])
    assert influence_in(tmp_path, model) == "output 'y' has shape [] for one row and [] for 3"


def test_a_row_that_does_not_run_alone_is_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["x", "second"], ["row"]), helper.make_node("Sub", ["x", "row"], ["y"])]
    model = elementwise(*nodes, second=np.array([1], np.int64))
    assert "ONNX Runtime failed" in str(influence_in(tmp_path, model))


def test_numbers_that_are_none_in_every_way_are_alike(tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["minus"], ["y"]), helper.make_node("Sub", ["x", "half"], ["minus"])]
    model = elementwise(*nodes[::-1], half=np.float32(0.5))
    session = session_of(tmp_path, model)
    example = example_of(session)
    assert np.isnan(session.run(example)["y"]).any()
    assert influence(session.run, session.graph, example) is None


def test_rounding_is_no_influence_but_little_more_is() -> None:
    graph = Graph(
        file="model.onnx",
        inputs=(Tensor(name="x", datatype="FP32", shape=("batch",)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=("batch",)),),
    )
    example = {"x": np.array([1, 100, 0], np.float32)}
    for nudge, alike in ((1e-3, True), (1e-1, False)):
        found = influence(lambda arrays, by=nudge: {"y": arrays["x"] + by * len(arrays["x"])}, graph, example)
        assert (found is None) is alike


def test_a_cast_that_loses_rows_in_half_precision_is_told(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["difference"]),
        helper.make_node("Cast", ["difference"], ["y"], to=TensorProto.FLOAT16),
    ]
    model = graph_of(nodes, [tensor("x", "FP32", ["batch", 4])], [tensor("y", "FP16", ["batch", 4])])
    assert "depends on the rows" in str(influence_in(tmp_path, model))
