"""One ONNX graph in ONNX Runtime, checked against what the manifest says of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import BundleRefused, InferdError, NotReady, RuntimeFailure
from service.manifest import Graph, Tensor
from service.runtime.devices import CUDA
from service.runtime.onnx_file import read_onnx
from service.tensors import Arrays

logger = logging.getLogger(__name__)

_ORT_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}


class OnnxSession:
    """A graph that can be run from any thread.

    On a GPU TensorFloat-32 is off: it rounds what the golden replay compares.

    Args:
        folder: the bundle's folder.
        graph: what the manifest says of the graph.
        providers: execution providers, the preferred one first.
        threads: of one run.
        insist: whether not getting the preferred provider is an error; else the next one is taken, and logged.

    Raises:
        BundleRefused: the file is no ONNX graph that may be loaded, or has other tensors than the manifest says.
        NotReady: ONNX Runtime can't give the preferred provider.
    """

    def __init__(
        self, folder: Path, graph: Graph, *, providers: Sequence[str], threads: int, insist: bool = True
    ) -> None:
        model = read_onnx(folder, graph.file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads take the core that the event loop and the other models need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _create(graph.file, model, options, providers, insist=insist)
        self.provider: str = self._session.get_providers()[0]
        self.graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        try:
            _compare(graph.file, "input", graph.inputs, self._session.get_inputs())
            _compare(graph.file, "output", graph.outputs, self._session.get_outputs())
        except UnicodeDecodeError as error:
            raise BundleRefused(graph.file, f"has a name that is no text ({error})") from error

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: an array for each input of the graph, of its dtype and shape, batch axis first.

        Returns:
            An array for each output.

        Raises:
            RuntimeFailure: ONNX Runtime failed.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))
        except Exception as error:  # as above
            raise RuntimeFailure(f"{self.graph.file}: ONNX Runtime failed ({error})") from error


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
        expected = tuple(size if isinstance(size, int) else "*" for size in tensor.shape)
        datatype = _ORT_DATATYPES.get(actual.type, actual.type)
        if (datatype, sizes) != (tensor.datatype, expected):
            raise BundleRefused(
                file, f"{kind} {tensor.name!r} is {datatype} {sizes}, the manifest says {tensor.datatype} {expected}"
            )
