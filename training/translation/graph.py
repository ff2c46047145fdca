"""The two graphs of a translator, written in ONNX from a network's weights.

    encoder: tokens (batch, source), lengths (batch,)  ->  memory (batch, source, 2 encoder_hidden), present, state
    decoder: token (batch,), state, memory, present  ->  tokens, logprobs (batch, candidates), next_state, attention

`state` (batch, 2 layers hidden) holds the hidden states of all decoder layers, then their cell states. Beyond a
sentence's length its memory is zero and not `present`, and has no part in anything.

In bytes, what goes into each product with weights lies within [-1, 1] whatever the sentence: hidden states, mixtures of
them, a tanh. Its scale is fixed beforehand (see `GraphWriter`); so is that of the embedding, whose table is known. The
attention's own products are of float32 either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor

from service.manifest import Candidates, StatePair, Step
from training.core import graph_writer
from training.core.export import BATCH_AXIS
from training.core.graph_writer import GraphWriter, Operand, array_of, checked_model
from training.core.lstm import LSTMLayer
from training.translation.model import BidirectionalLayer, Translator
from training.translation.tokens import PAD_TOKEN, START_TOKEN

ENCODER, DECODER = "encoder", "decoder"
"""The roles of the graphs in a bundle."""
SOURCE_AXIS = "source"
TOKENS, LENGTHS, MEMORY, PRESENT, STATE = "tokens", "lengths", "memory", "present", "state"
TOKEN, CANDIDATES, LOGPROBS, NEXT_STATE, ATTENTION = "token", "tokens", "logprobs", "next_state", "attention"
STEP = Step(
    token=TOKEN,
    candidates=Candidates(tokens=CANDIDATES, logprobs=LOGPROBS),
    states=(StatePair(input=STATE, output=NEXT_STATE),),
    context=(MEMORY, PRESENT),
    attention=ATTENTION,
)
"""What the decoder's tensors mean, as the manifest says it."""

_MOST_CANDIDATES = 16

Shape = tuple[int | str, ...]


def candidates_of(model: Translator) -> int:
    """How many tokens the decoder gives of each row."""
    return min(_MOST_CANDIDATES, len(model.token_bias) - 2)


def encoder_shapes(model: Translator) -> dict[str, Shape]:
    """The encoder's tensors, inputs first."""
    config = model.config
    return {
        TOKENS: (BATCH_AXIS, SOURCE_AXIS),
        LENGTHS: (BATCH_AXIS,),
        MEMORY: (BATCH_AXIS, SOURCE_AXIS, 2 * config.encoder_hidden),
        PRESENT: (BATCH_AXIS, SOURCE_AXIS),
        STATE: (BATCH_AXIS, 2 * config.decoder_layers * config.decoder_hidden),
    }


def decoder_shapes(model: Translator) -> dict[str, Shape]:
    """The decoder's tensors, inputs first."""
    encoded, count = encoder_shapes(model), candidates_of(model)
    return {
        TOKEN: (BATCH_AXIS,),
        STATE: encoded[STATE],
        MEMORY: encoded[MEMORY],
        PRESENT: encoded[PRESENT],
        CANDIDATES: (BATCH_AXIS, count),
        LOGPROBS: (BATCH_AXIS, count),
        NEXT_STATE: encoded[STATE],
        ATTENTION: (BATCH_AXIS, SOURCE_AXIS),
    }


def encoder_graph(model: Translator, *, quantised: bool) -> onnx.ModelProto:
    """Make the encoder of `model`, whose weights are copied.

    Each layer is one loop over the steps that reads forwards and backwards at once. Where there is no token its states
    become zero, so that the backward half begins at a sentence's end however far it is filled up.
    """
    config, writer = model.config, GraphWriter(quantised=quantised)
    hidden, read = config.encoder_hidden, 2 * config.encoder_hidden
    for name, value in (("at_0", 0), ("at_1", 1)):
        writer.constant(name, np.array(value, np.int64))
        writer.constant(f"axis_{value}", np.array([value], np.int64))
    writer.node("Shape", [TOKENS], "steps", start=1, end=2)
    writer.node("Squeeze", ["steps"], "step_count")
    writer.node("Range", ["at_0", "step_count", "at_1"], "places")
    writer.node("Unsqueeze", [LENGTHS, "axis_1"], "length_column")
    writer.node("Less", ["places", "length_column"], PRESENT)
    writer.node("Transpose", [PRESENT], "present_by_step", perm=[1, 0])
    writer.node("Cast", ["present_by_step"], "shares", to=TensorProto.FLOAT)
    writer.constant("axis_2", np.array([2], np.int64))
    writer.node("Unsqueeze", ["shares", "axis_2"], "mask")
    writer.node("Shape", [TOKENS], "batch", start=0, end=1)
    writer.constant("units", np.array([hidden], np.int64))
    writer.node("Concat", ["batch", "units"], "state_shape", axis=0)
    writer.node("ConstantOfShape", ["state_shape"], "nothing")

    writer.node("Transpose", [TOKENS], "tokens_by_step", perm=[1, 0])
    x = _embedded(writer, model, "tokens_by_step")
    for number, layer in enumerate(model.encoder):
        x = Operand(_bidirectional(writer, number, cast(BidirectionalLayer, layer), x), read)
    writer.node("Transpose", [x.tensor], MEMORY, perm=[1, 0, 2])

    # Each direction's output at the last token that it read.
    writer.node("Sub", ["length_column", "axis_1"], "last_place")
    writer.node("GatherND", [MEMORY, "last_place"], "last", batch_dims=1)
    writer.constant("half", np.array([hidden], np.int64))
    writer.node("Slice", ["last", "axis_0", "half", "axis_1"], "last_forwards")
    writer.node("Concat", ["last_forwards", f"first_backwards{len(model.encoder) - 1}"], "ends", axis=1)
    writer.product("cells", Operand("ends", read), array_of(model.start.weight).T, array_of(model.start.bias))
    writer.node("Tanh", ["cells"], "hiddens")
    writer.node("Concat", ["hiddens", "cells"], STATE, axis=1)
    return _model(writer, ENCODER, encoder_shapes(model), inputs=(TOKENS, LENGTHS))


def decoder_graph(model: Translator, *, quantised: bool) -> onnx.ModelProto:
    """Make the decoder of `model`, whose weights are copied: one token further for every row of a batch."""
    config, writer = model.config, GraphWriter(quantised=quantised)
    layers, hidden = config.decoder_layers, config.decoder_hidden
    names = [f"{kind}{number}" for kind in ("hidden", "cell") for number in range(layers)]
    writer.node("Split", [STATE], *names, axis=1, num_outputs=len(names))
    below = [_embedded(writer, model, TOKEN)]
    for number, layer in enumerate(cast(Iterable[LSTMLayer], model.decoder)):
        matrix = np.concatenate([array_of(layer.input_weight).T, array_of(layer.recurrent_weight).T])
        inputs = [*below, Operand(f"hidden{number}", hidden)]
        gates = writer.product(f"gates{number}", inputs, matrix, array_of(layer.bias), by_column=False)
        x, _ = writer.cell(number, gates, f"cell{number}")
        if number == 0:
            found = _attention(writer, model, Operand(x, hidden))
        below = [Operand(x, hidden), found]
    writer.product("outputs", below, array_of(model.output.weight).T, array_of(model.output.bias))
    writer.node("Tanh", ["outputs"], "features")
    _candidates(writer, model)
    writer.node("Concat", [f"new_{name}" for name in names], NEXT_STATE, axis=1)
    return _model(writer, DECODER, decoder_shapes(model), inputs=(TOKEN, STATE, MEMORY, PRESENT))


def round_to_half(model: Translator) -> None:
    """Round the matrices of `model` that the float32 graphs hold (see `graph_writer.round_to_half`)."""
    layers = [half for layer in model.encoder for half in (layer.forwards, layer.backwards)]
    matrices: list[Tensor] = [linear.weight for linear in (model.embedding, model.start, model.query, model.output)]
    for layer in [*layers, *model.decoder]:
        matrices += [layer.input_weight, layer.recurrent_weight]
    graph_writer.round_to_half(matrices)


def _embedded(writer: GraphWriter, model: Translator, tokens: str) -> Operand:
    table, size = array_of(model.embedding.weight), model.config.embedding**0.5
    if writer.quantised:
        return writer.rows("embedded", table * np.float32(size), tokens)
    small = writer.rows("embedded", table, tokens)
    writer.constant("embedding_size", np.array(size, np.float32))
    return Operand(writer.node("Mul", [small.tensor, "embedding_size"], "embedded_large"), small.width)


def _bidirectional(writer: GraphWriter, number: int, layer: BidirectionalLayer, x: Operand) -> str:
    """A layer over `x` (steps, batch, width); returns its outputs (steps, batch, 2 hidden), zero beyond a length."""
    hidden = layer.hidden
    body = GraphWriter(quantised=writer.quantised)
    given, kept, told = [], [], []
    for half, weights in (("forwards", layer.forwards), ("backwards", layer.backwards)):
        label = f"{half}{number}"
        writer.product(f"projected_{label}", x, array_of(weights.input_weight).T, array_of(weights.bias))
        own = Operand(f"hidden_{half}", hidden)
        again = body.product(f"again_{half}", own, array_of(weights.recurrent_weight).T, by_column=False)
        body.node("Add", [again, f"projected_{half}"], f"gates_{half}")
        new = body.cell(f"_{half}", f"gates_{half}", f"cell_{half}")
        for kind, tensor in zip(("hidden", "cell"), new, strict=True):
            body.node("Mul", [tensor, f"mask_{half}"], f"next_{kind}_{half}")
        body.node("Identity", [f"next_hidden_{half}"], f"out_{half}")
        given += [(f"projected_{half}", 4 * hidden), (f"mask_{half}", 1)]
        kept += [(f"hidden_{half}", hidden), (f"cell_{half}", hidden)]
        told.append((f"out_{half}", hidden))
    inside = body.graph(
        f"layer{number}",
        [_rows(name, width) for name, width in (*kept, *given)],
        [_rows(name, width) for name, width in (*((f"next_{name}", width) for name, width in kept), *told)],
    )
    last = [f"last_hidden_forwards{number}", f"last_cell_forwards{number}"]
    last += [f"first_backwards{number}", f"first_cell_backwards{number}"]
    outputs = [f"out_forwards{number}", f"out_backwards{number}"]
    writer.node(
        "Scan",
        ["nothing"] * 4 + [f"projected_forwards{number}", "mask", f"projected_backwards{number}", "mask"],
        *last,
        *outputs,
        num_scan_inputs=4,
        scan_input_directions=[0, 0, 1, 1],
        scan_output_directions=[0, 1],
        body=inside,
    )
    return writer.node("Concat", outputs, f"read{number}", axis=2)


def _attention(writer: GraphWriter, model: Translator, asking: Operand) -> Operand:
    """What is found in the memory, as a mixture of its places (batch, 2 encoder_hidden)."""
    read = 2 * model.config.encoder_hidden
    writer.constant("query_axis", np.array([2], np.int64))
    writer.constant("weight_axis", np.array([1], np.int64))
    writer.constant("never", np.array(-np.inf, np.float32))
    writer.product("large_query", asking, array_of(model.query.weight).T)
    writer.constant("query_scale", np.array(model.query_scale, np.float32))
    writer.node("Mul", ["large_query", "query_scale"], "query")
    writer.node("Unsqueeze", ["query", "query_axis"], "query_column")
    writer.node("MatMul", [MEMORY, "query_column"], "score_column")
    writer.node("Squeeze", ["score_column", "query_axis"], "all_scores")
    writer.node("Where", [PRESENT, "all_scores", "never"], "scores")
    writer.node("Softmax", ["scores"], ATTENTION, axis=1)
    writer.node("Unsqueeze", [ATTENTION, "weight_axis"], "weight_row")
    writer.node("MatMul", ["weight_row", MEMORY], "found_row")
    return Operand(writer.node("Squeeze", ["found_row", "weight_axis"], "found"), read)


def _candidates(writer: GraphWriter, model: Translator) -> None:
    """The likeliest tokens by `features`, and how likely they are, padding and the start token left out."""
    bias = array_of(model.token_bias).copy()
    bias[[PAD_TOKEN, START_TOKEN]] = -np.inf
    weight = array_of(model.embedding.weight)
    if writer.quantised:
        writer.product("logits", Operand("features", weight.shape[1]), weight.T, bias)
    else:
        writer.node("Transpose", ["embedded_weight"], "logits_weight", perm=[1, 0])
        writer.node("MatMul", ["features", "logits_weight"], "logits_product")
        writer.node("Add", ["logits_product", writer.constant("token_bias", bias)], "logits")
    writer.node("LogSoftmax", ["logits"], "all_logprobs", axis=1)
    writer.constant("count", np.array([candidates_of(model)], np.int64))
    writer.node("TopK", ["all_logprobs", "count"], LOGPROBS, CANDIDATES, axis=1)


def _rows(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH_AXIS, width])


_KINDS = {TOKENS: TensorProto.INT64, LENGTHS: TensorProto.INT64, TOKEN: TensorProto.INT64, PRESENT: TensorProto.BOOL}


def _model(writer: GraphWriter, name: str, shapes: dict[str, Shape], inputs: Sequence[str]) -> onnx.ModelProto:
    values = {
        key: helper.make_tensor_value_info(key, _KINDS.get(key, TensorProto.FLOAT), list(shape))
        for key, shape in shapes.items()
    }
    given = [values[key] for key in inputs]
    return checked_model(writer.graph(name, given, [value for key, value in values.items() if key not in inputs]))
