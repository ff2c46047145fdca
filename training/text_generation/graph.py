"""The step graph: one character further for every sequence of a batch, written in ONNX from a network's weights.

Written by hand rather than exported, because the exporter's LSTM operator can only be quantised with scales that are
taken over the whole batch, so that a sequence's text would depend on its neighbours. An LSTM cell of matrix products
and gates can have scales that are fixed beforehand: what goes into each product lies within [-1, 1], whatever the text.

    token (batch,), state (batch, 2, layers, hidden)  ->  logits (batch, vocabulary), next_state

`state` holds the hidden states of all layers, then their cell states; zeros are the start of a text. There is no
dropout, and no temperature: that is a parameter of whoever samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from service.manifest import StatePair, Step
from training.core.export import BATCH_AXIS, OPSET
from training.core.lstm import LSTMLayer
from training.text_generation.model import CharacterLSTM

TOKEN, STATE, LOGITS, NEXT_STATE = "token", "state", "logits", "next_state"
STEP = Step(token=TOKEN, logits=LOGITS, states=(StatePair(input=STATE, output=NEXT_STATE),))
"""What the tensors mean, as the manifest says it."""

ACTIVATION_SCALE, ACTIVATION_ZERO = np.float32(1 / 127), np.uint8(128)
"""A hidden state in unsigned bytes: sigmoid times tanh lies within [-1, 1], so no calibration is needed."""

LARGEST_WEIGHT = 63
"""Seven bits: with eight, sums of products saturate on processors without VNNI, which then answer otherwise."""

_IR_VERSION = 10

Array = NDArray[np.generic]


def step_graph(model: CharacterLSTM, *, quantised: bool) -> onnx.ModelProto:
    """Make the step graph of `model`.

    Args:
        model: its weights are copied.
        quantised: whether matrix products are of bytes, with a scale for each column of a matrix. Gates, cell states
            and what leaves the graph are float32 either way. If not, matrices are stored in half precision (see
            `round_to_half`).
    """
    return _Writer(quantised).write(model)


def round_to_half(model: CharacterLSTM) -> None:
    """Round the matrices of `model` to what half precision holds, which halves the float32 graph's file.

    The graph still computes in float32, and what is compared with it afterwards is the network that it holds.
    """
    matrices: list[Tensor] = [model.head.weight]
    for number, layer in enumerate(model.stack):
        matrices += [layer.recurrent_weight] if number == 0 else [layer.recurrent_weight, layer.input_weight]
    for matrix in matrices:
        matrix.data = matrix.data.half().float()


def quantise_columns(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round `matrix` (inputs, outputs) to seven bits; returns it with the scale of each column (outputs,)."""
    scale = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float32).tiny * 2**8) / LARGEST_WEIGHT
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


class _Writer:
    """Collects nodes and constants of one graph."""

    def __init__(self, quantised: bool) -> None:
        self._quantised = quantised
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}

    def write(self, model: CharacterLSTM) -> onnx.ModelProto:
        """Write all of `model`."""
        layers, hidden = model.config.layers, model.config.hidden
        vocabulary = len(model.head.bias)
        if self._quantised:
            self._constants |= {"activation_scale": np.array(ACTIVATION_SCALE), "zero": np.array(ACTIVATION_ZERO)}

        # The state's parts lie one after the other in each row, so that taking it apart is one copy.
        names = [f"{kind}{number}" for kind in ("hidden", "cell") for number in range(layers)]
        self._constant("row", np.array([0, 2 * layers * hidden], np.int64))
        self._constant("whole", np.array([0, 2, layers, hidden], np.int64))
        self._node("Reshape", [STATE, "row"], "state_row")
        self._constant("parts", np.full(2 * layers, hidden, np.int64))
        self._node("Split", ["state_row", "parts"], *names, axis=1)

        x = ""
        for number, layer in enumerate(model.stack):
            x = self._layer(number, layer, x, model)
        logits = self._product("head", x, _array(model.head.weight).T)
        self._constant("head_bias", _array(model.head.bias))
        self._node("Add", [logits, "head_bias"], LOGITS)
        self._node("Concat", [f"new_{name}" for name in names], "next_row", axis=1)
        self._node("Reshape", ["next_row", "whole"], NEXT_STATE)

        state: list[str | int | None] = [BATCH_AXIS, 2, layers, hidden]
        graph = helper.make_graph(
            self._nodes,
            "step",
            [
                helper.make_tensor_value_info(TOKEN, TensorProto.INT64, [BATCH_AXIS]),
                helper.make_tensor_value_info(STATE, TensorProto.FLOAT, state),
            ],
            [
                helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH_AXIS, vocabulary]),
                helper.make_tensor_value_info(NEXT_STATE, TensorProto.FLOAT, state),
            ],
            [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in self._constants.items()],
        )
        written = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="inferd"
        )
        onnx.checker.check_model(written, full_check=True)
        return written

    def _layer(self, number: int, layer: LSTMLayer, x: str, model: CharacterLSTM) -> str:
        """One LSTM layer over what the layer below gives (nothing for the first); returns its new hidden state."""
        recurrent, bias = _array(layer.recurrent_weight).T, _array(layer.bias)
        if number == 0:
            # A character's part of the gates is a row of a table: no product is left of it.
            table = _array(model.embedding.weight).astype(np.float64) @ _array(layer.input_weight).T.astype(np.float64)
            self._constant("table", (table + bias).astype(np.float32))
            self._node("Gather", ["table", TOKEN], "gates0_character", axis=0)
            added = "gates0_character"
            product = self._product("gates0", "hidden0", recurrent)
        else:
            self._node("Concat", [x, f"hidden{number}"], f"inputs{number}", axis=1)
            joined = np.concatenate([_array(layer.input_weight).T, recurrent])
            added = self._constant(f"bias{number}", bias)
            product = self._product(f"gates{number}", f"inputs{number}", joined)
        self._node("Add", [product, added], f"gates{number}")

        inward, forget, candidate, outward = (f"{gate}{number}" for gate in "ifgo")
        raw = [f"{name}_raw" for name in (inward, forget, candidate, outward)]
        self._node("Split", [f"gates{number}"], *raw, axis=1, num_outputs=4)
        for name in (inward, forget, outward):
            self._node("Sigmoid", [f"{name}_raw"], name)
        self._node("Tanh", [f"{candidate}_raw"], candidate)
        self._node("Mul", [forget, f"cell{number}"], f"kept{number}")
        self._node("Mul", [inward, candidate], f"written{number}")
        self._node("Add", [f"kept{number}", f"written{number}"], f"new_cell{number}")
        self._node("Tanh", [f"new_cell{number}"], f"bounded{number}")
        self._node("Mul", [outward, f"bounded{number}"], f"new_hidden{number}")
        return f"new_hidden{number}"

    def _product(self, name: str, x: str, matrix: NDArray[np.float32]) -> str:
        """`x` times `matrix` (inputs, outputs), float32 in and out."""
        if not self._quantised:
            # ONNX Runtime widens them once, when it loads the graph.
            self._constant(f"{name}_half", matrix.astype(np.float16))
            self._node("Cast", [f"{name}_half"], f"{name}_weight", to=TensorProto.FLOAT)
            self._node("MatMul", [x, f"{name}_weight"], f"{name}_product")
            return f"{name}_product"
        # Quantise, multiply integers, scale: as plain operators. ONNX Runtime is meant to make the same of dequantised
        # operands and a MatMul, but joins the bias to the product first and multiplies floats then.
        weight, scale = quantise_columns(matrix)
        self._constant(f"{name}_weight", weight)
        self._constant(f"{name}_scale", scale * ACTIVATION_SCALE)
        self._node("QuantizeLinear", [x, "activation_scale", "zero"], f"{name}_bytes")
        self._node("MatMulInteger", [f"{name}_bytes", f"{name}_weight", "zero"], f"{name}_integers")
        self._node("Cast", [f"{name}_integers"], f"{name}_floats", to=TensorProto.FLOAT)
        self._node("Mul", [f"{name}_floats", f"{name}_scale"], f"{name}_product")
        return f"{name}_product"

    def _node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, list(outputs), name=outputs[0], **attributes))

    def _constant(self, name: str, array: Array) -> str:
        self._constants[name] = array
        return name


def _array(weight: Tensor) -> NDArray[np.float32]:
    return np.asarray(weight.detach().numpy(), np.float32)
