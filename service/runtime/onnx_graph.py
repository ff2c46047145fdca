"""What an ONNX graph says of its own tensors, for models that come without a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import onnxruntime as ort

from service.errors import BundleRefused
from service.manifest import Datatype, Graph, Tensor

DATATYPES: Mapping[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
"""The protocol's name of each of ONNX Runtime's types that the protocol has."""


def read_graph(file: str, session: ort.InferenceSession, *, ranked: Set[str]) -> Graph:
    """Describe the inputs and outputs of a graph.

    ONNX Runtime knows which inputs must be given (not those that are initializers too) and has inferred shapes that
    the file leaves out; the file tells a scalar from a tensor of unknown rank, which ONNX Runtime shows alike.

    Args:
        file: its name, for the description and for messages.
        session: of that file.
        ranked: the tensors of which the file says how many axes they have.

    Raises:
        BundleRefused: it takes or gives nothing, something that is no tensor, or a tensor of a datatype that the
            protocol has not.
    """
    inputs, outputs = (
        tuple(_tensor(file, kind, one, ranked=one.name in ranked) for one in found)
        for kind, found in (("input", session.get_inputs()), ("output", session.get_outputs()))
    )
    if not inputs or not outputs:
        raise BundleRefused(file, f"has no {'outputs' if inputs else 'inputs'}: there is nothing to ask it")
    return Graph(file=file, inputs=inputs, outputs=outputs)


def stand_in(name: str, axis: int) -> str:
    """What an axis of the tensor `name` is called that has neither a size nor a name."""
    return f"{name}_dim_{axis}"


def _tensor(file: str, kind: str, found: Any, *, ranked: bool) -> Tensor:
    datatype = DATATYPES.get(found.type)
    if datatype is None:
        raise BundleRefused(file, f"{kind} {found.name!r} is {found.type}: {_why_not(found.type)}")
    shape = None
    if found.shape or ranked:
        shape = tuple(
            size if isinstance(size, int) else size or stand_in(found.name, axis)
            for axis, size in enumerate(found.shape)
        )
    return Tensor(name=found.name, datatype=datatype, shape=shape)


def _why_not(kind: str) -> str:
    if kind.startswith("tensor("):
        return f"served datatypes are {', '.join(DATATYPES.values())}"
    if "map(" in kind:
        return "only tensors are served; export the classifier with ZipMap off (skl2onnx: options={'zipmap': False})"
    return "only tensors are served"
