"""From PyTorch to ONNX, with the checks without which an export can't be trusted."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from service.manifest import Datatype, Graph, Step, Tolerance, Variant
from service.manifest import Tensor as TensorEntry

logger = logging.getLogger(__name__)

BATCH_AXIS = "batch"
OPSET = 20

_DATATYPES: Mapping[int, Datatype] = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}


def export_onnx(
    model: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Export `model` with a symbolic batch axis on every input and output.

    Args:
        model: its `forward` takes the inputs by these names, and none of another batch size than the others.
        example: inputs by name, batch axis first, of two rows or more (one row would freeze the axis at 1).
        outputs: names for what `forward` returns.
        path: of the file.
        axes: names of further symbolic axes, by input and place.

    Raises:
        ValueError: the example has one row, or the exporter froze an axis.
    """
    if any(len(tensor) < 2 for tensor in example.values()):
        raise ValueError("the example needs two rows or more: the exporter freezes an axis of size 1")
    # The first input names the batch axis. That the others' is the same one the exporter finds out for itself, and
    # warns where it is told.
    shapes: dict[str, dict[int, Any]] = {name: {0: torch.export.Dim.DYNAMIC} for name in example}
    shapes[next(iter(example))] = {0: torch.export.Dim(BATCH_AXIS)}
    for name, named in (axes or {}).items():
        shapes[name] |= {place: torch.export.Dim(axis) for place, axis in named.items()}
    torch.onnx.export(
        model.eval(),
        (),
        path,
        kwargs=dict(example),
        input_names=list(example),
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    written = onnx.load(path)
    for value in (*written.graph.input, *written.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != BATCH_AXIS:
            raise ValueError(f"the exporter froze the batch axis of {value.name!r}")
    for value in written.graph.input:
        for place, axis in (axes or {}).get(value.name, {}).items():
            if value.type.tensor_type.shape.dim[place].dim_param != axis:
                raise ValueError(f"the exporter froze axis {place} of {value.name!r}")
    _forget_the_source(written)
    onnx.save(written, path)


def _forget_the_source(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of every node: the line of code that it comes from, with this machine's paths."""
    graph = model.graph
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del one.metadata_props[:]


def tensors_of(path: Path) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
    """The inputs and outputs of an ONNX file as a manifest describes them."""
    graph = onnx.load(path).graph
    return tuple(map(_entry, graph.input)), tuple(map(_entry, graph.output))


def _entry(value: onnx.ValueInfoProto) -> TensorEntry:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorEntry(name=value.name, datatype=_DATATYPES[tensor.elem_type], shape=shape)


def graph_variants(
    bundle: Path, graph: str, files: Mapping[str, str], tolerances: Mapping[str, Tolerance], step: Step | None = None
) -> dict[str, Variant]:
    """What a manifest says of variants that have one graph each.

    Args:
        bundle: the folder.
        graph: its role.
        files: of the graph, by variant.
        tolerances: of the golden replay, by variant.
        step: what its tensors mean where it is run once a token.
    """
    by_role = {name: {graph: file} for name, file in files.items()}
    return variants_of_graphs(bundle, by_role, tolerances, {graph: step} if step else {})


def variants_of_graphs(
    bundle: Path,
    files: Mapping[str, Mapping[str, str]],
    tolerances: Mapping[str, Tolerance],
    steps: Mapping[str, Step],
) -> dict[str, Variant]:
    """What a manifest says of variants.

    Args:
        bundle: the folder.
        files: of the graphs, by variant and role.
        tolerances: of the golden replay, by variant.
        steps: what the tensors mean of graphs that are run once a token, by role.
    """
    variants = {}
    for name, graphs in files.items():
        entries = {}
        for role, file in graphs.items():
            inputs, outputs = tensors_of(bundle / file)
            entries[role] = Graph(file=file, inputs=inputs, outputs=outputs, step=steps.get(role))
        variants[name] = Variant(graphs=entries, tolerance=tolerances[name])
    return variants


def fastest(lost: Mapping[str, float], seconds: Mapping[str, float], allowed: float) -> str:
    """The variant that takes the fewest `seconds` of those that have `lost` no more than is `allowed`."""
    # 0.2 is 0.2, also in binary
    return min((name for name in seconds if round(lost[name], 9) <= allowed), key=lambda name: seconds[name])


def open_session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """A CPU session on `path`, with ONNX Runtime's own number of threads unless one is given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def largest_difference(
    model: nn.Module, session: ort.InferenceSession, inputs: Mapping[str, Tensor], batch_sizes: Iterable[int]
) -> float:
    """The largest absolute difference of any output between PyTorch and ONNX Runtime, over several batch sizes.

    Args:
        model: in PyTorch, with one output.
        session: of its export.
        inputs: rows to draw from; they are repeated where a batch is larger.
        batch_sizes: each is run once.
    """
    worst = 0.0
    for size in batch_sizes:
        batch = {name: tensor[torch.arange(size) % len(tensor)] for name, tensor in inputs.items()}
        expected = model(**batch).numpy()
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        if found.shape != expected.shape:
            raise ValueError(f"at batch size {size} ONNX Runtime gives {found.shape}, PyTorch {expected.shape}")
        worst = float(np.maximum(worst, np.abs(found - expected).max()))  # NaN where there is one; max() would lose it
    return worst


class _Calibration(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime has no types
    def __init__(self, batches: Iterator[dict[str, NDArray[Any]]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


def quantise(path: Path, quantised: Path, batches: Iterator[dict[str, NDArray[Any]]]) -> None:
    """Write a statically quantised copy (QDQ, unsigned activations, signed weights a channel) of the graph at `path`.

    Weights keep seven bits (`reduce_range`), because processors without VNNI saturate with eight and answer otherwise.

    Args:
        path: a float32 graph.
        quantised: where the copy goes.
        batches: inputs to calibrate by.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(path), str(prepared))
        quantize_static(
            str(prepared),
            str(quantised),
            _Calibration(batches),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
        )


def seconds_a_run(session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]], runs: int = 50) -> float:
    """The shortest of `runs` runs, after one to warm up: to compare variants with, in one process."""
    feed = dict(inputs)
    session.run(None, feed)
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - started)
    return best
