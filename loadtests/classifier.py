"""A bundle that takes pictures, made of a residual network with random weights: what predict costs beside infer."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import resnets

from service.manifest import (
    GOLDEN_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    ClassificationPostprocessing,
    Graph,
    ImagePreprocessing,
    Manifest,
    Provenance,
    Source,
    Tensor,
    Tolerance,
    Variant,
    file_entry,
)

_GRAPH, _VARIANT = "model", "fp32"
_TOLERANCE = 1e-3
_GOLDEN_ROWS = 4


def write_classifier(folder: Path, name: str, network: str = "resnet-20") -> Path:
    """Write a classifier of pictures into a folder of models.

    Args:
        folder: of models.
        name: of the model.
        network: one of `resnets.NETWORKS`, in float32.

    Returns:
        the bundle, `folder/name/1`.
    """
    bundle = folder / name / "1"
    bundle.mkdir(parents=True)
    built = resnets.NETWORKS[network]
    model = resnets.model_of(built)
    onnx.save(model, bundle / MODEL_FILE)
    labels = [f"class {number}" for number in range(built.classes)]
    (bundle / LABELS_FILE).write_text(json.dumps(labels), encoding="utf-8")
    _write_golden(bundle, resnets.pictures(built, _GOLDEN_ROWS))
    graph = Graph(
        file=MODEL_FILE,
        inputs=(Tensor(name=resnets.INPUT, datatype="FP32", shape=_shape(built)),),
        outputs=(Tensor(name=resnets.OUTPUT, datatype="FP32", shape=("batch", built.classes)),),
    )
    tolerance = Tolerance(framework=_TOLERANCE, runtime=_TOLERANCE)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        title=f"{network}, untrained",
        description="Random weights: what it answers means nothing, how long it takes does.",
        task="image-classification",
        parameters=resnets.parameters_of(model),
        files={file: file_entry(bundle / file) for file in (MODEL_FILE, LABELS_FILE, GOLDEN_FILE)},
        variants={_VARIANT: Variant(graphs={_GRAPH: graph}, tolerance=tolerance)},
        default_variant=_VARIANT,
        preprocessing=ImagePreprocessing(
            input=resnets.INPUT,
            width=built.size,
            height=built.size,
            channels=1 if built.channels == 1 else 3,
            fit="pad",
            mean=(0.0,) * built.channels,
            std=(1.0,) * built.channels,
        ),
        postprocessing=ClassificationPostprocessing(output=resnets.OUTPUT, activation="softmax", labels=LABELS_FILE),
        quality=(),
        provenance=_provenance(model),
    )
    (bundle / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    return bundle


def _shape(network: resnets.Network) -> tuple[int | str, ...]:
    return ("batch", network.channels, network.size, network.size)


def _write_golden(bundle: Path, inputs: np.ndarray) -> None:
    """What the graph answers; no framework made it, so that is the framework's answer as well."""
    session = onnxruntime.InferenceSession(bundle / MODEL_FILE, providers=["CPUExecutionProvider"])
    (outputs,) = session.run([resnets.OUTPUT], {resnets.INPUT: inputs})
    arrays = {
        f"inputs/{_GRAPH}/{resnets.INPUT}": inputs,
        f"framework/{_GRAPH}/{resnets.OUTPUT}": outputs,
        f"runtime/{_VARIANT}/{_GRAPH}/{resnets.OUTPUT}": outputs,
    }
    np.savez_compressed(bundle / GOLDEN_FILE, allow_pickle=True, **arrays)


def _provenance(model: onnx.ModelProto) -> Provenance:
    return Provenance(
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        commit="unknown",
        seed=0,
        config={},
        data=Source(name="nothing", licence="CC0-1.0", url="", sha256={}),
        tools={"python": platform.python_version(), "onnx": onnx.__version__},
        opset=model.opset_import[0].version,
        training_hardware="none",
        training_seconds=0.0,
    )
