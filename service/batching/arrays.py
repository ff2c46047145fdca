"""Joining the arrays of several requests into one run, and parting its outputs again.

Every array has the batch as its first axis, or else each request runs alone. Nothing is copied that needn't be: a
request that runs alone passes through as it came, and outputs are handed back as views of the run's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from service.tensors import Arrays


def layout(arrays: Arrays) -> Hashable:
    """Return what two requests must share to be joined: names, dtypes, and shapes past the batch axis."""
    if len(arrays) == 1:
        ((name, array),) = arrays.items()
        return name, array.dtype, array.shape[1:]
    return frozenset([(name, array.dtype, array.shape[1:]) for name, array in arrays.items()])


def misfit(arrays: Arrays, rows: int) -> str | None:
    """Say which array hasn't `rows` rows, if there is one."""
    for name, array in arrays.items():
        if array.shape[:1] != (rows,):
            return f"{name!r} has shape {list(array.shape)}, where the first axis should be {rows}"
    return None


def gather(parts: Sequence[Arrays]) -> Arrays:
    """Join requests of one layout along the batch axis, in order."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scatter(outputs: Arrays, sizes: Sequence[int]) -> Iterator[Arrays]:
    """Part the outputs of a run into those of its requests, which had `sizes` rows each."""
    if len(sizes) == 1:
        yield outputs
        return
    start = 0
    for size in sizes:
        yield {name: array[start : start + size] for name, array in outputs.items()}
        start += size
