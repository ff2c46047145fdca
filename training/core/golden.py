"""The golden file of a bundle: made-up inputs, and what PyTorch and each variant's graph answer to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest import GOLDEN_FILE, Candidates, Tolerance
from training.core.export import open_session

RUNTIME_TOLERANCE = 1e-3
"""Largest difference to ONNX Runtime's own golden outputs: another processor adds floats in another order."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class GoldenRows:
    """A batch for one graph.

    Attributes:
        inputs: by name.
        expected: PyTorch's outputs by name.
        candidates: those outputs that are compared as candidates, if there are such.
    """

    inputs: Arrays
    expected: Arrays
    candidates: Candidates | None = None


def write_golden(
    bundle: Path,
    graph: str,
    inputs: Arrays,
    expected: Arrays,
    files: Mapping[str, str],
    runtime_tolerances: Mapping[str, float] | None = None,
) -> dict[str, Tolerance]:
    """Write the golden file of a bundle whose variants have one graph each (see `write_golden_of_graphs`).

    Args:
        bundle: the folder.
        graph: its role in the bundle.
        inputs: of the graph, a batch.
        expected: PyTorch's outputs by name.
        files: of the graph, by variant.
        runtime_tolerances: by variant, where another processor may differ by more than `RUNTIME_TOLERANCE`.
    """
    by_role = {variant: {graph: file} for variant, file in files.items()}
    return write_golden_of_graphs(bundle, {graph: GoldenRows(inputs, expected)}, by_role, runtime_tolerances)


def write_golden_of_graphs(
    bundle: Path,
    rows: Mapping[str, GoldenRows],
    files: Mapping[str, Mapping[str, str]],
    runtime_tolerances: Mapping[str, float] | None = None,
) -> dict[str, Tolerance]:
    """Write the golden file and return what each variant's replay allows, as measured here with a margin.

    Args:
        bundle: the folder.
        rows: for each graph, by role.
        files: of the graphs, by variant and role.
        runtime_tolerances: by variant, where another processor may differ by more than `RUNTIME_TOLERANCE`.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for role, one in rows.items():
        arrays |= {f"inputs/{role}/{name}": array for name, array in one.inputs.items()}
        arrays |= {f"framework/{role}/{name}": array for name, array in one.expected.items()}
    tolerances = {}
    for variant, graphs in files.items():
        difference = 0.0
        for role, one in rows.items():
            outputs = open_session(bundle / graphs[role]).run(list(one.expected), dict(one.inputs))
            found = dict(zip(one.expected, outputs, strict=True))
            arrays |= {f"runtime/{variant}/{role}/{name}": array for name, array in found.items()}
            difference = max(difference, difference_of(found, one.expected, one.candidates))
        runtime = max((runtime_tolerances or {}).get(variant, 0.0), RUNTIME_TOLERANCE)
        tolerances[variant] = Tolerance(framework=round(max(2 * difference, runtime), 6), runtime=round(runtime, 6))
    np.savez_compressed(bundle / GOLDEN_FILE, **arrays)  # type: ignore[arg-type] # its stubs take no names
    return tolerances


def difference_of(found: Arrays, expected: Arrays, candidates: Candidates | None = None) -> float:
    """The largest absolute difference of an output, as the service's golden replay takes it.

    Which tokens are candidates, and in which order, is a matter of their logarithms: a token's may differ, and one that
    is none any more differs by as much as it was likelier than the last of those that are.

    Args:
        found: outputs by name.
        expected: the same ones.
        candidates: those that are compared as such.
    """
    worst = 0.0
    for name, array in found.items():
        if candidates and name in (candidates.tokens, candidates.logprobs):
            continue
        gap = np.abs(array.astype(np.float64) - expected[name].astype(np.float64))
        worst = float(np.max([worst, gap.max()]))  # NaN where there is one
    if candidates:
        sides = [(arrays[candidates.tokens], arrays[candidates.logprobs]) for arrays in (found, expected)]
        for row in range(len(sides[0][0])):
            one, other = (
                dict(zip(tokens[row].tolist(), likely[row].tolist(), strict=True)) for tokens, likely in sides
            )
            for here, there in ((one, other), (other, one)):
                least = min(there.values())
                apart = [
                    abs(value - there[token]) if token in there else value - least for token, value in here.items()
                ]
                worst = float(np.max([worst, *apart]))
    return worst
