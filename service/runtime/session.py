"""One ONNX graph in ONNX Runtime, checked against what the manifest says of it."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import BundleRefused, InferdError, NotReady, OutOfMemory, RuntimeFailure
from service.manifest import FileEntry, Graph, Tensor
from service.runtime.devices import CPU, CUDA
from service.runtime.onnx_file import read_onnx
from service.runtime.onnx_graph import DATATYPES, read_graph
from service.runtime.runs import ModelRuns
from service.tensors import DTYPES, Arrays

logger = logging.getLogger(__name__)

_BF16 = DTYPES["BF16"]

_NO_MEMORY = ("Failed to allocate memory", "bad allocation", "bad_alloc")
"""What ONNX Runtime says where it gets none: its classes of errors don't tell it."""


class OnnxSession:
    """A graph that can be run from any thread.

    On a GPU TensorFloat-32 is off: it rounds what the golden replay compares.

    Args:
        folder: the bundle's folder.
        graph: what the manifest says of the graph; or the name of its file, which is then asked itself.
        providers: execution providers, the preferred one first.
        threads: of one run.
        spins: whether those keep their cores while they wait for each other in a run; after it they let go of them.
        insist: whether not getting the preferred provider is an error; else the next one is taken, and logged.
        entry: what the manifest says of the file, if there is one.
        runs: where its runs are told, and ended when they take too long; None = nowhere, and never.

    Raises:
        BundleRefused: the file is no ONNX graph that may be loaded, or has other tensors than the manifest says.
        NotReady: ONNX Runtime can't give the preferred provider.
    """

    def __init__(
        self,
        folder: Path,
        graph: Graph | str,
        *,
        providers: Sequence[str],
        threads: int,
        spins: bool = False,
        insist: bool = True,
        entry: FileEntry | None = None,
        runs: ModelRuns | None = None,
    ) -> None:
        file = graph if isinstance(graph, str) else graph.file
        read = read_onnx(folder, file, entry)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, and reach the log with their request
        # Spinning threads take the core that the event loop and the other models need; after a run they all do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1" if spins else "0")
        self.runs = runs
        self._session = _create(file, read.content, options, providers, insist=insist)
        self.threads = threads
        self.provider: str = self._session.get_providers()[0]
        self.parameters = read.parameters
        try:
            if isinstance(graph, str):
                graph = read_graph(file, self._session, ranked=read.ranked)
            else:
                _compare(file, "input", graph.inputs, self._session.get_inputs())
                _compare(file, "output", graph.outputs, self._session.get_outputs())
        except UnicodeDecodeError as error:
            raise BundleRefused(file, f"has a name that is no text ({error})") from error
        self.graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        given, answered = ({tensor.datatype for tensor in tensors} for tensors in (graph.inputs, graph.outputs))
        if "BF16" in answered and "BYTES" in given:
            raise BundleRefused(file, "takes BYTES and answers BF16: ONNX Runtime's Python can't do both in one run")
        self._takes_bf16, self._answers_bf16 = "BF16" in given, "BF16" in answered

    @property
    def is_of_one_thread(self) -> bool:
        """Whether a run is the work of the thread that asks for it, and of nothing else."""
        return self.threads == 1 and self.provider == CPU

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: an array for each input of the graph, of its dtype and shape, batch axis first. The elements of
                BYTES are `str`: ONNX Runtime would turn `bytes` into the text "b'...'".

        Returns:
            An array for each output.

        Raises:
            RuntimeFailure: ONNX Runtime failed, or was ended; OutOfMemory if it got no more memory.
        """
        run = self.runs.begin() if self.runs else None
        options = run.options if run else None
        try:
            if self._answers_bf16:
                values = self._session.run_with_ort_values(
                    self._outputs, {name: _value(array) for name, array in inputs.items()}, options
                )
                return {name: _array(value) for name, value in zip(self._outputs, values, strict=True)}
            if self._takes_bf16:
                inputs = {name: _value(array) if array.dtype == _BF16 else array for name, array in inputs.items()}
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs, options), strict=True))
        except Exception as error:  # as above
            if self.runs and run and run.overdue:
                raise RuntimeFailure(
                    f"{self.graph.file}: the run was ended after {self.runs.longest_s:.3g} s, which is the limit"
                ) from error
            kind = OutOfMemory if _is_of_memory(error) else RuntimeFailure
            raise kind(f"{self.graph.file}: ONNX Runtime failed ({error})") from error
        finally:
            if self.runs and run:
                self.runs.end(run)

    def check_shapes(self, outputs: Arrays) -> None:
        """See that outputs have the shapes that the graph declares, which ONNX Runtime only warns of.

        Raises:
            BundleRefused: one has not.
        """
        for tensor in self.graph.outputs:
            shape = outputs[tensor.name].shape
            if not tensor.accepts(shape):
                raise BundleRefused(
                    self.graph.file, f"output {tensor.name!r} has the shape {shape}, and is declared as {tensor.shape}"
                )


def _is_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY)


def _value(array: NDArray[Any]) -> ort.OrtValue:
    """Wrap an array for ONNX Runtime, which takes none of bfloat16, but a value that lies over the same bytes."""
    array = np.asarray(array, order="C")
    if array.dtype == _BF16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: ort.OrtValue) -> NDArray[Any]:
    """Unwrap what ONNX Runtime answered; of bfloat16 it makes no array, so the bytes are copied."""
    if value.data_type() != "tensor(bfloat16)":
        array: NDArray[Any] = value.numpy()
        return array
    if value.device_name() != "cpu":
        raise RuntimeError(f"a BF16 output lies on {value.device_name()}, from where it can't be read")
    shape = value.shape()
    content = ctypes.string_at(value.data_ptr(), math.prod(shape) * _BF16.itemsize)
    return np.frombuffer(content, _BF16).reshape(shape)


def _create(
    file: str, model: bytes, options: ort.SessionOptions, providers: Sequence[str], *, insist: bool
) -> ort.InferenceSession:
    """Make a session that has the first of `providers` or, unless we insist, the next one that can be had."""
    try:
        return _create_with_first(file, model, options, providers)
    except InferdError as error:
        if insist or len(providers) == 1:
            raise
        logger.warning("%s runs without %s: %s", file, providers[0], error)
        return _create(file, model, options, providers[1:], insist=False)


def _create_with_first(
    file: str, model: bytes, options: ort.SessionOptions, providers: Sequence[str]
) -> ort.InferenceSession:
    settings = [{"use_tf32": "0"} if name == CUDA else {} for name in providers]
    try:
        # ONNX Runtime's own fallback would print to standard output and turn a failing GPU into a silent CPU.
        session = ort.InferenceSession(model, options, list(providers), settings, enable_fallback=False)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes, some of them bare RuntimeError
        raise BundleRefused(file, f"ONNX Runtime can't load it ({error})") from error
    if session.get_providers()[0] != providers[0]:
        raise NotReady(f"{file}: {providers[0]} was asked for, but ONNX Runtime gave {session.get_providers()[0]}")
    return session


def _compare(file: str, kind: str, declared: Sequence[Tensor], found: Sequence[Any]) -> None:
    """Refuse a graph whose tensors aren't those of the manifest. A symbolic axis fits any symbolic axis."""
    if [tensor.name for tensor in declared] != [tensor.name for tensor in found]:
        raise BundleRefused(
            file,
            f"has the {kind}s {[tensor.name for tensor in found]}, "
            f"the manifest says {[tensor.name for tensor in declared]}",
        )
    for tensor, actual in zip(declared, found, strict=True):
        sizes = tuple(size if isinstance(size, int) else "*" for size in actual.shape)
        if tensor.shape is None:
            expected = sizes
        else:
            expected = tuple(size if isinstance(size, int) else "*" for size in tensor.shape)
        datatype = DATATYPES.get(actual.type, actual.type)
        if (datatype, sizes) != (tensor.datatype, expected):
            raise BundleRefused(
                file, f"{kind} {tensor.name!r} is {datatype} {sizes}, the manifest says {tensor.datatype} {expected}"
            )
