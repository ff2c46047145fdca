"""Reasons not to write a bundle: what exporters and quantisers get wrong without a word, found by looking or running.

Every function raises ValueError, which says what is wrong and where, and changes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from training.core.export import BATCH_AXIS, open_session, tensors_of

Feed = Mapping[str, NDArray[Any]]

_PRODUCTS = {"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul", "MatMulNBits", "RNN"}
"""Operators that ONNX Runtime has for products of floats."""

_LOWEST, _HIGHEST = -64, 63


def require_shapes(path: Path, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Require that a graph declares exactly these tensors, with these shapes.

    Exporters freeze a batch or time axis to the example's size, and leave the example's sizes in what they declare of
    outputs.

    Args:
        path: of the graph.
        shapes: of all inputs and outputs, by name; a text is a symbolic axis.
    """
    found = {tensor.name: tensor.shape for tensors in tensors_of(path) for tensor in tensors}
    if unlike := sorted(found.keys() ^ shapes.keys()):
        raise ValueError(f"{path.name} has or lacks {', '.join(unlike)}")
    for name, shape in shapes.items():
        if found[name] != tuple(shape):
            raise ValueError(f"{path.name}: {name!r} is declared as {found[name]}, not {tuple(shape)}")


def require_declared_sizes(path: Path, inputs: Feed, batch_sizes: Iterable[int]) -> None:
    """Require that outputs have the sizes that the graph declares of them, at several batch sizes.

    Other symbolic axes have the size that they have in the inputs.

    Args:
        path: of the graph.
        inputs: rows to take from, as many as the largest batch.
        batch_sizes: each is run once.
    """
    session, (given, outputs) = open_session(path, threads=1), tensors_of(path)
    sizes = dict(pair for one in given for pair in zip(one.shape or (), inputs[one.name].shape, strict=True))
    for size in batch_sizes:
        sizes[BATCH_AXIS] = size
        for declared, found in zip(outputs, _run(path, session, inputs, slice(size)), strict=True):
            expected = tuple(sizes.get(axis, axis) for axis in declared.shape or ())
            if found.shape != expected:
                raise ValueError(
                    f"{path.name}: {declared.name!r} is declared as {declared.shape}, and is {found.shape} "
                    f"at batch size {size}"
                )


def require_independent_rows(path: Path, inputs: Feed, *, seed: int, threads: Iterable[int] = (1, 2)) -> None:
    """Require that a row's outputs are the same bits alone and in any batch, whichever rows are its neighbours.

    Dynamic quantisation takes its scales over the whole batch; and arithmetic that is otherwise sound may go another
    way for what is left over at the end of an array.

    Args:
        path: of the graph.
        inputs: rows; every number of them up to all is run as a batch, in an order drawn at random.
        seed: of that order.
        threads: numbers of threads to try.
    """
    rows = len(next(iter(inputs.values())))
    alone_session = open_session(path, threads=1)
    alone = [_run(path, alone_session, inputs, slice(row, row + 1)) for row in range(rows)]
    names = [output.name for output in alone_session.get_outputs()]
    draw = np.random.default_rng(seed)
    for count in threads:
        session = open_session(path, threads=count)
        for size in range(1, rows + 1):
            chosen = draw.permutation(rows)[:size]
            for number, together in enumerate(_run(path, session, inputs, chosen)):
                for row, found in zip(chosen, together, strict=True):
                    if found.tobytes() != alone[row][number][0].tobytes():
                        raise ValueError(
                            f"{path.name}: {names[number]!r} of a row is another alone than in a batch of {size} "
                            f"({count} threads)"
                        )


def require_padding_without_effect(
    path: Path, inputs: Feed, lengths: Sequence[int], *, axis: str, sizes: Sequence[int], seed: int
) -> None:
    """Require that a row's outputs are the same bits to whichever size it is filled up, alone and beside any others.

    An output that has the axis itself has the row's numbers on it, and zeros behind them.

    Args:
        path: of the graph.
        inputs: rows; whatever stands behind a row's length is what it is filled up with.
        lengths: of the rows along the axis.
        axis: the symbolic axis, the second of the inputs and outputs that have it.
        sizes: to fill up to, rising to the size of the inputs. Rows that fit are run at each, alone and in batches of
            several numbers of rows that are drawn at random.
        seed: of that.
    """
    session, draw = open_session(path, threads=1), np.random.default_rng(seed)
    given, told = ({one.name: axis in (one.shape or ())[1:2] for one in tensors} for tensors in tensors_of(path))

    def run(rows: NDArray[np.int64], size: int) -> list[Any]:
        feed = {name: inputs[name][rows, :size] if has_axis else inputs[name][rows] for name, has_axis in given.items()}
        return _run(path, session, feed, slice(None))

    own = [next(size for size in sizes if size >= length) for length in lengths]
    alone = [run(np.array([row]), size) for row, size in enumerate(own)]
    for size in sizes:
        fitting = np.flatnonzero(np.array(own) <= size)
        counts = [2**power for power in range(1, len(fitting).bit_length())]
        for rows in (*fitting[:, None], *(draw.permutation(fitting)[:count] for count in counts), fitting):
            for number, (name, found) in enumerate(zip(told, run(rows, size), strict=True)):
                for row, one in zip(rows.tolist(), found, strict=True):
                    until = lengths[row] if told[name] else len(one)
                    if one[:until].tobytes() != alone[row][number][0][:until].tobytes() or one[until:].any():
                        raise ValueError(
                            f"{path.name}: {name!r} of a row of {lengths[row]} is another in a batch of {len(rows)} "
                            f"that is filled up to {size} than alone"
                        )


def require_quantised(path: Path) -> None:
    """Require that ONNX Runtime multiplies no floats with weights in a quantised graph, once it has optimised it.

    Quantisers pass over what they don't know, and ONNX Runtime multiplies floats where it does not recognise the
    pattern; both without a word. What a graph multiplies with what it made itself, as attention does, may be floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4  # it warns that the file is for this processor alone
        options.optimized_model_filepath = str(optimised)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        floats = sorted(set(_products_with_weights(onnx.load(optimised).graph, set())))
    if floats:
        raise ValueError(f"{path.name} is not quantised throughout: ONNX Runtime runs {', '.join(floats)} on floats")


def require_seven_bits(path: Path) -> None:
    """Require that a graph has weights in bytes, none of more than seven bits.

    Processors without VNNI add products in pairs of 16 bits, which overflow with eight: they then answer otherwise.
    """
    matrices = [
        (tensor.name, numpy_helper.to_array(tensor))
        for graph in _graphs(onnx.load(path).graph)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    if not matrices:
        raise ValueError(f"{path.name} has no weights in bytes")
    for name, values in matrices:
        if values.min() < _LOWEST or values.max() > _HIGHEST:
            raise ValueError(f"{path.name}: {name!r} goes from {values.min()} to {values.max()}, more than seven bits")


def _products_with_weights(graph: onnx.GraphProto, outside: set[str]) -> Iterator[str]:
    """The operators by which a graph, and those inside it, multiply floats with what no input has a part in."""
    weights = outside | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        given = set(node.input) - {""}
        if node.op_type in _PRODUCTS and weights & given:
            yield node.op_type
        if given and weights >= given:
            weights.update(node.output)
        for inside in _inside(node):
            yield from _products_with_weights(inside, weights)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all that are inside it, bodies of loops for instance."""
    yield graph
    for node in graph.node:
        for inside in _inside(node):
            yield from _graphs(inside)


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)


def _run(path: Path, session: ort.InferenceSession, inputs: Feed, rows: slice | NDArray[np.int64]) -> list[Any]:
    try:
        return list(session.run(None, {name: array[rows] for name, array in inputs.items()}))
    except Exception as error:  # ONNX Runtime's own classes, which it does not export
        raise ValueError(f"{path.name} fails: {error}") from error
