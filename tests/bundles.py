"""Small bundles that are made in the test, and small ways to damage them.

The tiny model is a real graph (Flatten and Gemm) whose answers can be told without it: a bright picture is "bright",
a dark one "dark", and one whose left half is brighter is "left", all the more the larger the difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.manifest import MANIFEST_FILE, Manifest

Array = NDArray[Any]

WIDTH: Final = 6
HEIGHT: Final = 4
LABELS: Final = ("dark", "bright", "left")
FILES: Final = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
TOLERANCE: Final = 1e-4


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


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the tiny model multiplies brightness 0..1 by, (pixels, labels), and what it adds."""
    bright = np.full((HEIGHT, WIDTH), 8 / (HEIGHT * WIDTH), np.float32)
    left = np.where(np.arange(WIDTH) < WIDTH // 2, bright, -bright)
    return np.stack([-bright.ravel(), bright.ravel(), left.ravel()], 1), np.array([4, -4, 0], np.float32)


def logits_of(inputs: Array) -> Array:
    """What the tiny model answers, computed without it; `inputs` are (rows, 1, HEIGHT, WIDTH)."""
    factors, offsets = weights()
    answers: Array = inputs.reshape(len(inputs), -1).astype(np.float64) @ factors + offsets
    return answers


def tiny_graph() -> onnx.ModelProto:
    """Make the tiny model."""
    factors, offsets = weights()
    return model_of(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "factors", "offsets"], ["logits"]),
        ],
        {"factors": factors, "offsets": offsets},
    )


def slow_graph(steps: int = 200) -> onnx.ModelProto:
    """Make the tiny model with much idle work in it: 200 steps take about 8 ms."""
    factors, offsets = weights()
    idle, constants = idle_work("answers", "logits", steps)
    return model_of(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "factors", "offsets"], ["answers"]),
            *idle,
        ],
        {"factors": factors, "offsets": offsets, **constants},
    )


def idle_work(before: str, after: str, steps: int) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Make nodes, and their constants, that spend so many steps of time between `before` and an equal `after`."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("MatMul", ["before_step", "work"], ["after_step"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before_step", TensorProto.FLOAT, [128, 128]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after_step", TensorProto.FLOAT, [128, 128]),
        ],
    )
    nodes = [
        # What is worked on is 0 times the input: nothing that could be folded into a constant.
        helper.make_node("ReduceSum", [before], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "nothing"], ["zero"]),
        helper.make_node("Add", ["work", "zero"], ["begun"]),
        helper.make_node("Loop", ["steps", "", "begun"], ["done"], body=body),
        helper.make_node("ReduceSum", ["done"], ["worked"], keepdims=0),
        helper.make_node("Mul", ["worked", "nothing"], ["still_zero"]),
        helper.make_node("Add", [before, "still_zero"], [after]),
    ]
    constants = {
        "work": np.eye(128, dtype=np.float32),
        "nothing": np.array(0, np.float32),
        "steps": np.array(steps, np.int64),
    }
    return nodes, constants


def model_of(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array]) -> onnx.ModelProto:
    """Make a model of `nodes`, from "image" to "logits" in the shapes of the tiny model."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """Make a model of any tensors; `tensor` makes those."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        list(inputs),
        list(outputs),
        initializer=[numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def tensor(name: str, datatype: str, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    """Describe an input or output: datatype as the protocol calls it, None for an axis without a name or no rank."""
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], shape)


def identity_graph(datatype: str = "FP32", shape: Sequence[int | str | None] | None = ("batch", 3)) -> onnx.ModelProto:
    """Make a model whose output `y` is its input `x`."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return graph_of(nodes, [tensor("x", datatype, shape)], [tensor("y", datatype, shape)])


def identities_graph(tensors: Mapping[str, tuple[str, Sequence[int | str | None] | None]]) -> onnx.ModelProto:
    """Make a model with an output `out_<name>` for each input `<name>`, by name: datatype and shape."""
    return graph_of(
        [helper.make_node("Identity", [name], [f"out_{name}"]) for name in tensors],
        [tensor(name, *kind) for name, kind in tensors.items()],
        [tensor(f"out_{name}", *kind) for name, kind in tensors.items()],
    )


def sum_graph() -> onnx.ModelProto:
    """Make a model of two inputs and two outputs: a + b, both (batch, 3), and the sum of each row of a."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("ReduceSum", ["a", "axes"], ["total"], keepdims=0),
    ]
    return graph_of(
        nodes,
        [tensor("a", "FP32", ["batch", 3]), tensor("b", "FP32", ["batch", 3])],
        [tensor("sum", "FP32", ["batch", 3]), tensor("total", "FP32", ["batch"])],
        {"axes": np.array([1], np.int64)},
    )


def lengths_graph() -> onnx.ModelProto:
    """Make a model with a symbolic inner axis: of x (batch, length) comes y = 2 x, and the mean of each row."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
    ]
    return graph_of(
        nodes,
        [tensor("x", "FP32", ["batch", "length"])],
        [tensor("y", "FP32", ["batch", "length"]), tensor("mean", "FP32", ["batch"])],
    )


def entangled_graph() -> onnx.ModelProto:
    """Make a model that looks as if it had a batch axis, but takes the mean of all rows from each."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return graph_of(nodes, [tensor("x", "FP32", ["batch", 3])], [tensor("y", "FP32", ["batch", 3])])


def lookup_graph(low: int = 0) -> onnx.ModelProto:
    """Make a model that looks rows of a small table up; made-up indices lie outside if `low` is over 0."""
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [
        helper.make_node("Sub", ["index", "low"], ["moved"]),
        helper.make_node("Gather", ["table", "moved"], ["row"]),
    ]
    return graph_of(
        nodes,
        [tensor("index", "INT64", ["batch"])],
        [tensor("row", "FP32", ["batch", 3])],
        {"table": table, "low": np.array(low, np.int64)},
    )


def make_bare(models: Path, name: str = "bare", version: int = 1, graph: onnx.ModelProto | bytes | None = None) -> Path:
    """Write a model that is nothing but its graph (an identity of rows of three, unless said otherwise).

    Returns:
        The folder of the version.
    """
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    content = graph if isinstance(graph, bytes) else (graph or identity_graph()).SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    return folder


def golden_inputs(rows: int = 5) -> NDArray[np.float32]:
    """Make pictures of nothing in particular, the same in every call."""
    return np.random.default_rng(7).random((rows, 1, HEIGHT, WIDTH), dtype=np.float32)


def manifest_of(**changes: object) -> dict[str, Any]:
    """Make a manifest as JSON has it, without entries of files; `changes` take the place of its top-level keys."""
    tensors = {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": ["batch", 1, HEIGHT, WIDTH]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": ["batch", len(LABELS)]}],
    }
    figure = {"value": 0.5, "split": "test", "n": 10, "variant": "fp32", "seeds": [1], "hardware": "none"}
    source = {"name": "nothing", "licence": "CC0-1.0", "url": "https://example.org", "sha256": {}}
    return {
        "schema_version": 1,
        "title": "A tiny model",
        "description": "Tells dark from bright.",
        "task": "image-classification",
        "parameters": WIDTH * HEIGHT * len(LABELS) + len(LABELS),
        "files": {},
        "variants": {
            name: {
                "graphs": {"model": {"file": file, **tensors}},
                "tolerance": {"framework": TOLERANCE, "runtime": TOLERANCE},
            }
            for name, file in FILES.items()
        },
        "default_variant": "fp32",
        "golden": "golden.npz",
        "preprocessing": {
            "kind": "image",
            "input": "image",
            "width": WIDTH,
            "height": HEIGHT,
            "channels": 1,
            "fit": "stretch",
            "mean": [0.0],
            "std": [1.0],
        },
        "postprocessing": {
            "kind": "classification",
            "output": "logits",
            "activation": "softmax",
            "labels": "labels.json",
        },
        "batching": {"max_batch_size": 8},
        "quality": [{"metric": "accuracy", **figure}],
        "provenance": {
            "created": "2026-01-01",
            "commit": "0" * 40,
            "seed": 1,
            "config": {},
            "data": source,
            "tools": {},
            "opset": 17,
            "training_hardware": "none",
            "training_seconds": 0.0,
        },
        **changes,
    }


def make_bundle(
    models: Path,
    name: str = "tiny",
    version: int = 1,
    *,
    graph: onnx.ModelProto | None = None,
    labels: Sequence[str] = LABELS,
    **changes: object,
) -> Path:
    """Write a small valid bundle of an image classifier.

    Args:
        models: the folder of all models.
        name: of the model.
        version: of the model.
        graph: of both variants; the tiny model unless said otherwise.
        labels: what labels.json lists.
        changes: top-level keys of the manifest that differ from `manifest_of()`.

    Returns:
        The bundle's folder.
    """
    bundle = models / name / str(version)
    bundle.mkdir(parents=True)
    content = (graph or tiny_graph()).SerializeToString()
    for file in FILES.values():
        (bundle / file).write_bytes(content)
    (bundle / "labels.json").write_text(json.dumps(list(labels)), encoding="utf-8")
    (bundle / "README.md").write_text("# A tiny model\n", encoding="utf-8")
    inputs = golden_inputs()
    outputs = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(["logits"], {"image": inputs})[0]
    write_golden(
        bundle,
        {
            "inputs/model/image": inputs,
            "framework/model/logits": outputs,
            **{f"runtime/{variant}/model/logits": outputs for variant in FILES},
        },
    )
    write_manifest(bundle, manifest_of(**changes))
    sign(bundle)
    Manifest.model_validate(manifest_in(bundle))
    return bundle


def write_golden(bundle: Path, arrays: Mapping[str, Array]) -> None:
    """Write the golden file anew; it is not signed."""
    np.savez_compressed(bundle / "golden.npz", allow_pickle=True, **arrays)


def read_golden(bundle: Path) -> dict[str, Array]:
    """Read the golden file."""
    with np.load(bundle / "golden.npz") as arrays:
        return dict(arrays)


def manifest_in(bundle: Path) -> dict[str, Any]:
    """Read the manifest as JSON has it, valid or not."""
    content: dict[str, Any] = json.loads((bundle / MANIFEST_FILE).read_bytes())
    return content


def write_manifest(bundle: Path, content: object) -> None:
    """Write the manifest, valid or not."""
    (bundle / MANIFEST_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")


def edit(bundle: Path, *keys: str | int, to: object) -> None:
    """Set what lies at `keys` in the manifest, valid or not."""
    content = manifest_in(bundle)
    write_manifest(bundle, with_edit(content, *keys, to=to))


def with_edit(content: dict[str, Any], *keys: str | int, to: object) -> dict[str, Any]:
    """Return a copy of a manifest with `to` at `keys`; to=... (Ellipsis) takes the key away."""
    copy: Any = json.loads(json.dumps(content))
    inner = copy
    for key in keys[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    assert isinstance(copy, dict)
    return copy


def sign(bundle: Path) -> None:
    """Write size and sha256 of every file, as they are now, into the manifest."""
    edit(
        bundle,
        "files",
        to={
            path.relative_to(bundle).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in sorted(bundle.rglob("*"))
            if path.is_file() and path.name != MANIFEST_FILE
        },
    )


def flip_a_byte(path: Path, position: int | None = None) -> None:
    """Change one bit of a file, in the middle unless said otherwise."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut the second half of a file off."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
