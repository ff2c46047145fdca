"""A small bundle that continues texts, made in the test.

Its network is a plain recurrent one with weights drawn from a seed: what it says means nothing, but is always the same,
and `Reference` says it too, in NumPy and float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.manifest import Manifest
from tests.bundles import idle_work, manifest_in, manifest_of, sign, write_golden, write_manifest

VOCABULARY: Final = ("\n", " ", *"abcdefghijklmnopqrstuvwxyz", ".", ",", "ß", "é")
HIDDEN: Final = 16
STEP: Final = {
    "token": "token",
    "logits": "logits",
    "states": [{"input": "state", "output": "next_state"}],
}
TOLERANCE: Final = 1e-4


def weights(seed: int = 3) -> dict[str, NDArray[np.float32]]:
    """The network's: state = tanh(embedding[token] + state @ recurrent), logits = state @ head."""
    draw = np.random.default_rng(seed)
    size = len(VOCABULARY)
    return {
        "embedding": draw.normal(0, 1, (size, HIDDEN)).astype(np.float32),
        "recurrent": draw.normal(0, 1.2 / np.sqrt(HIDDEN), (HIDDEN, HIDDEN)).astype(np.float32),
        "head": draw.normal(0, 1, (HIDDEN, size)).astype(np.float32),
    }


class Reference:
    """The network without ONNX Runtime: logits after each of some tokens."""

    def __init__(self, seed: int = 3) -> None:
        self._weights = {name: array.astype(np.float64) for name, array in weights(seed).items()}

    def logits(self, tokens: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """The logits (vocabulary,) of what follows each token."""
        state = np.zeros(HIDDEN)
        for token in tokens:
            state = np.tanh(self._weights["embedding"][token] + state @ self._weights["recurrent"])
            yield state @ self._weights["head"]

    def logprobs(self, tokens: Sequence[int]) -> list[NDArray[np.float64]]:
        """The log-probabilities of what follows each token."""
        return [one - one.max() - np.log(np.exp(one - one.max()).sum()) for one in self.logits(tokens)]


def encode(text: str) -> list[int]:
    """The tokens of a text."""
    return [VOCABULARY.index(character) for character in text]


def decode(tokens: Sequence[int]) -> str:
    """The text of some tokens."""
    return "".join(VOCABULARY[token] for token in tokens)


def step_graph(seed: int = 3, *, idle_steps: int = 0) -> onnx.ModelProto:
    """Make the network; `idle_steps` of work are done for nothing in each step, to make it slow."""
    nodes = [
        helper.make_node("Gather", ["embedding", "token"], ["embedded"]),
        helper.make_node("MatMul", ["state", "recurrent"], ["carried"]),
        helper.make_node("Add", ["embedded", "carried"], ["both"]),
        helper.make_node("Tanh", ["both"], ["next_state"]),
        helper.make_node("MatMul", ["next_state", "head"], ["logits"]),
    ]
    constants: dict[str, NDArray[Any]] = dict(weights(seed))
    if idle_steps:
        nodes[-1].output[0] = "answers"
        idle, idle_constants = idle_work("answers", "logits", idle_steps)
        nodes += idle
        constants |= idle_constants
    graph = helper.make_graph(
        nodes,
        "step",
        [
            helper.make_tensor_value_info("token", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", HIDDEN]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(VOCABULARY)]),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, ["batch", HIDDEN]),
        ],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def graph_entry() -> dict[str, Any]:
    """The network's graph as a manifest describes it."""
    size = len(VOCABULARY)
    return {
        "file": "step.onnx",
        "inputs": [
            {"name": "token", "datatype": "INT64", "shape": ["batch"]},
            {"name": "state", "datatype": "FP32", "shape": ["batch", HIDDEN]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": ["batch", size]},
            {"name": "next_state", "datatype": "FP32", "shape": ["batch", HIDDEN]},
        ],
        "step": STEP,
    }


def make_text_bundle(
    models: Path,
    name: str = "tiny-text",
    version: int = 1,
    *,
    seed: int = 3,
    idle_steps: int = 0,
    vocabulary: Sequence[str] = VOCABULARY,
    **changes: object,
) -> Path:
    """Write a small valid bundle of a model that continues texts.

    Args:
        models: the folder of all models.
        name: of the model.
        version: of the model.
        seed: of its weights.
        idle_steps: see `step_graph`.
        vocabulary: what vocab.json lists.
        changes: top-level keys of the manifest that differ.

    Returns:
        The bundle's folder.
    """
    bundle = models / name / str(version)
    bundle.mkdir(parents=True)
    content = step_graph(seed, idle_steps=idle_steps).SerializeToString()
    (bundle / "step.onnx").write_bytes(content)
    (bundle / "vocab.json").write_text(json.dumps(list(vocabulary)), encoding="utf-8")
    (bundle / "README.md").write_text("# A tiny model\n", encoding="utf-8")
    tokens = np.arange(len(VOCABULARY), dtype=np.int64)
    state = np.random.default_rng(7).uniform(-1, 1, (len(tokens), HIDDEN)).astype(np.float32)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits, after = session.run(["logits", "next_state"], {"token": tokens, "state": state})
    write_golden(
        bundle,
        {
            "inputs/step/token": tokens,
            "inputs/step/state": state,
            "framework/step/logits": logits,
            "framework/step/next_state": after,
            "runtime/fp32/step/logits": logits,
            "runtime/fp32/step/next_state": after,
        },
    )
    content_of_manifest = manifest_of(
        **{
            "schema_version": 3,
            "title": "A tiny writer",
            "description": "Continues texts with nonsense.",
            "task": "text-generation",
            "parameters": sum(array.size for array in weights(seed).values()),
            "variants": {
                "fp32": {
                    "graphs": {"step": graph_entry()},
                    "tolerance": {"framework": TOLERANCE, "runtime": TOLERANCE},
                }
            },
            "preprocessing": {
                "kind": "characters",
                "vocabulary": "vocab.json",
                "start": "\n",
                "replacements": {"ä": "a", "—": " ", "\t": " ", "…": "..."},
            },
            "postprocessing": None,
            "batching": {"max_batch_size": 64},
            **changes,
        }
    )
    write_manifest(bundle, content_of_manifest)
    sign(bundle)
    Manifest.model_validate(manifest_in(bundle))
    return bundle
