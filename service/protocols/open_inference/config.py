"""The server's extensions, and a model as Triton's ModelConfig in the names and values of its JSON (and Protobuf)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from service.batching.policy import DEFAULT_PRIORITY_LEVEL, PRIORITY_LEVELS
from service.manifest import Tensor
from service.protocols.open_inference.tensors import shape_of
from service.repository.model import Model

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "parameters",
    "statistics",
)
"""What there is beside the protocol itself, in Triton's names."""


def data_type(datatype: str) -> str:
    """The name that ModelConfig has for a datatype."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def model_config(model: Model, versions: Sequence[int]) -> dict[str, Any]:
    """Describe how `model` is served.

    Args:
        model: one version.
        versions: of the model, all that serve.
    """
    graph = model.graph
    on_gpu = model.bundle.session.provider != "CPUExecutionProvider"
    config: dict[str, Any] = {
        "name": model.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"specific": {"versions": list(versions)}},
        "max_batch_size": model.max_batch_rows if model.batched else 0,
        "input": [_describe(tensor, batched=model.batched) for tensor in graph.inputs],
        "output": [_describe(tensor, batched=model.batched) for tensor in graph.outputs],
        "instance_group": [{"name": f"{model.name}_0", "kind": "KIND_GPU" if on_gpu else "KIND_CPU", "count": 1}],
        "default_model_filename": graph.file,
    }
    if model.batched:
        preferred = model.preferred_batch_rows
        config["dynamic_batching"] = {
            "preferred_batch_size": [] if preferred is None else [preferred],
            "max_queue_delay_microseconds": 0,  # the batch forms while the one before runs, and is never held back
            "priority_levels": PRIORITY_LEVELS,
            "default_priority_level": DEFAULT_PRIORITY_LEVEL,
        }
    bundle = model.bundle
    if bundle.profiles:
        # Triton has no place for it but this one, which is for whatever a backend has to say.
        said = {f"latency_profile.{role}": json.dumps(points) for role, points in bundle.profiles.items()}
        said["threads"] = str(bundle.session.threads)
        said["threads_alone"] = str((bundle.wide or bundle.session).threads)
        config["parameters"] = {name: {"string_value": value} for name, value in said.items()}
    return config


def _describe(tensor: Tensor, *, batched: bool) -> dict[str, Any]:
    dims = shape_of(tensor)[1 if batched else 0 :]
    described: dict[str, Any] = {"name": tensor.name, "data_type": data_type(tensor.datatype), "dims": dims or [1]}
    if not dims:  # ModelConfig has no empty dims
        described["reshape"] = {"shape": []}
    return described
