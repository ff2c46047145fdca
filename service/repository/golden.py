"""The golden replay: a bundle's own inputs and outputs, run again on this machine before the model may answer.

`golden.npz` holds `inputs/<graph>/<tensor>`, PyTorch's outputs as `framework/<graph>/<tensor>` and, for each variant,
ONNX Runtime's as `runtime/<variant>/<graph>/<tensor>`. A model that is nothing but its graph has no framework's.

No array is an object: nothing is unpickled. BYTES are NumPy's texts of fixed width, and BF16 lies there as UINT16.

The bytes of drawn images are rounded numbers, and one that lies on the border between two may be rounded the other way
on another machine: so few of them may be their neighbours, whatever the tolerance.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleRefused, InferdError
from service.manifest import FileEntry, Graph, Tensor, Variant, read_file
from service.runtime.devices import CPU
from service.runtime.session import OnnxSession
from service.tensors import DTYPES, Arrays

_MAX_BYTES = 256 * 2**20

_ON_THE_BORDER = 0.01
"""Share of them: so many are rounded the other way where what was rounded differs by a hundredth of a step."""


class GoldenMismatch(BundleRefused):
    """A variant does not answer as it did when it was exported."""


class Golden:
    """The arrays of a bundle's golden file.

    Args:
        folder: the bundle's folder.
        file: its name.
        rounded: outputs whose whole numbers a graph has rounded.
        entry: what the manifest says of the file.

    Raises:
        BundleRefused: the file can't be read, or is too large once unpacked.
    """

    def __init__(
        self, folder: Path, file: str, *, rounded: Collection[str] = (), entry: FileEntry | None = None
    ) -> None:
        self._file = file
        self._rounded = rounded
        content = io.BytesIO(read_file(folder, file, most=_MAX_BYTES, entry=entry))
        try:
            with zipfile.ZipFile(content) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > _MAX_BYTES:
                raise BundleRefused(self._file, f"has {size} bytes unpacked, the limit is {_MAX_BYTES}")
            content.seek(0)
            with np.load(content, allow_pickle=False) as arrays:
                self._arrays: dict[str, NDArray[Any]] = {
                    name: array for name, array in arrays.items() if isinstance(array, np.ndarray)
                }
        except BundleRefused:
            raise
        except Exception as error:  # zipfile, its decompressors and NumPy raise a dozen unrelated classes
            raise BundleRefused(self._file, f"can't be read ({error})") from error

    def inputs(self, graph: str, session: OnnxSession) -> dict[str, NDArray[Any]]:
        """The golden inputs of `graph`; a batch, if it has one.

        Raises:
            BundleRefused: one is missing, or has no rows and so would prove nothing.
        """
        inputs = {tensor.name: self._array(f"inputs/{graph}/{tensor.name}", tensor) for tensor in session.graph.inputs}
        for name, array in inputs.items():
            if session.graph.batched and (not array.shape or not len(array)):
                raise BundleRefused(self._file, f"array 'inputs/{graph}/{name}' has no rows")
        return inputs

    def replay(self, name: str, variant: Variant, graph: str, session: OnnxSession) -> None:
        """Run `graph` of the variant called `name` and compare what comes out.

        Raises:
            GoldenMismatch: an output differs by more than the manifest allows, or the graph fails.
            BundleRefused: there is nothing to compare with, or an output has another shape than the manifest says.
        """
        inputs = self.inputs(graph, session)
        try:
            outputs = session.run(inputs)
        except InferdError as error:
            raise GoldenMismatch(session.graph.file, f"the golden replay failed: {error}") from error
        tensors = {tensor.name: tensor for tensor in session.graph.outputs}
        session.check_shapes(outputs)
        for origin, prefix, allowed in (
            ("ONNX Runtime", f"runtime/{name}/{graph}", variant.tolerance.runtime),
            ("PyTorch", f"framework/{graph}", variant.tolerance.framework),
        ):
            if allowed is None:
                continue  # there was no framework
            expected = {key: self._array(f"{prefix}/{key}", tensor) for key, tensor in tensors.items()}
            if origin == "ONNX Runtime" and session.provider != CPU:
                continue  # its golden outputs are a CPU's: another device computes int8 in another way
            nan_is_nan = origin == "ONNX Runtime"
            for output, problem in _problems(session.graph, outputs, expected, allowed, self._rounded, nan_is_nan):
                raise GoldenMismatch(
                    session.graph.file,
                    f"golden replay of variant {name!r}: output {output!r} {problem} (from {origin}'s in {self._file})",
                )

    def _array(self, key: str, tensor: Tensor) -> NDArray[Any]:
        try:
            array = self._arrays[key]
        except KeyError as error:
            raise BundleRefused(self._file, f"has no array {key!r}") from error
        try:
            return restored(array, tensor.datatype)
        except ValueError as error:
            raise BundleRefused(self._file, f"array {key!r} {error}") from error


def stored(array: NDArray[Any]) -> NDArray[Any]:
    """The array as it lies in a golden file."""
    if array.dtype == DTYPES["BF16"]:
        return array.view(np.uint16)
    return array.astype(np.str_) if array.dtype == DTYPES["BYTES"] else array


def restored(array: NDArray[Any], datatype: str) -> NDArray[Any]:
    """The array of `datatype` that lies in a golden file as `array`.

    Raises:
        ValueError: it holds something else. Which numbers it holds is not looked at: the graph will tell.
    """
    if datatype == "BYTES" and array.dtype.kind == "U":
        return array.astype(object)
    if datatype == "BF16" and array.dtype == np.uint16:
        return array.view(DTYPES["BF16"])
    if datatype in ("BYTES", "BF16") or array.dtype.kind not in "biuf":
        raise ValueError(f"holds {array.dtype}, which is no {datatype}")
    return array


def _problems(
    graph: Graph, found: Arrays, expected: Arrays, allowed: float, rounded: Collection[str], nan_is_nan: bool
) -> Iterator[tuple[str, str]]:
    """The outputs that differ from the expected ones by more than `allowed`, and how."""
    candidates = graph.step.candidates if graph.step else None
    for tensor in graph.outputs:
        name = tensor.name
        if candidates and name == candidates.tokens:
            continue  # in what order they come is a matter of their logprobs
        if candidates and name == candidates.logprobs:
            problem = _compare_candidates(
                (found[candidates.tokens], found[name]), (expected[candidates.tokens], expected[name]), allowed
            )
        else:
            problem = _compare(found[name], expected[name], allowed, nan_is_nan=nan_is_nan, rounded=name in rounded)
        if problem:
            yield name, problem


def _compare_candidates(
    found: tuple[NDArray[Any], NDArray[Any]], expected: tuple[NDArray[Any], NDArray[Any]], allowed: float
) -> str | None:
    """Say how candidates differ by more than `allowed`, if they do.

    A token is to be as likely as it was; where it is not among the candidates any more, it was hardly likelier than the
    last of them.

    Args:
        found: tokens and their logprobs, (rows, candidates) each.
        expected: the golden ones.
        allowed: largest difference of a token's logprob.
    """
    shapes = [[array.shape for array in one] for one in (found, expected)]
    if shapes[0] != shapes[1]:
        return f"has shape {found[1].shape}, not {expected[1].shape}"
    worst = 0.0
    for row in range(len(found[0])):
        mine, other = (dict(zip(*(array[row].tolist() for array in one), strict=True)) for one in (found, expected))
        for here, there in ((mine, other), (other, mine)):
            least = min(there.values())
            apart = [abs(one - there[token]) if token in there else one - least for token, one in here.items()]
            worst = float(np.max([worst, *apart]))  # NaN where there is one
    return None if worst <= allowed else f"differs by {worst:.3g}, allowed is {allowed:.3g}"


def _compare(
    found: NDArray[Any], expected: NDArray[Any], allowed: float, *, nan_is_nan: bool, rounded: bool = False
) -> str | None:
    """Say how an output differs by more than `allowed` from the expected one, if it does.

    Args:
        found: the output.
        expected: the golden one.
        allowed: largest absolute difference of numbers.
        nan_is_nan: whether there may be no number where none was before.
        rounded: whether whole numbers have been rounded.
    """
    if found.shape != expected.shape:
        return f"has shape {found.shape}, not {expected.shape}"
    if expected.dtype == DTYPES["BYTES"]:
        # Stored texts have lost what a text of fixed width can't end with.
        return None if np.array_equal(stored(found), stored(expected)) else "has other texts"
    if _has_another_best(found, expected, allowed):
        return "puts another class first"
    one, other = found.astype(np.float64), expected.astype(np.float64)
    same = (found == expected) | (np.isnan(one) & np.isnan(other) & nan_is_nan)
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    if expected.dtype.kind in "iu":
        apart = np.maximum(apart, 1.0)  # floats can't tell large neighbours apart
        if rounded:
            neighbours = ~same & (apart == 1.0)
            same |= neighbours & (neighbours.mean() <= _ON_THE_BORDER)
    difference = float(np.max(np.where(same, 0.0, apart), initial=0.0))
    if difference <= allowed:  # not so either for NaN
        return None
    return f"differs by {difference:.3g}, allowed is {allowed:.3g}"


def _has_another_best(found: NDArray[Any], expected: NDArray[Any], tolerance: float) -> bool:
    """Whether any row of scores (N, classes) has another maximum where the expected one leads by over `tolerance`."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return False
    scores = expected.astype(np.float64)
    second, first = np.sort(scores, axis=1)[:, -2:].T
    with np.errstate(invalid="ignore"):
        sure = first - second > tolerance
    return bool((found.astype(np.float64).argmax(axis=1) != scores.argmax(axis=1))[sure].any())
