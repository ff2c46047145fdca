"""The golden replay: a bundle's own inputs and outputs, run again on this machine before the model may answer.

`golden.npz` holds `inputs/<graph>/<tensor>`, PyTorch's outputs as `framework/<graph>/<tensor>` and, for each variant,
ONNX Runtime's as `runtime/<variant>/<graph>/<tensor>`. No array is an object: nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleRefused, InferdError
from service.manifest import Manifest, Variant
from service.runtime.devices import CPU
from service.runtime.session import OnnxSession

_MAX_BYTES = 256 * 2**20


class GoldenMismatch(BundleRefused):
    """A variant does not answer as it did when it was exported."""


class Golden:
    """The arrays of a bundle's golden file.

    Args:
        folder: the bundle's folder.
        manifest: its manifest.

    Raises:
        BundleRefused: the file can't be read, or is too large once unpacked.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._file = manifest.golden
        path = folder / self._file
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > _MAX_BYTES:
                raise BundleRefused(self._file, f"has {size} bytes unpacked, the limit is {_MAX_BYTES}")
            with np.load(path, allow_pickle=False) as arrays:
                self._arrays: dict[str, NDArray[Any]] = {
                    name: array for name, array in arrays.items() if isinstance(array, np.ndarray)
                }
        except BundleRefused:
            raise
        except Exception as error:  # zipfile, its decompressors and NumPy raise a dozen unrelated classes
            raise BundleRefused(self._file, f"can't be read ({error})") from error

    def inputs(self, graph: str, session: OnnxSession) -> dict[str, NDArray[Any]]:
        """The golden inputs of `graph`, a batch.

        Raises:
            BundleRefused: one is missing, or has no rows and so would prove nothing.
        """
        inputs = {tensor.name: self._array(f"inputs/{graph}/{tensor.name}") for tensor in session.graph.inputs}
        for name, array in inputs.items():
            if not array.shape or not len(array):
                raise BundleRefused(self._file, f"array 'inputs/{graph}/{name}' has no rows")
        return inputs

    def replay(self, name: str, variant: Variant, graph: str, session: OnnxSession) -> None:
        """Run `graph` of the variant called `name` and compare what comes out.

        Raises:
            GoldenMismatch: an output differs by more than the manifest allows, or the graph fails.
            BundleRefused: there is nothing to compare with.
        """
        inputs = self.inputs(graph, session)
        try:
            outputs = session.run(inputs)
        except InferdError as error:
            raise GoldenMismatch(session.graph.file, f"the golden replay failed: {error}") from error
        for tensor in session.graph.outputs:
            found = outputs[tensor.name]
            for origin, key, allowed in (
                ("ONNX Runtime", f"runtime/{name}/{graph}/{tensor.name}", variant.tolerance.runtime),
                ("PyTorch", f"framework/{graph}/{tensor.name}", variant.tolerance.framework),
            ):
                expected = self._array(key)
                if expected.dtype.kind not in "biuf":
                    raise BundleRefused(self._file, f"array {key!r} holds no numbers but {expected.dtype}")
                if origin == "ONNX Runtime" and session.provider != CPU:
                    continue  # its golden outputs are a CPU's: another device computes int8 in another way
                if found.shape != expected.shape:
                    problem = f"has shape {found.shape}, not {expected.shape}"
                elif _has_another_best(found, expected, allowed):
                    problem = "puts another class first"
                else:
                    difference = float(np.max(np.abs(found.astype(np.float64) - expected), initial=0.0))
                    if difference <= allowed:  # not so either for NaN
                        continue
                    problem = f"differs by {difference:.3g}, allowed is {allowed:.3g}"
                raise GoldenMismatch(
                    session.graph.file,
                    f"golden replay of variant {name!r}: output {tensor.name!r} {problem} "
                    f"(from {origin}'s in {self._file})",
                )

    def _array(self, key: str) -> NDArray[Any]:
        try:
            return self._arrays[key]
        except KeyError as error:
            raise BundleRefused(self._file, f"has no array {key!r}") from error


def _has_another_best(found: NDArray[Any], expected: NDArray[Any], tolerance: float) -> bool:
    """Whether any row of scores (N, classes) has another maximum where the expected one leads by over `tolerance`."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return False
    second, first = np.sort(expected.astype(np.float64), axis=1)[:, -2:].T
    sure = first - second > tolerance
    return bool((found.argmax(axis=1) != expected.argmax(axis=1))[sure].any())
