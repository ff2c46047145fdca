"""Tensors: a model served as its graph, with nothing before it and nothing after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadInput, BundleRefused, RuntimeFailure
from service.manifest import LABELS_FILE, Graph, Manifest, Tensor
from service.tasks.base import TaskLimits
from service.tasks.labels import read_labels
from service.tensors import DTYPES, Arrays, numbers

_LIGHT_ELEMENTS = 4096
"""Up to so many numbers become arrays in the event loop: a thread would cost more."""


@dataclass(frozen=True)
class Request:
    """What JSON held for each input, by name; it is not looked into yet."""

    data: Mapping[str, Any]


class Tensors:
    """The task of one model.

    Args:
        folder: the bundle's folder.
        manifest: its manifest.
        limits: of a request; none of them is about tensors.

    Raises:
        BundleRefused: the labels are no list of texts; or there is more than one graph.
    """

    graphs: tuple[str, ...] = ("model",)
    slots_a_row = 1

    def __init__(self, folder: Path, manifest: Manifest, limits: TaskLimits) -> None:
        self._graph = _only_graph(manifest)
        listed = manifest.files.get(LABELS_FILE)
        self.labels = read_labels(folder, LABELS_FILE, listed) if listed else None

    def parse(self, inputs: object, parameters: Mapping[str, object]) -> Request:
        """Check which inputs are there.

        Args:
            inputs: nested lists by input name; or just the nested lists, if there is one input.
            parameters: there are none.

        Raises:
            BadInput: an input is missing or unknown, or there are parameters.
        """
        names = [tensor.name for tensor in self._graph.inputs]
        if parameters:
            raise BadInput(f"parameter {next(iter(parameters))!r} is not known: this model takes none")
        if isinstance(inputs, bytes):
            raise BadInput(f'the model takes tensors: send JSON {{"inputs": {{name: nested lists}}}}; names: {names}')
        if not isinstance(inputs, dict):
            if len(names) > 1:
                raise BadInput(f"inputs must be an object of nested lists by name; names: {names}")
            inputs = {names[0]: inputs}
        if set(inputs) != set(names):
            raise BadInput(f"inputs must be {names}; given: {list(inputs)}")
        return Request(inputs)

    def is_heavy(self, request: Request) -> bool:
        """Whether there are so many numbers that making arrays of them is worth a thread."""
        return sum(map(_estimate, request.data.values())) > _LIGHT_ELEMENTS

    def encode(self, request: Request) -> Arrays:
        """Make an array of each input, of the shape of its nesting.

        Raises:
            BadInput: an input has elements or a shape that the graph doesn't take, or another batch size than others.
        """
        arrays = {tensor.name: _encode(tensor, request.data[tensor.name]) for tensor in self._graph.inputs}
        if self._graph.batched and len(rows := {len(array) for array in arrays.values()}) > 1:
            raise BadInput(f"inputs must have one batch size; given: {sorted(rows)}")
        return arrays

    def decode(self, request: Request, outputs: Arrays) -> dict[str, Any]:
        """Return nested lists by output name.

        Raises:
            RuntimeFailure: a number of the answer is none, which JSON can't tell.
        """
        return {tensor.name: _decode(tensor.name, outputs[tensor.name]) for tensor in self._graph.outputs}

    def describe(self) -> dict[str, object]:
        """What the model takes and gives."""
        return {
            "inputs": [tensor.model_dump() for tensor in self._graph.inputs],
            "outputs": [tensor.model_dump() for tensor in self._graph.outputs],
            "parameters": {},
            "labels": list(self.labels or ()),
        }


def _encode(tensor: Tensor, data: object) -> NDArray[Any]:
    try:
        array = numbers(data, tensor.datatype)
    except BadInput as error:
        raise BadInput(f"input {tensor.name!r}: {error}") from error
    if not tensor.accepts(array.shape):
        expected = [size if isinstance(size, int) else -1 for size in tensor.shape or ()]
        raise BadInput(f"input {tensor.name!r} is nested as {list(array.shape)}; expected {expected} (-1: any size)")
    return array


def _decode(name: str, array: NDArray[Any]) -> Any:
    if array.dtype == DTYPES["BF16"]:
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RuntimeFailure(f"the model answered with numbers that are not finite, in output {name!r}")
    return array.tolist()


def _estimate(data: object) -> int:
    """How many elements evenly nested lists have."""
    count = 1
    while isinstance(data, list):
        count *= len(data)
        data = data[0] if data else None
    return count


def _only_graph(manifest: Manifest) -> Graph:
    graphs = list(manifest.default.graphs.values())
    if len(graphs) != 1:
        raise BundleRefused("manifest.json", f"task {manifest.task!r} has one graph, not {len(graphs)}")
    return graphs[0]
