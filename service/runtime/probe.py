"""What a graph can only be asked by running it: which made-up inputs it takes, and whether its rows are independent.

This is for graphs that say no more of themselves than their tensors. Everything here is the same in every process: the
random numbers are seeded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.errors import InferdError, OutOfMemory
from service.manifest import BATCH, Graph, Tensor
from service.tensors import DTYPES, Arrays

Run = Callable[[Arrays], Arrays]

ROWS: Final = 3
"""Rows that are compared: alone and together."""

_SIZES = (8, 32, 1, 224, 3)
"""What is tried for axes of any size. Not 1 first: over one number many a function is constant, and hides something."""
_RANKS = (1, 2, 0, 3, 4)
_MOST_ELEMENTS = 2**22
_MOST_ATTEMPTS = 200
_BUDGET_S = 5.0

_RELATIVE: Mapping[str, float] = {"FP16": 1e-2, "BF16": 5e-2, "FP32": 1e-4, "FP64": 1e-4}
"""How far floats of the same row may lie apart, by the largest number of their tensor: batches of other sizes are
computed in another order. FP64 is no closer, as it may be no more than a converted FP32."""


def find_example(
    run: Run, graph: Graph, *, rows: int = ROWS, clock: Callable[[], float] = time.perf_counter
) -> Arrays | str:
    """Make inputs up until the graph takes them.

    Args:
        run: the graph.
        graph: its tensors; an axis called `batch` gets `rows`, and every other symbol one size, whatever runs.
        rows: of the batch; they differ from each other.
        clock: in seconds.

    Returns:
        Inputs that the graph has run on; or why there are none: what the graph said last, or that they were too large.

    Raises:
        OutOfMemory: it has run on none, and for some there was not the memory.
    """
    problem = f"all that was tried has over {_MOST_ELEMENTS} elements"
    greedy: OutOfMemory | None = None
    started = clock()
    for count, (sizes, rank) in enumerate(_attempts(graph)):
        if count == _MOST_ATTEMPTS or clock() - started > _BUDGET_S:
            break
        shapes = [_shape_of(tensor, {**sizes, BATCH: rows}, rank) for tensor in graph.inputs]
        if sum(map(math.prod, shapes)) > _MOST_ELEMENTS:
            continue
        random = np.random.default_rng(20)
        example = {
            tensor.name: _made_up(tensor.datatype, shape, random)
            for tensor, shape in zip(graph.inputs, shapes, strict=True)
        }
        try:
            run(example)
        except OutOfMemory as error:
            greedy = error
        except InferdError as error:
            problem = str(error)
        else:
            return example
    if greedy:
        raise greedy
    return problem


def influence(run: Run, graph: Graph, example: Arrays) -> str | None:
    """Say how rows influence each other, if they do: each row of `example` is run alone, and all of them together.

    Args:
        run: the graph.
        graph: its tensors, the first axis of each the batch.
        example: at least two rows that differ.

    Raises:
        OutOfMemory: there is not the memory to run them.
    """
    rows = len(next(iter(example.values())))
    try:
        together = run(example)
        for row in range(rows):
            alone = run({name: array[row : row + 1] for name, array in example.items()})
            for tensor in graph.outputs:
                one, all_of_them = alone[tensor.name], together[tensor.name]
                if one.shape[:1] != (1,) or all_of_them.shape != (rows, *one.shape[1:]):
                    return (
                        f"output {tensor.name!r} has shape {list(one.shape)} for one row and "
                        f"{list(all_of_them.shape)} for {rows}"
                    )
                if not _has_row(all_of_them, row, one, tensor.datatype):
                    return f"output {tensor.name!r} of a row depends on the rows beside it"
    except OutOfMemory:
        raise
    except InferdError as error:
        return str(error)
    return None


def _attempts(graph: Graph) -> Iterator[tuple[Mapping[str, int], int]]:
    """Sizes by symbol, and a rank for tensors that have none: first the same size everywhere, then all mixtures."""
    symbols = {size for tensor in graph.inputs for size in tensor.shape or () if isinstance(size, str)} - {BATCH}
    names = sorted(symbols)
    for rank in _RANKS if any(tensor.shape is None for tensor in graph.inputs) else (0,):
        for size in _SIZES:
            yield {"": size, **dict.fromkeys(names, size)}, rank
    for sizes in product(_SIZES, repeat=len(names)):
        if len(set(sizes)) > 1:
            yield {"": sizes[0], **dict(zip(names, sizes, strict=True))}, 1


def _shape_of(tensor: Tensor, sizes: Mapping[str, int], rank: int) -> tuple[int, ...]:
    if tensor.shape is None:
        return (sizes[""],) * rank
    return tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)


def _made_up(datatype: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    """Numbers that most graphs take: floats in [0, 1), whole numbers 0 and 1, which are indices too, texts a and b."""
    dtype = DTYPES[datatype]
    if datatype in _RELATIVE:
        return np.asarray(random.random(shape)).astype(dtype)
    bits = np.asarray(random.integers(0, 2, shape))
    if bits.ndim and len(bits) > 1:
        bits[1] = 1 - bits[0]  # so few values could make equal rows by chance
    if datatype == "BYTES":
        return np.array(["a", "b"], object)[bits] if bits.ndim else np.array("ab"[int(bits)], object)
    return bits.astype(dtype)


def _has_row(together: NDArray[Any], row: int, alone: NDArray[Any], datatype: str) -> bool:
    """Whether `together[row]` is what that row gave `alone`, floats but for rounding."""
    if datatype not in _RELATIVE:
        return np.array_equal(together[row : row + 1], alone)
    numbers = together.astype(np.float64)
    largest = float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))
    allowed = _RELATIVE[datatype] * largest
    return np.allclose(numbers[row : row + 1], alone.astype(np.float64), rtol=0, atol=allowed, equal_nan=True)
