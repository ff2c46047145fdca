"""The contexts of a step graph's rows, side by side: each as long as the longest, filled up with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.groups import Group
from service.manifest import Graph
from service.tensors import Arrays


class Contexts:
    """What the rows look at in every step; a row's arrays change only when its group's place does.

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
        self.arrays: Arrays = {}
        self._groups: Sequence[Group] = ()

    def seat(self, groups: Sequence[Group], places: Sequence[int]) -> None:
        """Have row by row those of `groups`.

        Args:
            groups: whose row it is.
            places: where its context lies now; -1 where it does not yet.
        """
        if not self._open or (len(groups) == len(self._groups) and all(map(_same, groups, self._groups))):
            return
        self._groups = groups
        if not groups:
            self.arrays = {}
            return
        different = list({id(group): group for group in groups}.values())
        old = [row for row, place in enumerate(places) if place >= 0]
        taken = np.array([place for place in places if place >= 0], np.intp)
        arrays: dict[str, NDArray[Any]] = {}
        for name, axes in self._open.items():
            sample = different[0].context[name]
            shape = list(sample.shape)
            for axis in axes:
                shape[axis] = max(group.context[name].shape[axis] for group in different)
            whole = np.zeros((len(groups), *shape[1:]), sample.dtype)
            if old:
                # What is cut off is zeros: of those that stay, the longest fits.
                kept = self.arrays[name][taken]
                part: Any = tuple(map(slice, np.minimum(whole.shape[1:], kept.shape[1:]).tolist()))
                whole[(old, *part)] = kept[(slice(None), *part)]
            for row, place in enumerate(places):
                if place < 0:
                    mine = groups[row].context[name][0]
                    whole[row][tuple(map(slice, mine.shape))] = mine
            arrays[name] = whole
        self.arrays = arrays


def _same(one: Group, other: Group) -> bool:
    return one is other
