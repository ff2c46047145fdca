"""A graph written by hand: products of bytes whose scales are fixed beforehand, and an LSTM cell made of them.

By hand rather than exported, because the exporter's LSTM operator can only be quantised with scales that are taken over
the whole batch, so that a row's outputs would depend on its neighbours. What goes into a product here has a scale that
is known when the graph is written, whatever the row.

Products are ONNX Runtime's own operators `MatMulIntegerToFloat` and `QGemm`: integers are multiplied, scaled and added
to in one pass. Written in ONNX's operators, the same takes three passes more over what comes out.

The same calls write a graph in float32, whose matrices are stored in half precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from training.core.export import OPSET

UNIT_SCALE, ZERO = np.float32(1 / 127), np.uint8(128)
"""Numbers of [-1, 1] in unsigned bytes. Hidden states are such: sigmoid times tanh, so that nothing is calibrated."""

LARGEST_WEIGHT = 63
"""Seven bits: with eight, sums of products saturate on processors without VNNI, which then answer otherwise."""

_IR_VERSION = 10
_CONTRIBUTED = "com.microsoft"

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Operand:
    """What goes into a product: a tensor (batch, width).

    Attributes:
        tensor: its name.
        width: of a row.
        scale: its numbers lie within 127 times this; what lies beyond is cut off where it becomes bytes.
        in_bytes: whether it is unsigned bytes already, by that scale and `ZERO`, and not float32.
    """

    tensor: str
    width: int
    scale: np.float32 = UNIT_SCALE
    in_bytes: bool = False


@dataclass(frozen=True)
class TableRow:
    """What is added to a product where it depends on a row's token, say.

    Attributes:
        table: (any, outputs).
        index: a tensor (batch,), int64: which row of the table.
    """

    table: Array
    index: str


class GraphWriter:
    """Collects nodes and constants of one graph. Names are the caller's; a node's outputs are tensors of its own.

    Args:
        quantised: whether matrix products are of bytes. All else is float32 either way. If not, matrices are stored in
            half precision (see `round_to_half`).
    """

    def __init__(self, *, quantised: bool) -> None:
        self.quantised = quantised
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {"zero": np.array(ZERO)} if quantised else {}
        self._in_bytes: dict[str, Operand] = {}

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its first output."""
        self._nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes))
        return outputs[0]

    def constant(self, name: str, array: Array) -> str:
        """Add a constant, or the same one once more; returns its name.

        Raises:
            ValueError: another has that name.
        """
        known = self._constants.setdefault(name, array)
        if known is not array and not np.array_equal(known, array):
            raise ValueError(f"two constants have the name {name!r}")
        return name

    def rows(self, name: str, table: NDArray[np.float32], indices: str) -> Operand:
        """Take the rows at `indices`, int64, of `table` (any, width): in bytes by one scale, if quantised."""
        width = table.shape[1]
        if not self.quantised:
            return Operand(self.node("Gather", [self._widened(name, table), indices], name, axis=0), width)
        scale = np.float32(_not_nothing(np.abs(table).max()) / 127)
        self.constant(f"{name}_table", (np.rint(table / scale) + ZERO).astype(np.uint8))
        return Operand(self.node("Gather", [f"{name}_table", indices], name, axis=0), width, scale, in_bytes=True)

    def product(
        self,
        name: str,
        inputs: Operand | Sequence[Operand],
        matrix: NDArray[np.float32],
        bias: NDArray[np.float32] | TableRow | None = None,
        *,
        by_column: bool = True,
    ) -> str:
        """Multiply `inputs`, side by side, with `matrix`, and add `bias`; returns float32 (batch, outputs).

        Args:
            name: of what comes out, and what its nodes and constants are named after.
            inputs: one or more; each may have a scale of its own, which goes into its rows of the matrix.
            matrix: (inputs, outputs), as many rows as the inputs are wide together.
            bias: (outputs,), or the row of a table.
            by_column: whether each column of the matrix has a scale of its own, if quantised, or all of it has one:
                that is coarser where columns differ in size, and quicker by some nanoseconds a column and run.
        """
        operands = [inputs] if isinstance(inputs, Operand) else list(inputs)
        if sum(one.width for one in operands) != len(matrix):
            raise ValueError(f"{name!r}: inputs {[one.width for one in operands]} wide, a matrix of {len(matrix)} rows")
        if not self.quantised:
            return self._product_of_floats(name, operands, matrix, bias)
        x = self._joined(f"{name}_inputs", [self._bytes(one) for one in operands])
        # The inputs' scales go into the matrix, all but one that they have in common.
        common = max(one.scale for one in operands)
        share = np.repeat([one.scale / common for one in operands], [one.width for one in operands])
        integers, scale = quantise(matrix * share[:, None].astype(np.float32), by_column=by_column)
        weight, of_weight = self.constant(f"{name}_weight", integers), self.constant(f"{name}_scale", scale)
        of_x = self._scale(common)
        if isinstance(bias, TableRow):
            # In units of what the integers are multiplied by in the end, which are far finer than bytes.
            table = np.rint(bias.table.astype(np.float64) / (scale.astype(np.float64) * common))
            if np.abs(table).max() >= 2**30:
                raise ValueError(f"{name!r}: the table has far larger numbers than the matrix can make")
            row = self._row(name, TableRow(table.astype(np.int32), bias.index))
            none = self.constant(f"{name}_zero", np.zeros(scale.shape, np.int8))
            return self.node("QGemm", [x, of_x, "zero", weight, of_weight, none, row], name, domain=_CONTRIBUTED)
        added = [] if bias is None else ["", self.constant(f"{name}_bias", bias)]
        factors = [x, weight, of_x, of_weight, "zero", *added]
        return self.node("MatMulIntegerToFloat", factors, name, domain=_CONTRIBUTED)

    def cell(self, label: str | int, gates: str, cell: str) -> tuple[str, str]:
        """An LSTM cell: `gates` (batch, 4 hidden; i, f, g, o, bias added) and a cell state (batch, hidden) in float32.

        Returns:
            The tensors of the new hidden state and the new cell state: `new_hidden` and `new_cell` with the label.
        """
        inward, forget, candidate, outward = (f"{gate}{label}" for gate in "ifgo")
        raw = [f"{name}_raw" for name in (inward, forget, candidate, outward)]
        self.node("Split", [gates], *raw, axis=1, num_outputs=4)
        for name in (inward, forget, outward):
            self.node("Sigmoid", [f"{name}_raw"], name)
        self.node("Tanh", [f"{candidate}_raw"], candidate)
        self.node("Mul", [forget, cell], f"kept{label}")
        self.node("Mul", [inward, candidate], f"written{label}")
        new_cell = self.node("Add", [f"kept{label}", f"written{label}"], f"new_cell{label}")
        self.node("Tanh", [new_cell], f"bounded{label}")
        return self.node("Mul", [outward, f"bounded{label}"], f"new_hidden{label}"), new_cell

    def graph(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """The graph of what was written."""
        constants = [
            numpy_helper.from_array(np.asarray(array, order="C"), key) for key, array in self._constants.items()
        ]
        return helper.make_graph(self._nodes, name, inputs, outputs, constants)

    def _product_of_floats(
        self,
        name: str,
        operands: Sequence[Operand],
        matrix: NDArray[np.float32],
        bias: NDArray[np.float32] | TableRow | None,
    ) -> str:
        x = self._joined(f"{name}_inputs", [one.tensor for one in operands])
        factors = [x, self._widened(name, matrix)]
        if bias is None:
            return self.node("MatMul", factors, name)
        product = self.node("MatMul", factors, f"{name}_product")
        added = self._row(name, bias) if isinstance(bias, TableRow) else self.constant(f"{name}_bias", bias)
        return self.node("Add", [product, added], name)

    def _row(self, name: str, bias: TableRow) -> str:
        return self.node("Gather", [self.constant(f"{name}_table", bias.table), bias.index], f"{name}_row", axis=0)

    def _bytes(self, operand: Operand) -> str:
        if operand.in_bytes:
            return operand.tensor
        name = f"{operand.tensor}_bytes"
        known = self._in_bytes.get(name)
        if known is None:
            self._in_bytes[name] = operand
            return self.node("QuantizeLinear", [operand.tensor, self._scale(operand.scale), "zero"], name)
        if known != operand:
            raise ValueError(f"{operand.tensor!r} has the scales {known.scale} and {operand.scale}")
        return name

    def _scale(self, scale: np.float32) -> str:
        return self.constant(f"scale_{scale:.9g}", np.array(scale, np.float32))

    def _widened(self, name: str, matrix: NDArray[np.float32]) -> str:
        # ONNX Runtime widens it once, when it loads the graph.
        half = self.constant(f"{name}_half", matrix.astype(np.float16))
        return self.node("Cast", [half], f"{name}_weight", to=TensorProto.FLOAT)

    def _joined(self, name: str, tensors: list[str]) -> str:
        return tensors[0] if len(tensors) == 1 else self.node("Concat", tensors, name, axis=1)


def checked_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """The model of a graph, valid as ONNX has it; raises what `onnx.checker` does."""
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == _CONTRIBUTED for node in graph.node):
        opsets.append(helper.make_opsetid(_CONTRIBUTED, 1))
    written = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="inferd")
    onnx.checker.check_model(written, full_check=True)
    return written


def quantise(matrix: NDArray[np.float32], *, by_column: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round `matrix` (inputs, outputs) to seven bits.

    Returns:
        the rounded matrix, and its scale () or that of each column (outputs,).
    """
    scale = _not_nothing(np.abs(matrix).max(axis=0 if by_column else None)) / LARGEST_WEIGHT
    return np.rint(matrix / scale).astype(np.int8), np.asarray(scale, np.float32)


def round_to_half(matrices: Iterable[Tensor]) -> None:
    """Round weights to what half precision holds, which halves a float32 graph's file.

    The graph still computes in float32, and what is compared with it afterwards is the network that it holds.
    """
    for matrix in matrices:
        matrix.data = matrix.data.half().float()


def array_of(weight: Tensor) -> NDArray[np.float32]:
    """A weight for the graph."""
    return np.asarray(weight.detach().numpy(), np.float32)


def _not_nothing(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest numbers of something, or 1 where there is nothing that would need a scale."""
    return np.where(largest < np.finfo(np.float32).tiny * 2**8, np.float32(1), largest)
