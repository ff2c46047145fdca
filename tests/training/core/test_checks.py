"""Each check passes a sound graph, and refuses one that is bad in just its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from training.core.checks import (
    require_declared_sizes,
    require_independent_rows,
    require_padding_without_effect,
    require_quantised,
    require_seven_bits,
    require_shapes,
)

Array = NDArray[Any]

DRAW = np.random.default_rng(7)
WEIGHTS = DRAW.normal(0, 0.2, (32, 16)).astype(np.float32)
ROWS = {"x": DRAW.uniform(-1, 1, (64, 32)).astype(np.float32)}
SHAPES = {"x": ("batch", 32), "y": ("batch", 16)}
FLOATS = [helper.make_node("MatMul", ["x", "w"], ["y"])]
ROUND = [
    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
    helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
    helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["f", "scale"], ["y"]),
]
BYTES = {
    "scale": np.array(1 / 127, np.float32),
    "zero": np.array(128, np.uint8),
    "w": np.rint(WEIGHTS / np.abs(WEIGHTS).max() * 63).astype(np.int8),
}


def _graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    inputs: tuple[int | str, ...] = SHAPES["x"],
    outputs: tuple[int | str, ...] = SHAPES["y"],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    return _graph(tmp_path / "floats.onnx", FLOATS, {"w": WEIGHTS})


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    return _graph(tmp_path / "bytes.onnx", ROUND, BYTES)


def test_sound_graphs_pass(floats: Path, quantised: Path) -> None:
    for path in (floats, quantised):
        require_shapes(path, SHAPES)
        require_declared_sizes(path, ROWS, (1, 2, 7, 64))
        require_independent_rows(path, ROWS, seed=1)
    require_quantised(quantised)
    require_seven_bits(quantised)


# What is declared


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        ((2, 32), ("batch", 16), r"'x' is declared as \(2, 32\), not \('batch', 32\)"),
        (("rows", 32), ("rows", 16), r"'x' is declared as \('rows', 32\)"),
        (("batch", 32), (2, 16), r"'y' is declared as \(2, 16\)"),
        (("batch", "steps"), ("batch", 16), r"'x' is declared as \('batch', 'steps'\)"),
    ],
    ids=["a frozen batch", "another name", "the example's size of an output", "an axis that is none"],
)
def test_axes_that_are_declared_otherwise_are_refused(
    tmp_path: Path, inputs: tuple[int | str, ...], outputs: tuple[int | str, ...], problem: str
) -> None:
    path = _graph(tmp_path / "bad.onnx", FLOATS, {"w": WEIGHTS}, inputs, outputs)
    with pytest.raises(ValueError, match=rf"bad\.onnx: {problem}"):
        require_shapes(path, SHAPES)


@pytest.mark.parametrize("shapes", [{"x": ("batch", 32)}, {**SHAPES, "state": ("batch", 4)}])
def test_a_tensor_too_many_or_too_few_is_refused(floats: Path, shapes: dict[str, tuple[int | str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"floats\.onnx has or lacks (y|state)"):
        require_shapes(floats, shapes)


def test_an_output_that_is_not_as_it_is_declared_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)]
    path = _graph(tmp_path / "sum.onnx", nodes, {"axis": np.array([0])}, outputs=("batch", 32))
    require_declared_sizes(path, ROWS, (1,))
    with pytest.raises(ValueError, match=r"'y' is declared as \('batch', 32\), and is \(1, 32\) at batch size 7"):
        require_declared_sizes(path, ROWS, (1, 7))


def test_a_graph_that_fails_at_a_batch_size_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "two"], ["y"])]
    path = _graph(tmp_path / "frozen.onnx", nodes, {"two": np.ones((2, 32), np.float32)}, outputs=("batch", 32))
    with pytest.raises(ValueError, match=r"frozen\.onnx fails"):
        require_declared_sizes(path, ROWS, (2, 7))


# Neighbours


def test_scales_taken_over_the_batch_are_refused(tmp_path: Path, floats: Path) -> None:
    dynamic = tmp_path / "dynamic.onnx"
    quantize_dynamic(str(floats), str(dynamic), weight_type=QuantType.QInt8, reduce_range=True)
    require_quantised(dynamic)
    with pytest.raises(ValueError, match=r"dynamic\.onnx: 'y' of a row is another alone than in a batch of \d+"):
        require_independent_rows(dynamic, ROWS, seed=1)


def test_a_row_that_looks_at_its_neighbours_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x", "axis"], ["most"], keepdims=1),
        helper.make_node("Sub", ["x", "most"], ["y"]),
    ]
    path = _graph(tmp_path / "max.onnx", nodes, {"axis": np.array([0])}, outputs=("batch", 32))
    with pytest.raises(ValueError, match="is another alone"):
        require_independent_rows(path, ROWS, seed=1)


# Quantisation


def test_a_graph_that_was_passed_over_is_refused(floats: Path) -> None:
    with pytest.raises(
        ValueError, match=r"floats\.onnx is not quantised throughout: ONNX Runtime runs MatMul on floats"
    ):
        require_quantised(floats)
    with pytest.raises(ValueError, match=r"floats\.onnx has no weights in bytes"):
        require_seven_bits(floats)


def test_dequantised_operands_that_onnx_runtime_multiplies_as_floats_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["b"]),
        helper.make_node("MatMul", ["a", "b"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["y"]),
    ]
    path = _graph(tmp_path / "qdq.onnx", nodes, {**BYTES, "bias": np.ones(16, np.float32)})
    with pytest.raises(ValueError, match=r"ONNX Runtime runs (Gemm|MatMul) on floats"):
        require_quantised(path)


@pytest.mark.parametrize("value", [-65, 64, 127])
def test_weights_of_eight_bits_are_refused(tmp_path: Path, value: int) -> None:
    weights = BYTES["w"].copy()
    weights[3, 4] = value
    path = _graph(tmp_path / "eight.onnx", ROUND, {**BYTES, "w": weights})
    with pytest.raises(ValueError, match=r"eight\.onnx: 'w' goes from .* more than seven bits"):
        require_seven_bits(path)


# What is filled up


LENGTHS = [1, 8, 9, 16, 17, 31, 32, *DRAW.integers(1, 33, 13).tolist()]
FILLED = {"x": np.stack([np.pad(DRAW.uniform(-1, 1, one), (0, 32 - one)) for one in LENGTHS]).astype(np.float32)}


def _filled(tmp_path: Path, nodes: list[onnx.NodeProto], outputs: tuple[int | str, ...], **constants: Array) -> Path:
    return _graph(tmp_path / "filled.onnx", nodes, constants, ("batch", "steps"), outputs)


def test_a_graph_in_which_padding_has_no_part_passes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "x"], ["y"])]
    path = _filled(tmp_path, nodes, ("batch", "steps"))
    require_padding_without_effect(path, FILLED, LENGTHS, axis="steps", sizes=(8, 16, 32), seed=1)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([helper.make_node("ReduceMean", ["x", "last"], ["y"], keepdims=1)], ("batch", 1)),
        ([helper.make_node("Exp", ["x"], ["y"])], ("batch", "steps")),
        (
            [helper.make_node("ReduceSum", ["x", "first"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])],
            ("batch", "steps"),
        ),
    ],
    ids=["a mean over it", "something behind a row", "neighbours"],
)
def test_a_graph_in_which_padding_has_a_part_is_refused(
    tmp_path: Path, nodes: list[onnx.NodeProto], outputs: tuple[int | str, ...]
) -> None:
    path = _filled(tmp_path, nodes, outputs, last=np.array([1]), first=np.array([0]))
    with pytest.raises(ValueError, match=r"filled\.onnx: 'y' of a row of \d+ is another in a batch of \d+ that is"):
        require_padding_without_effect(path, FILLED, LENGTHS, axis="steps", sizes=(8, 16, 32), seed=1)


# Graphs inside graphs, and products without weights


def _loop(path: Path, body: list[onnx.NodeProto], constants: dict[str, Array]) -> Path:
    """A graph that runs `body` (x, h -> h2) over the first axis of what it is given."""
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in ("h", "x", "h2")]
    inside = helper.make_graph(
        body, "inside", rows[:2], rows[2:], [numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    nodes = [helper.make_node("Scan", ["start", "x"], ["y"], num_scan_inputs=1, body=inside)]
    return _graph(path, nodes, {"start": np.zeros(16, np.float32)}, ("batch", 16), (16,))


def test_a_loop_is_looked_into(tmp_path: Path) -> None:
    weights = DRAW.normal(0, 0.2, (16, 16)).astype(np.float32)
    add = helper.make_node("Add", ["p", "x"], ["h2"])
    floats = _loop(tmp_path / "floats.onnx", [helper.make_node("MatMul", ["h", "w"], ["p"]), add], {"w": weights})
    with pytest.raises(ValueError, match="ONNX Runtime runs Gemm on floats"):
        require_quantised(floats)
    body = [
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["q"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["p"]),
        add,
    ]
    integers = {**BYTES, "w": np.full((16, 16), 3, np.int8)}
    sound = _loop(tmp_path / "bytes.onnx", body, integers)
    require_quantised(sound)
    require_seven_bits(sound)
    integers["w"][2, 3] = 90
    with pytest.raises(ValueError, match="more than seven bits"):
        require_seven_bits(_loop(tmp_path / "eight.onnx", body, integers))


def test_what_a_graph_multiplies_of_its_own_may_be_floats_but_no_weight_however_it_is_made(tmp_path: Path) -> None:
    own = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    require_quantised(_graph(tmp_path / "own.onnx", own, {}, outputs=("batch", "batch")))
    made = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    with pytest.raises(ValueError, match="ONNX Runtime runs MatMulNBits on floats"):
        require_quantised(_graph(tmp_path / "made.onnx", made, BYTES))


def test_another_symbolic_axis_has_the_size_that_it_has_in_the_inputs(tmp_path: Path) -> None:
    path = _filled(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], ("batch", "steps"))
    require_declared_sizes(path, FILLED, (1, 7))
    wrong = _filled(tmp_path, [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)], ("batch", "steps"))
    with pytest.raises(ValueError, match=r"'y' is declared as \('batch', 'steps'\), and is \(1, 64\)"):
        require_declared_sizes(wrong, FILLED, (1, 7))
