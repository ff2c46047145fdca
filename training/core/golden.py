"""The golden file of a bundle: made-up inputs, and what PyTorch and each variant's graph answer to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest import GOLDEN_FILE, Tolerance
from training.core.export import open_session

RUNTIME_TOLERANCE = 1e-3
"""Largest difference to ONNX Runtime's own golden outputs: another processor adds floats in another order."""

Arrays = Mapping[str, NDArray[Any]]


def write_golden(
    bundle: Path,
    graph: str,
    inputs: Arrays,
    expected: Arrays,
    files: Mapping[str, str],
    runtime_tolerances: Mapping[str, float] | None = None,
) -> dict[str, Tolerance]:
    """Write the golden file and return what each variant's replay allows, as measured here with a margin.

    Args:
        bundle: the folder.
        graph: its role in the bundle.
        inputs: of the graph, a batch.
        expected: PyTorch's outputs by name.
        files: of the graph, by variant.
        runtime_tolerances: by variant, where another processor may differ by more than `RUNTIME_TOLERANCE`.
    """
    arrays = {f"inputs/{graph}/{name}": array for name, array in inputs.items()}
    arrays |= {f"framework/{graph}/{name}": array for name, array in expected.items()}
    tolerances = {}
    for variant, file in files.items():
        found = open_session(bundle / file).run(list(expected), dict(inputs))
        arrays |= {f"runtime/{variant}/{graph}/{name}": array for name, array in zip(expected, found, strict=True)}
        difference = max(float(np.abs(one - other).max()) for one, other in zip(found, expected.values(), strict=True))
        runtime = max((runtime_tolerances or {}).get(variant, 0.0), RUNTIME_TOLERANCE)
        tolerances[variant] = Tolerance(framework=round(max(2 * difference, runtime), 6), runtime=round(runtime, 6))
    np.savez_compressed(bundle / GOLDEN_FILE, **arrays)  # type: ignore[arg-type] # its stubs take no names
    return tolerances
