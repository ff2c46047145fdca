"""What tasks ask of the graphs that a manifest describes."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import BundleRefused
from service.manifest import MANIFEST_FILE, Graph, Tensor


def by_name(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors by their names."""
    return {tensor.name: tensor for tensor in tensors}


def expect(graph: Graph, tensor: Tensor, datatype: str, shape: Sequence[int | str | None] | None) -> None:
    """Refuse a tensor of another datatype or shape; the name of a symbolic axis, or None, means any size.

    Raises:
        BundleRefused: it is another.
    """
    found = None if tensor.shape is None else [None if isinstance(size, str) else size for size in tensor.shape]
    wanted = None if shape is None else [None if isinstance(size, str) else size for size in shape]
    if (tensor.datatype, found) != (datatype, wanted):
        raise BundleRefused(
            MANIFEST_FILE,
            f"{graph.file}: {tensor.name!r} is {tensor.datatype} {tensor.shape}, not {datatype} {tuple(shape or ())}",
        )
