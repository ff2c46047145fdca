from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import BundleRefused
from service.manifest import Graph
from service.runtime.session import OnnxSession
from tests.bundles import ONNX_TYPES, graph_of, identity_graph, tensor

Shape = tuple[int | str, ...] | None


def read(folder: Path, model: onnx.ModelProto) -> Graph:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxSession(folder, "model.onnx", providers=("CPUExecutionProvider",), threads=1).graph


def shapes(graph: Graph) -> tuple[list[Shape], list[Shape]]:
    return [one.shape for one in graph.inputs], [one.shape for one in graph.outputs]


def refusal(folder: Path, model: onnx.ModelProto) -> str:
    with pytest.raises(BundleRefused) as caught:
        read(folder, model)
    assert caught.value.file == "model.onnx"
    return caught.value.problem


@pytest.mark.parametrize("datatype", ONNX_TYPES)
def test_a_datatype_is_called_as_the_protocol_calls_it(tmp_path: Path, datatype: str) -> None:
    graph = read(tmp_path, identity_graph(datatype))
    assert [one.datatype for one in (*graph.inputs, *graph.outputs)] == [datatype, datatype]


@pytest.mark.parametrize(
    ("declared", "inputs", "outputs"),
    [
        ([], (), ()),
        (None, None, None),
        ([2, 0, 3], (2, 0, 3), (2, 0, 3)),
        (["n", 3], ("n", 3), ("n", 3)),
        ([None, 3, None], ("x_dim_0", 3, "x_dim_2"), ("y_dim_0", 3, "y_dim_2")),
        ([-1, ""], ("x_dim_0", "x_dim_1"), ("y_dim_0", "y_dim_1")),
    ],
)
def test_sizes_are_the_graphs_and_what_has_neither_size_nor_name_gets_one(
    tmp_path: Path, declared: list[int | str | None] | None, inputs: Shape, outputs: Shape
) -> None:
    assert shapes(read(tmp_path, identity_graph("FP32", declared))) == ([inputs], [outputs])


def test_what_the_file_leaves_out_of_an_output_is_inferred(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = graph_of(nodes, [tensor("x", "FP32", ["n", 3])], [tensor("y", "FP32", None)])
    assert shapes(read(tmp_path, model)) == ([("n", 3)], [("n", 3)])


def test_initializers_are_no_inputs_though_old_files_list_them_as_such(tmp_path: Path) -> None:
    model = graph_of(
        [helper.make_node("Add", ["x", "offset"], ["y"])],
        [tensor("offset", "FP32", [1]), tensor("x", "FP32", ["n"])],
        [tensor("y", "FP32", ["n"])],
        {"offset": np.ones(1, np.float32)},
    )
    model.ir_version = 3
    assert [one.name for one in read(tmp_path, model).inputs] == ["x"]


def test_what_is_no_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    model = graph_of(
        [helper.make_node("SequenceConstruct", ["x"], ["several"])],
        [tensor("x", "FP32", ["n"])],
        [helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, None)],
    )
    assert refusal(tmp_path, model) == "output 'several' is seq(tensor(float)): only tensors are served"
    model = graph_of(
        [helper.make_node("OptionalHasElement", ["perhaps"], ["y"])],
        [
            helper.make_value_info(
                "perhaps", helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))
            )
        ],
        [tensor("y", "BOOL", [])],
    )
    assert "input 'perhaps' is optional(tensor(float)): only tensors are served" in refusal(tmp_path, model)


def test_an_answer_in_maps_is_refused_with_what_turns_it_off(tmp_path: Path) -> None:
    zip_map = helper.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    scores = onnx.ValueInfoProto(name="scores")
    kind = scores.type.sequence_type.elem_type.map_type
    kind.key_type = TensorProto.INT64
    kind.value_type.tensor_type.elem_type = TensorProto.FLOAT
    model = graph_of([zip_map], [tensor("x", "FP32", ["n", 2])], [scores])
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    problem = refusal(tmp_path, model)
    assert problem.startswith("output 'scores' is seq(map(int64,tensor(float))): ")
    assert "ZipMap off" in problem


def of_odd_numbers(datatype: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["odd"], ["y"])],
        "odd",
        [helper.make_tensor_value_info("odd", datatype, [2])],
        [helper.make_tensor_value_info("y", datatype, [2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_datatype_that_the_protocol_has_not_is_refused_by_the_name_of_its_tensor(tmp_path: Path) -> None:
    problem = refusal(tmp_path, of_odd_numbers(TensorProto.FLOAT8E4M3FN))
    assert problem.startswith("input 'odd' is tensor(float8e4m3fn): served datatypes are BOOL, UINT8, ")
    assert problem.endswith("BF16, BYTES")


@pytest.mark.parametrize("datatype", [TensorProto.INT4, TensorProto.COMPLEX64, TensorProto.FLOAT4E2M1])
def test_a_datatype_that_onnx_runtime_does_not_run_either_is_refused(tmp_path: Path, datatype: int) -> None:
    assert "ONNX Runtime can't load it" in refusal(tmp_path, of_odd_numbers(datatype))


def test_a_graph_that_takes_nothing_is_refused(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(2, np.float32)))
    assert "has no inputs" in refusal(tmp_path, graph_of([constant], [], [tensor("y", "FP32", [2])]))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    content = identity_graph("FP32", ["odd", 3]).SerializeToString().replace(b"odd", b"\xff\xfed")
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleRefused):
        OnnxSession(tmp_path, "model.onnx", providers=("CPUExecutionProvider",), threads=1)
