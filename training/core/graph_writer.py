"""A graph written by hand: products of bytes whose scales are fixed beforehand, and an LSTM cell made of them.

By hand rather than exported, because the exporter's LSTM operator can only be quantised with scales that are taken over
the whole batch, so that a row's outputs would depend on its neighbours. What goes into a product here has a scale that
is known when the graph is written, whatever the row.

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


class GraphWriter:
    """Collects nodes and constants of one graph. Names are the caller's; a node's outputs are tensors of its own.

    Args:
        quantised: whether matrix products are of bytes, with a scale for each column of a matrix. All else is float32
            either way. If not, matrices are stored in half precision (see `round_to_half`).
    """

    def __init__(self, *, quantised: bool) -> None:
        self.quantised = quantised
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}
        if quantised:
            self._constants |= {"activation_scale": np.array(UNIT_SCALE), "zero": np.array(ZERO)}

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
        scale = np.float32(max(float(np.abs(table).max()), float(np.finfo(np.float32).tiny) * 2**8) / 127)
        self.constant(f"{name}_table", (np.rint(table / scale) + ZERO).astype(np.uint8))
        return Operand(self.node("Gather", [f"{name}_table", indices], name, axis=0), width, scale, in_bytes=True)

    def product(self, name: str, inputs: Operand | Sequence[Operand], matrix: NDArray[np.float32]) -> str:
        """Multiply `inputs`, side by side, with `matrix` (inputs, outputs); returns float32 (batch, outputs).

        Args:
            name: what its nodes and constants are named after.
            inputs: one or more; each may have a scale of its own, which goes into its rows of the matrix.
            matrix: as many rows as the inputs are wide together.
        """
        operands = [inputs] if isinstance(inputs, Operand) else list(inputs)
        if sum(one.width for one in operands) != len(matrix):
            raise ValueError(f"{name!r}: inputs {[one.width for one in operands]} wide, a matrix of {len(matrix)} rows")
        if not self.quantised:
            x = self._joined(f"{name}_inputs", [one.tensor for one in operands])
            return self.node("MatMul", [x, self._widened(name, matrix)], f"{name}_product")
        # Quantise, multiply integers, scale: as plain operators. ONNX Runtime is meant to make the same of dequantised
        # operands and a MatMul, but joins the bias to the product first and multiplies floats then.
        common = max(one.scale for one in operands)
        share = np.repeat([one.scale / common for one in operands], [one.width for one in operands])
        weight, scale = quantise_columns(matrix * share[:, None].astype(np.float32))
        parts = [
            one.tensor if one.in_bytes else self._bytes(name if one is operands[0] else f"{name}_{number}", one)
            for number, one in enumerate(operands)
        ]
        self.constant(f"{name}_weight", weight)
        self.constant(f"{name}_scale", scale * common)
        x = self._joined(f"{name}_inputs", parts)
        self.node("MatMulInteger", [x, f"{name}_weight", "zero"], f"{name}_integers")
        self.node("Cast", [f"{name}_integers"], f"{name}_floats", to=TensorProto.FLOAT)
        return self.node("Mul", [f"{name}_floats", f"{name}_scale"], f"{name}_product")

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
            numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in self._constants.items()
        ]
        return helper.make_graph(self._nodes, name, inputs, outputs, constants)

    def _bytes(self, name: str, operand: Operand) -> str:
        scale = "activation_scale"
        if operand.scale != UNIT_SCALE:
            scale = self.constant(f"{name}_input_scale", np.array(operand.scale, np.float32))
        return self.node("QuantizeLinear", [operand.tensor, scale, "zero"], f"{name}_bytes")

    def _widened(self, name: str, matrix: NDArray[np.float32]) -> str:
        # ONNX Runtime widens it once, when it loads the graph.
        half = self.constant(f"{name}_half", matrix.astype(np.float16))
        return self.node("Cast", [half], f"{name}_weight", to=TensorProto.FLOAT)

    def _joined(self, name: str, tensors: list[str]) -> str:
        return tensors[0] if len(tensors) == 1 else self.node("Concat", tensors, name, axis=1)


def checked_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """The model of a graph, valid as ONNX has it; raises what `onnx.checker` does."""
    written = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="inferd"
    )
    onnx.checker.check_model(written, full_check=True)
    return written


def quantise_columns(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round `matrix` (inputs, outputs) to seven bits; returns it with the scale of each column (outputs,)."""
    scale = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float32).tiny * 2**8) / LARGEST_WEIGHT
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def round_to_half(matrices: Iterable[Tensor]) -> None:
    """Round weights to what half precision holds, which halves a float32 graph's file.

    The graph still computes in float32, and what is compared with it afterwards is the network that it holds.
    """
    for matrix in matrices:
        matrix.data = matrix.data.half().float()


def array_of(weight: Tensor) -> NDArray[np.float32]:
    """A weight for the graph."""
    return np.asarray(weight.detach().numpy(), np.float32)
