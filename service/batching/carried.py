"""What the rows of a step graph carry from run to run: states, which each run makes anew, and contexts, which stay.

Rows change places several times between two runs: groups come, their prompts are read, beginnings are ranked, others
end. What they carry is copied once, before the next run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.groups import Group
from service.manifest import Graph, Tensor
from service.tensors import DTYPES, Arrays

_SHRINK_AFTER = 64
"""So many times must contexts have come or gone, none of them long, before all are made shorter again."""


class States:
    """The states of the rows.

    Args:
        tensors: the graph's inputs of states, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._arrays: Arrays = {name: _no_rows(tensor) for name, tensor in tensors.items()}
        self._buffers: dict[str, NDArray[Any]] = {}
        self._groups: Sequence[Group] = ()
        self._places: NDArray[np.intp] | None = None

    def replace(self, arrays: Arrays) -> None:
        """Take what a run has made of them, row by row."""
        self._arrays, self._places = arrays, None

    def seat(self, groups: Sequence[Group], places: NDArray[np.intp]) -> None:
        """Have row by row those of `groups`.

        Args:
            groups: whose row it is.
            places: which row each was (rows,); -1 where its group begins with it.
        """
        self._groups = groups
        self.move(places)

    def move(self, places: NDArray[np.intp]) -> None:
        """Have each row go on from the one at its place; whose rows they are does not change."""
        self._places = _composed(self._places, places)

    def arrays(self) -> Arrays:
        """The states (rows, ...) each; they last until the next are asked for."""
        if self._places is not None:
            self._arrays = {name: self._gathered(name, self._places) for name in self._arrays}
            self._places = None
        return self._arrays

    def _gathered(self, name: str, places: NDArray[np.intp]) -> NDArray[Any]:
        before = self._arrays[name]
        buffer = self._buffers.get(name)  # a fresh array each time would take far longer than what is copied
        if buffer is None or len(buffer) < len(places) or before.base is buffer:
            buffer = self._buffers[name] = np.empty((2 * len(places), *before.shape[1:]), before.dtype)
        found = buffer[: len(places)]
        if len(before):
            before.take(places, axis=0, out=found, mode="clip")
        for row in np.flatnonzero(places < 0).tolist():
            given = self._groups[row].start.get(name)
            found[row] = 0 if given is None else given[0]
        return found


class Contexts:
    """What the rows look at in every step: each context as long as the longest, filled up with zeros.

    They are large beside all else, so they lie in buffers that stay, and are written where another group has a row.

    Args:
        graph: the step.
    """

    def __init__(self, graph: Graph) -> None:
        inputs = {tensor.name: tensor for tensor in graph.inputs}
        names = graph.step.context if graph.step else ()
        self._open = {
            name: [axis for axis, size in enumerate(inputs[name].shape or ()) if axis and isinstance(size, str)]
            for name in names
        }
        self._arrays: Arrays = {}
        self._buffers: dict[str, NDArray[Any]] = {}
        self._groups: Sequence[Group] = ()
        self._written: Sequence[Group] = ()  # whose is what stands in each row of the buffers
        self._too_long = 0  # times

    def seat(self, groups: Sequence[Group]) -> None:
        """Have row by row those of `groups`."""
        self._groups = groups

    def arrays(self) -> Arrays:
        """The contexts (rows, ...) each; they last until the next are asked for."""
        if self._open and self._groups is not self._written:
            self._write()
            self._arrays = {name: buffer[: len(self._groups)] for name, buffer in self._buffers.items()}
        return self._arrays

    def _write(self) -> None:
        rows = len(self._groups)
        for name, shape in self._shapes().items():
            buffer = self._buffers.get(name)
            if buffer is None or len(buffer) < rows or buffer.shape[1:] != shape:
                self._buffers[name] = np.zeros((2 * rows, *shape), self._groups[0].context[name].dtype)
                self._written = ()
        for first, end in _changed(self._written, self._groups):
            for name, buffer in self._buffers.items():
                own = self._groups[first].context[name]
                if own.shape[1:] != buffer.shape[1:]:
                    buffer[first:end] = 0
                place: Any = (slice(first, end), *map(slice, own.shape[1:]))
                buffer[place] = own
        self._written = self._groups

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """What each context must have room for: the longest of those that live, or for a while of those that did."""
        different = list({id(group): group.context for group in self._groups}.values())
        needed, kept = {}, {}
        for name, axes in self._open.items() if different else ():
            shape = list(different[0][name].shape[1:])
            before = self._buffers[name].shape if name in self._buffers else ()
            longer = shape.copy()
            for axis in axes:
                shape[axis - 1] = max(context[name].shape[axis] for context in different)
                longer[axis - 1] = max(shape[axis - 1], *before[axis : axis + 1], 0)
            needed[name], kept[name] = tuple(shape), tuple(longer)
        self._too_long = self._too_long + 1 if needed != kept else 0
        if self._too_long < _SHRINK_AFTER:
            return kept
        self._too_long = 0
        return needed


def _changed(before: Sequence[Group], now: Sequence[Group]) -> Iterator[tuple[int, int]]:
    """From where to where the rows lie of each group that has others than before; those of a group lie side by side."""
    first = 0
    while first < len(now):
        group, end = now[first], first + 1
        while end < len(now) and now[end] is group:
            end += 1
        if end > len(before) or before[first] is not group or before[end - 1] is not group:
            yield first, end
        first = end


def _composed(before: NDArray[np.intp] | None, places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where rows lie that go on from `places`, when what was there lay at `before`; -1 stays that."""
    if before is None or not len(before):
        return places
    return np.where(places < 0, -1, before.take(places, mode="clip"))


def _no_rows(state: Tensor) -> NDArray[Any]:
    sizes = [size for size in (state.shape or ())[1:] if isinstance(size, int)]
    return np.zeros((0, *sizes), DTYPES[state.datatype])
