from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from training.core.checks import require_independent_rows, require_quantised, require_seven_bits
from training.core.export import BATCH_AXIS, OPSET, open_session
from training.core.graph_writer import (
    LARGEST_WEIGHT,
    UNIT_SCALE,
    GraphWriter,
    Operand,
    TableRow,
    checked_model,
    quantise,
    round_to_half,
)
from training.core.lstm import LSTMLayer

Floats = NDArray[np.float32]


def _draw(*shape: int, seed: int = 1, size: float = 1.0) -> Floats:
    return np.random.default_rng(seed).uniform(-size, size, shape).astype(np.float32)


def _written(writer: GraphWriter, inputs: dict[str, int], outputs: dict[str, int], path: Path) -> Path:
    """The graph of `writer`, with inputs and outputs (batch, width); `token` is (batch,), int64."""
    given = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [BATCH_AXIS, size]) for one, size in inputs.items()]
    token = helper.make_tensor_value_info("token", TensorProto.INT64, [BATCH_AXIS])
    made = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [BATCH_AXIS, size]) for one, size in outputs.items()]
    used = any("token" in node.input for node in writer.graph("any", [], []).node)
    onnx.save(checked_model(writer.graph("graph", [*given, token] if used else given, made)), path)
    return path


# Products


def _of_several(
    writer: GraphWriter, matrix: Floats, table: Floats, bias: Floats | TableRow | None = None, *, by_column: bool = True
) -> str:
    """The rows of a table at `token`, beside an `x` that goes up to 3 and a `hidden` that goes up to 1."""
    embedded = writer.rows("embedded", table, "token")
    inputs = [embedded, Operand("x", 8, np.float32(3 / 127)), Operand("hidden", 16)]
    return writer.product("all", inputs, matrix, bias, by_column=by_column)


@pytest.mark.parametrize("bias", ["none", "one", "a row of a table"])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_a_product_of_several_inputs_each_of_its_own_scale(
    tmp_path: Path, quantised: bool, by_column: bool, bias: str
) -> None:
    matrix, table = _draw(4 + 8 + 16, 5, seed=2), _draw(7, 4, seed=3, size=0.1)
    added = {"none": np.zeros((7, 5), np.float32), "one": _draw(1, 5, seed=6).repeat(7, 0)}.get(bias, _draw(7, 5))
    given = {"none": None, "one": added[0]}.get(bias, TableRow(added, "token"))
    writer = GraphWriter(quantised=quantised)
    product = _of_several(writer, matrix, table, given, by_column=by_column)
    path = _written(writer, {"x": 8, "hidden": 16}, {product: 5}, tmp_path / "graph.onnx")
    inputs = {
        "token": np.arange(12) % 7,
        "x": _draw(12, 8, seed=4, size=3),
        "hidden": _draw(12, 16, seed=5),
    }
    expected = np.concatenate([table[inputs["token"]], inputs["x"], inputs["hidden"]], 1) @ matrix
    expected += added[inputs["token"]]
    (found,) = open_session(path).run(None, inputs)
    difference = np.abs(found - expected).max()
    assert difference < (0.15 if quantised else 5e-3)
    assert not quantised or difference > 1e-3
    require_independent_rows(path, inputs, seed=1)
    if quantised:
        require_quantised(path)
        require_seven_bits(path)


def test_a_product_is_exactly_that_of_its_bytes(tmp_path: Path) -> None:
    matrix, table = _draw(4 + 8 + 16, 5, seed=2), _draw(7, 4, seed=3, size=0.1)
    writer = GraphWriter(quantised=True)
    path = _written(writer, {"x": 8, "hidden": 16}, {_of_several(writer, matrix, table): 5}, tmp_path / "a.onnx")
    x, hidden = _draw(3, 8, seed=4, size=3), _draw(3, 16, seed=5)
    (found,) = open_session(path).run(None, {"token": np.array([0, 6, 2]), "x": x, "hidden": hidden})

    scales = [np.abs(table).max() / 127, 3 / 127, 1 / 127]
    parts = [table[[0, 6, 2]], x, hidden]
    whole = np.concatenate([np.rint(part / scale) for part, scale in zip(parts, scales, strict=True)], 1)
    share = np.repeat(scales, (4, 8, 16)) / max(scales)
    weight, column = quantise(matrix * share[:, None].astype(np.float32), by_column=True)
    np.testing.assert_allclose(found, (whole @ weight) * column * max(scales), rtol=1e-4, atol=1e-6)


def test_what_lies_beyond_an_inputs_scale_is_cut_off(tmp_path: Path) -> None:
    writer = GraphWriter(quantised=True)
    product = writer.product("one", Operand("x", 1), np.ones((1, 1), np.float32))
    path = _written(writer, {"x": 1}, {product: 1}, tmp_path / "graph.onnx")
    (found,) = open_session(path).run(None, {"x": np.array([[1.0], [-1.0], [1e9], [-1e9]], np.float32)})
    np.testing.assert_allclose(found[:, 0], [1, -1, 1, -128 / 127], rtol=1e-5)


def test_a_matrix_that_does_not_fit_its_inputs_is_refused() -> None:
    writer = GraphWriter(quantised=True)
    with pytest.raises(ValueError, match=r"'head': inputs \[4, 5\] wide, a matrix of 8 rows"):
        writer.product("head", [Operand("a", 4), Operand("b", 5)], np.ones((8, 2), np.float32))


def test_a_tensor_becomes_bytes_once_and_by_one_scale(tmp_path: Path) -> None:
    writer = GraphWriter(quantised=True)
    hidden = Operand("hidden", 4)
    outputs = {writer.product(name, hidden, _draw(4, 2, seed=seed)): 2 for seed, name in enumerate("ab")}
    path = _written(writer, {"hidden": 4}, outputs, tmp_path / "graph.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node].count("QuantizeLinear") == 1
    with pytest.raises(ValueError, match="'hidden' has the scales"):
        writer.product("c", Operand("hidden", 4, np.float32(1 / 64)), _draw(4, 2))


def test_a_table_that_is_far_larger_than_its_matrix_is_refused() -> None:
    writer = GraphWriter(quantised=True)
    with pytest.raises(ValueError, match="'p': the table has far larger numbers"):
        writer.product("p", Operand("x", 4), np.full((4, 2), 1e-6, np.float32), TableRow(_draw(7, 2), "token"))


def test_a_name_stands_for_one_constant() -> None:
    writer = GraphWriter(quantised=False)
    assert writer.constant("sizes", np.array([1, 2])) == writer.constant("sizes", np.array([1, 2])) == "sizes"
    with pytest.raises(ValueError, match="two constants have the name 'sizes'"):
        writer.constant("sizes", np.array([2, 1]))


def test_a_graph_is_refused_that_is_not_valid() -> None:
    writer = GraphWriter(quantised=False)
    writer.node("Tanh", ["nowhere"], "y")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH_AXIS, 2])
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        checked_model(writer.graph("graph", [], [y]))


def test_weights_are_rounded_to_seven_bits_by_column() -> None:
    matrix = np.random.default_rng(1).normal(0, 1, (50, 20)).astype(np.float32) * np.linspace(0.01, 3, 20)
    values, scale = quantise(matrix.astype(np.float32), by_column=True)
    assert (values.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (20,))
    assert (np.abs(values).max(axis=0) == LARGEST_WEIGHT).all()
    assert (np.abs(values * scale - matrix) <= scale / 2 + 1e-6).all()


def test_weights_are_rounded_to_seven_bits_by_one_scale() -> None:
    matrix = _draw(50, 20) * np.linspace(0.01, 3, 20, dtype=np.float32)
    values, scale = quantise(matrix, by_column=False)
    assert (values.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, ())
    assert np.abs(values).max() == LARGEST_WEIGHT
    assert (np.abs(values * scale - matrix) <= scale / 2 + 1e-6).all()


@pytest.mark.parametrize("by_column", [False, True])
def test_a_matrix_of_nothing_stays_nothing(by_column: bool) -> None:
    values, scale = quantise(np.zeros((4, 2), np.float32), by_column=by_column)
    assert not values.any()
    assert (scale == np.float32(1 / LARGEST_WEIGHT)).all()


def test_a_table_of_nothing_stays_nothing(tmp_path: Path) -> None:
    writer = GraphWriter(quantised=True)
    product = writer.product("p", writer.rows("t", np.zeros((3, 2), np.float32), "token"), np.ones((2, 1), np.float32))
    path = _written(writer, {}, {product: 1}, tmp_path / "graph.onnx")
    (found,) = open_session(path).run(None, {"token": np.array([0, 2])})
    assert not found.any()


# The cell


@pytest.mark.parametrize("quantised", [False, True])
def test_a_cell_over_a_product_is_a_step_of_an_lstm_layer(tmp_path: Path, quantised: bool) -> None:
    torch.manual_seed(3)
    layer = LSTMLayer(6, 16, 0.0)
    round_to_half([layer.input_weight, layer.recurrent_weight])
    matrix = torch.cat([layer.input_weight, layer.recurrent_weight], 1).t().detach().numpy()
    writer = GraphWriter(quantised=quantised)
    gates = writer.product("gates", [Operand("x", 6), Operand("hidden", 16)], matrix, layer.bias.detach().numpy())
    hidden, cell = writer.cell("", gates, "cell")
    path = _written(writer, {"x": 6, "hidden": 16, "cell": 16}, {hidden: 16, cell: 16}, tmp_path / "graph.onnx")

    inputs = {"x": _draw(9, 6), "hidden": _draw(9, 16, seed=2), "cell": _draw(9, 16, seed=3, size=2)}
    found = open_session(path).run(None, inputs)
    x, before, state = map(torch.from_numpy, inputs.values())
    with torch.no_grad():
        outputs, after = layer(x[None], before, state)
    for one, expected in zip(found, (outputs[0], after), strict=True):
        np.testing.assert_allclose(one, expected.numpy(), rtol=0, atol=0.03 if quantised else 1e-5)
    require_independent_rows(path, inputs, seed=1)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_graph_says_what_it_is_written_for(quantised: bool) -> None:
    writer = GraphWriter(quantised=quantised)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH_AXIS, 2]) for name in "xy")
    writer.product("y", Operand("x", 2), np.eye(2, dtype=np.float32))
    model = checked_model(writer.graph("graph", [x], [y]))
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    assert opsets == {"": OPSET, **({"com.microsoft": 1} if quantised else {})}
    assert (model.graph.name, model.producer_name, model.ir_version) == ("graph", "inferd", 10)


def test_an_operand_is_of_the_unit_scale_unless_it_says_otherwise() -> None:
    assert Operand("x", 4).scale == UNIT_SCALE == np.float32(1 / 127)
