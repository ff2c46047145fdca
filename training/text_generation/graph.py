"""The step graph: one character further for every sequence of a batch, written in ONNX from a network's weights.

    token (batch,), state (batch, 2 layers hidden)  ->  logits (batch, vocabulary), next_state

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
from training.core.graph_writer import GraphWriter, Operand, TableRow, array_of, checked_model
from training.core.lstm import LSTMLayer
from training.text_generation.model import CharacterLSTM, ModelConfig

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
    names = [f"{kind}{number}" for kind in ("hidden", "cell") for number in range(layers)]
    writer.node("Split", [STATE], *names, axis=1, num_outputs=len(names))
    below: list[Operand] = []
    for number, layer in enumerate(model.stack):
        gates = _gates(writer, number, layer, below, model)
        x, _ = writer.cell(number, gates, f"cell{number}")
        below = [Operand(x, hidden)]
    writer.product(LOGITS, below, array_of(model.head.weight).T, array_of(model.head.bias))
    writer.node("Concat", [f"new_{name}" for name in names], NEXT_STATE, axis=1)

    state: list[str | int | None] = [BATCH_AXIS, state_width(model.config)]
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


def state_width(config: ModelConfig) -> int:
    """How many numbers the state of a text has."""
    return 2 * config.layers * config.hidden


def round_to_half(model: CharacterLSTM) -> None:
    """Round the matrices of `model` that the float32 graph holds (see `graph_writer.round_to_half`)."""
    matrices: list[Tensor] = [model.head.weight]
    for number, layer in enumerate(model.stack):
        matrices += [layer.recurrent_weight] if number == 0 else [layer.recurrent_weight, layer.input_weight]
    graph_writer.round_to_half(matrices)


def _gates(writer: GraphWriter, number: int, layer: LSTMLayer, below: list[Operand], model: CharacterLSTM) -> str:
    """The gates of a layer, by what the layer below gives (nothing for the first) and by its own hidden state."""
    recurrent, bias = array_of(layer.recurrent_weight).T, array_of(layer.bias)
    own = Operand(f"hidden{number}", len(recurrent))
    if below:
        joined = np.concatenate([array_of(layer.input_weight).T, recurrent])
        return writer.product(f"gates{number}", [*below, own], joined, bias, by_column=False)
    # A character's part of the gates is a row of a table: no product is left of it.
    table = array_of(model.embedding.weight).astype(np.float64) @ array_of(layer.input_weight).T.astype(np.float64)
    row = TableRow((table + bias).astype(np.float32), TOKEN)
    return writer.product(f"gates{number}", own, recurrent, row, by_column=False)
