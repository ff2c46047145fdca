"""Bare models that the clients call: an ONNX file each, written without PyTorch and without inferd."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGES: Final = "fashion-classifier"
SERVE_PYTHON: Final = ROOT / ".venv" / "serve" / "bin" / "python"

ONNX_TYPES: Final = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}

Shape = Sequence[int | str]


def write_models(folder: Path) -> None:
    """Write every model that a server of these tests starts with."""
    for datatype in ONNX_TYPES:
        write(folder, f"identity-{datatype.lower()}", identity(datatype, ["batch", "width"]))
    write(folder, "fixed", identity("FP32", [2, 3]))
    write(folder, "scalar", identity("FP32", []))
    write(folder, "sums", sums())
    write(folder, "slow", slow())
    write(folder, "grow", grow())
    for version in (1, 2, 10):
        write(folder, "swap", adds(version), version)
    shutil.copytree(ROOT / "models" / IMAGES, folder / IMAGES)


def write(folder: Path, name: str, graph: ModelProto | bytes, version: int = 1) -> None:
    """Write one version of one model."""
    place = folder / name / str(version)
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())


def write_text_model(folder: Path, name: str, *, idle_steps: int = 0) -> None:
    """Write a bundle that continues texts, in the server's environment: what makes it knows the contract."""
    code = (
        "import sys; from pathlib import Path; from tests.text_bundles import make_text_bundle; "
        "make_text_bundle(Path(sys.argv[1]), sys.argv[2], idle_steps=int(sys.argv[3]))"
    )
    subprocess.run([SERVE_PYTHON, "-c", code, folder, name, str(idle_steps)], cwd=ROOT, check=True)


def write_translation_model(folder: Path, name: str, *, source: str = "en", target: str = "de") -> None:
    """Write a bundle that translates word by word, likewise."""
    code = (
        "import sys; from pathlib import Path; from tests.translation_bundles import make_translation_bundle; "
        "make_translation_bundle(Path(sys.argv[1]), sys.argv[2], source=sys.argv[3], target=sys.argv[4])"
    )
    subprocess.run([SERVE_PYTHON, "-c", code, folder, name, source, target], cwd=ROOT, check=True)


def write_image_model(folder: Path, name: str, *, channels: int = 1) -> None:
    """Write a bundle that draws pictures, likewise."""
    code = (
        "import sys; from pathlib import Path; from tests.image_bundles import make_image_bundle; "
        "make_image_bundle(Path(sys.argv[1]), sys.argv[2], channels=int(sys.argv[3]))"
    )
    subprocess.run([SERVE_PYTHON, "-c", code, folder, name, str(channels)], cwd=ROOT, check=True)


def write_classifier(folder: Path, name: str) -> None:
    """Write a bundle that tells those pictures apart, likewise."""
    code = (
        "import sys; from pathlib import Path; from tests.bundles import make_bundle; "
        "make_bundle(Path(sys.argv[1]), sys.argv[2])"
    )
    subprocess.run([SERVE_PYTHON, "-c", code, folder, name], cwd=ROOT, check=True)


def identity(datatype: str, shape: Shape) -> ModelProto:
    """Make a model whose output `y` is its input `x`."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [tensor("x", datatype, shape)], [tensor("y", datatype, shape)])


def sums() -> ModelProto:
    """Make a model of two inputs and two outputs: a + b, both (batch, 3), and the sum of each row of a."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("ReduceSum", ["a", "axes"], ["total"], keepdims=0),
    ]
    return model(
        nodes,
        [tensor("a", "FP32", ["batch", 3]), tensor("b", "FP32", ["batch", 3])],
        [tensor("sum", "FP32", ["batch", 3]), tensor("total", "FP32", ["batch"])],
        {"axes": np.array([1], np.int64)},
    )


def grow(times: int = 32) -> ModelProto:
    """Make a model that answers each row so many times."""
    return model(
        [helper.make_node("Tile", ["x", "times"], ["y"])],
        [tensor("x", "FP32", ["batch", "width"])],
        [tensor("y", "FP32", ["batch", "grown"])],
        {"times": np.array([1, times], np.int64)},
    )


def adds(number: int) -> ModelProto:
    """Make a model that adds `number`."""
    return model(
        [helper.make_node("Add", ["x", "number"], ["y"])],
        [tensor("x", "FP32", ["batch", 1])],
        [tensor("y", "FP32", ["batch", 1])],
        {"number": np.array([number], np.float32)},
    )


def slow(size: int = 256) -> ModelProto:
    """Make a model that works as long as its input says: as many matrix products as its largest number, its answer."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("MatMul", ["before", "work"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["steps"], keepdims=0),
        helper.make_node("Loop", ["steps", "", "work"], ["worked"], body=body),
        helper.make_node("ReduceMax", ["worked"], ["highest"], keepdims=0),
        helper.make_node("Cast", ["highest"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "nothing"], ["zero"]),
        helper.make_node("Add", ["steps", "zero"], ["y"]),
    ]
    constants: dict[str, NDArray[Any]] = {"work": np.eye(size, dtype=np.float32), "nothing": np.array(0, np.int64)}
    return model(nodes, [tensor("x", "INT64", ["width"])], [tensor("y", "INT64", [])], constants)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> ModelProto:
    """Make a model of these nodes and tensors."""
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def tensor(name: str, datatype: str, shape: Shape) -> ValueInfoProto:
    """Describe an input or output, its datatype as the protocol calls it."""
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], shape)
