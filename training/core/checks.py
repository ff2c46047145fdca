"""Reasons not to write a bundle: what exporters and quantisers get wrong without a word, found by looking or running.

Every function raises ValueError, which says what is wrong and where, and changes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from training.core.export import BATCH_AXIS, open_session, tensors_of

Feed = Mapping[str, NDArray[Any]]

_PRODUCTS = {"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
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

    Args:
        path: of the graph.
        inputs: rows to take from, as many as the largest batch.
        batch_sizes: each is run once.
    """
    session, (_, outputs) = open_session(path, threads=1), tensors_of(path)
    for size in batch_sizes:
        for declared, found in zip(outputs, _run(path, session, inputs, slice(size)), strict=True):
            expected = tuple(size if axis == BATCH_AXIS else axis for axis in declared.shape or ())
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


def require_quantised(path: Path) -> None:
    """Require that ONNX Runtime multiplies no floats in a quantised graph, once it has optimised it.

    Quantisers pass over what they don't know, and ONNX Runtime multiplies floats where it does not recognise the
    pattern; both without a word.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4  # it warns that the file is for this processor alone
        options.optimized_model_filepath = str(optimised)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(optimised).graph.node
    if floats := sorted({node.op_type for node in nodes if node.op_type in _PRODUCTS}):
        raise ValueError(f"{path.name} is not quantised throughout: ONNX Runtime runs {', '.join(floats)} on floats")


def require_seven_bits(path: Path) -> None:
    """Require that a graph has weights in bytes, none of more than seven bits.

    Processors without VNNI add products in pairs of 16 bits, which overflow with eight: they then answer otherwise.
    """
    matrices = [
        (tensor.name, numpy_helper.to_array(tensor))
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    if not matrices:
        raise ValueError(f"{path.name} has no weights in bytes")
    for name, values in matrices:
        if values.min() < _LOWEST or values.max() > _HIGHEST:
            raise ValueError(f"{path.name}: {name!r} goes from {values.min()} to {values.max()}, more than seven bits")


def _run(path: Path, session: ort.InferenceSession, inputs: Feed, rows: slice | NDArray[np.int64]) -> list[Any]:
    try:
        return list(session.run(None, {name: array[rows] for name, array in inputs.items()}))
    except Exception as error:  # ONNX Runtime's own classes, which it does not export
        raise ValueError(f"{path.name} fails: {error}") from error
