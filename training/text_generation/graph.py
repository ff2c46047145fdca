"""The step graph: one character further for every sequence of a batch, written in ONNX from a network's weights.

    token (batch,), state (batch, 2, layers, hidden)  ->  logits (batch, vocabulary), next_state

`state` holds the hidden states of all layers, then their cell states; zeros are the start of a text. There is no
dropout, and no temperature: that is a parameter of whoever samples. In bytes, what goes into each product is a hidden
state, which lies within [-1, 1] whatever the text: its scale is fixed beforehand (see `GraphWriter`).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor

from service.manifest import StatePair, Step
from training.core import graph_writer
from training.core.export import BATCH_AXIS
from training.core.graph_writer import GraphWriter, Operand, array_of, checked_model
from training.core.lstm import LSTMLayer
from training.text_generation.model import CharacterLSTM

TOKEN, STATE, LOGITS, NEXT_STATE = "token", "state", "logits", "next_state"
STEP = Step(token=TOKEN, logits=LOGITS, states=(StatePair(input=STATE, output=NEXT_STATE),))
"""What the tensors mean, as the manifest says it."""


def step_graph(model: CharacterLSTM, *, quantised: bool) -> onnx.ModelProto:
    """Make the step graph of `model`.

    Args:
        model: its weights are copied.
        quantised: see `GraphWriter`. Gates, cell states and what leaves the graph are float32 either way.
    """
    layers, hidden = model.config.layers, model.config.hidden
    writer = GraphWriter(quantised=quantised)

    # The state's parts lie one after the other in each row, so that taking it apart is one copy.
    names = [f"{kind}{number}" for kind in ("hidden", "cell") for number in range(layers)]
    row = writer.constant("row", np.array([0, 2 * layers * hidden], np.int64))
    whole = writer.constant("whole", np.array([0, 2, layers, hidden], np.int64))
    writer.node("Reshape", [STATE, row], "state_row")
    parts = writer.constant("parts", np.full(2 * layers, hidden, np.int64))
    writer.node("Split", ["state_row", parts], *names, axis=1)

    x = ""
    for number, layer in enumerate(model.stack):
        gates = _gates(writer, number, layer, x, model)
        x, _ = writer.cell(number, gates, f"cell{number}")
    scores = writer.product("head", Operand(x, hidden), array_of(model.head.weight).T)
    writer.node("Add", [scores, writer.constant("head_bias", array_of(model.head.bias))], LOGITS)
    writer.node("Concat", [f"new_{name}" for name in names], "next_row", axis=1)
    writer.node("Reshape", ["next_row", whole], NEXT_STATE)

    state: list[str | int | None] = [BATCH_AXIS, 2, layers, hidden]
    return checked_model(
        writer.graph(
            "step",
            [
                helper.make_tensor_value_info(TOKEN, TensorProto.INT64, [BATCH_AXIS]),
                helper.make_tensor_value_info(STATE, TensorProto.FLOAT, state),
            ],
            [
                helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH_AXIS, len(model.head.bias)]),
                helper.make_tensor_value_info(NEXT_STATE, TensorProto.FLOAT, state),
            ],
        )
    )


def round_to_half(model: CharacterLSTM) -> None:
    """Round the matrices of `model` that the float32 graph holds (see `graph_writer.round_to_half`)."""
    matrices: list[Tensor] = [model.head.weight]
    for number, layer in enumerate(model.stack):
        matrices += [layer.recurrent_weight] if number == 0 else [layer.recurrent_weight, layer.input_weight]
    graph_writer.round_to_half(matrices)


def _gates(writer: GraphWriter, number: int, layer: LSTMLayer, x: str, model: CharacterLSTM) -> str:
    """The gates of a layer, by its own hidden state and by what the layer below gives (nothing for the first)."""
    recurrent, bias = array_of(layer.recurrent_weight).T, array_of(layer.bias)
    hidden = len(recurrent)
    if number == 0:
        # A character's part of the gates is a row of a table: no product is left of it.
        table = array_of(model.embedding.weight).astype(np.float64) @ array_of(layer.input_weight).T.astype(np.float64)
        writer.constant("table", (table + bias).astype(np.float32))
        added = writer.node("Gather", ["table", TOKEN], "gates0_character", axis=0)
        product = writer.product("gates0", Operand("hidden0", hidden), recurrent)
    else:
        inputs = writer.node("Concat", [x, f"hidden{number}"], f"inputs{number}", axis=1)
        joined = np.concatenate([array_of(layer.input_weight).T, recurrent])
        added = writer.constant(f"bias{number}", bias)
        product = writer.product(f"gates{number}", Operand(inputs, 2 * hidden), joined)
    return writer.node("Add", [product, added], f"gates{number}")
