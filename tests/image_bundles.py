"""A small bundle that draws pictures, made in the test.

Its classes are those of the tiny classifier in `tests.bundles`, which tells its pictures apart: dark ones, bright ones,
and such whose left half is the brighter one. A latent makes each a little different. `drawn` says it all too, in NumPy.

Latents and conditions are brought to whole 64ths, as the weights are, so that sums are exact in float32: no byte
depends on their order, and so none on the number of other rows.

What it reads of a text are the words in `WORDS`, by their n-grams, so that parts of them count too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.manifest import Manifest
from service.ngrams import PAD, ngram_ids
from tests.bundles import (
    HEIGHT,
    LABELS,
    WIDTH,
    graph_of,
    idle_work,
    manifest_in,
    manifest_of,
    sign,
    tensor,
    write_golden,
    write_manifest,
)

LATENT: Final = 8
"""Numbers of a latent."""
BUCKETS: Final = 8192
SHORTEST, LONGEST, MOST = 3, 5, 256
THRESHOLD: Final = 0.5
WORDS: Final = {"dark": ("dark", "night", "black"), "bright": ("bright", "day", "white"), "left": ("left", "west")}
"""What is read in texts, by the class that it means."""
TOLERANCE: Final = 1e-4

_STEPS: Final = 64.0
_DOUBT: Final = 2.0
"""How much no class at all counts; each n-gram of a word counts 1."""

Floats = NDArray[np.float32]


def weights(channels: int = 1, seed: int = 3) -> tuple[Floats, Floats]:
    """What the generator multiplies latents by, (LATENT, numbers of a picture), and conditions, (classes, as many).

    The numbers of a picture are in the order channel, row, column.
    """
    draw = np.random.default_rng(seed)
    of_latents = draw.integers(-8, 9, (LATENT, channels * HEIGHT * WIDTH)) / _STEPS
    bright = np.full((channels, HEIGHT, WIDTH), 0.5)
    left = np.where(np.arange(WIDTH) < WIDTH // 2, bright, -bright)
    of_classes = np.stack([-bright, bright, left]).reshape(len(LABELS), -1)
    return of_latents.astype(np.float32), of_classes.astype(np.float32)


def drawn(
    latents: NDArray[Any], conditions: NDArray[Any] | None = None, *, channels: int = 1, seed: int = 3
) -> NDArray[np.uint8]:
    """What the generator answers, computed without it.

    Args:
        latents: (N, LATENT).
        conditions: (N, classes); None = of a model without classes.
        channels: of a picture.
        seed: of its weights.

    Returns:
        Bytes (N, HEIGHT, WIDTH, channels).
    """
    of_latents, of_classes = (one.astype(np.float64) for one in weights(channels, seed))
    values = np.round(np.asarray(latents, np.float64) * _STEPS) / _STEPS @ of_latents
    if conditions is not None:
        values += np.round(np.asarray(conditions, np.float64) * _STEPS) / _STEPS @ of_classes
    levels = np.round((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    return levels.reshape(-1, channels, HEIGHT, WIDTH).transpose(0, 2, 3, 1)


def one_hot(*labels: str) -> Floats:
    """The conditions of classes, (labels, classes)."""
    return np.eye(len(LABELS), dtype=np.float32)[[LABELS.index(label) for label in labels]]


def table() -> Floats:
    """How much each n-gram counts for each class, and for none: (BUCKETS, classes + 1)."""
    counts = np.zeros((BUCKETS, len(LABELS) + 1), np.float32)
    for number, label in enumerate(LABELS):
        for word in WORDS[label]:
            counts[numbers_of(word), number] = 1
    return counts


def meant_by(text: str) -> tuple[str, float]:
    """The likeliest class of a text, and how surely it means any, computed without the graph."""
    logits = table()[numbers_of(text)].astype(np.float64).sum(0)
    logits[-1] += _DOUBT
    shares = np.exp(logits - logits.max())
    return LABELS[int(shares[:-1].argmax())], float(1 - shares[-1] / shares.sum())


def numbers_of(text: str) -> list[int]:
    """The numbers of a text's n-grams."""
    return ngram_ids(text, buckets=BUCKETS, shortest=SHORTEST, longest=LONGEST, most=MOST)


def padded(texts: Sequence[str]) -> NDArray[np.int64]:
    """The text encoder's input for some texts, as long as the longest."""
    rows = [numbers_of(text) for text in texts]
    tokens = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, numbers in zip(tokens, rows, strict=True):
        row[: len(numbers)] = numbers
    return tokens


def generator_graph(*, classes: bool = True, channels: int = 1, seed: int = 3, idle_steps: int = 0) -> onnx.ModelProto:
    """Make the generator; `idle_steps` of work are done for nothing in each run, to make it slow."""
    of_latents, of_classes = weights(channels, seed)
    constants: dict[str, NDArray[Any]] = {
        "of_latents": of_latents,
        "steps_of_a_number": np.array(_STEPS, np.float32),
        "least": np.array(-1, np.float32),
        "most": np.array(1, np.float32),
        "half": np.array(127.5, np.float32),
        "black": np.array(0, np.float32),
        "white": np.array(255, np.float32),
        "shape": np.array([-1, channels, HEIGHT, WIDTH], np.int64),
    }
    nodes = [
        *_rounded("latent", "coarse_latent"),
        helper.make_node("MatMul", ["coarse_latent", "of_latents"], ["of_latent"]),
    ]
    values = "of_latent"
    if classes:
        constants["of_classes"] = of_classes
        nodes += [
            *_rounded("condition", "coarse_condition"),
            helper.make_node("MatMul", ["coarse_condition", "of_classes"], ["of_condition"]),
            helper.make_node("Add", ["of_latent", "of_condition"], ["both"]),
        ]
        values = "both"
    if idle_steps:
        idle, idle_constants = idle_work(values, "values", idle_steps)
        nodes += idle
        constants |= idle_constants
        values = "values"
    nodes += [
        helper.make_node("Clip", [values, "least", "most"], ["clipped"]),
        helper.make_node("Add", ["clipped", "most"], ["raised"]),
        helper.make_node("Mul", ["raised", "half"], ["levels"]),
        helper.make_node("Round", ["levels"], ["whole"]),
        helper.make_node("Clip", ["whole", "black", "white"], ["bounded"]),
        helper.make_node("Cast", ["bounded"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["bytes", "shape"], ["channels_first"]),
        helper.make_node("Transpose", ["channels_first"], ["image"], perm=[0, 2, 3, 1]),
    ]
    return _model(nodes, generator_entry(classes=classes, channels=channels), constants)


def text_graph() -> onnx.ModelProto:
    """Make the text encoder."""
    none = len(LABELS)
    doubt = np.zeros(none + 1, np.float32)
    doubt[none] = _DOUBT
    constants: dict[str, NDArray[Any]] = {
        "table": table(),
        "doubt": doubt,
        "second": np.array([1], np.int64),
        "classes_begin": np.array([0], np.int64),
        "classes_end": np.array([none], np.int64),
        "none": np.array(none, np.int64),
        "one": np.array(1, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["found"]),
        helper.make_node("ReduceSum", ["found", "second"], ["counted"], keepdims=0),
        helper.make_node("Add", ["counted", "doubt"], ["logits"]),
        helper.make_node("Slice", ["logits", "classes_begin", "classes_end", "second"], ["of_classes"]),
        helper.make_node("Softmax", ["of_classes"], ["conditions"], axis=1),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
        helper.make_node("Gather", ["shares", "none"], ["of_none"], axis=1),
        helper.make_node("Sub", ["one", "of_none"], ["meant"]),
    ]
    return _model(nodes, text_entry(), constants)


def generator_entry(*, classes: bool = True, channels: int = 1) -> dict[str, Any]:
    """The generator as a manifest describes it."""
    condition = {"name": "condition", "datatype": "FP32", "shape": ["batch", len(LABELS)]}
    return {
        "file": "model.onnx",
        "inputs": [
            {"name": "latent", "datatype": "FP32", "shape": ["batch", LATENT]},
            *([condition] if classes else []),
        ],
        "outputs": [{"name": "image", "datatype": "UINT8", "shape": ["batch", HEIGHT, WIDTH, channels]}],
    }


def text_entry() -> dict[str, Any]:
    """The text encoder as a manifest describes it."""
    return {
        "file": "text.onnx",
        "inputs": [{"name": "tokens", "datatype": "INT64", "shape": ["batch", "length"]}],
        "outputs": [
            {"name": "conditions", "datatype": "FP32", "shape": ["batch", len(LABELS)]},
            {"name": "meant", "datatype": "FP32", "shape": ["batch"]},
        ],
    }


def make_image_bundle(
    models: Path,
    name: str = "tiny-painter",
    version: int = 1,
    *,
    texts: bool = True,
    classes: bool = True,
    channels: int = 1,
    seed: int = 3,
    idle_steps: int = 0,
    truncation: float = 1.0,
    **changes: object,
) -> Path:
    """Write a small valid bundle of a model that draws pictures.

    Args:
        models: the folder of all models.
        name: of the model.
        version: of the model.
        texts: whether it reads texts; else classes are said by their labels.
        classes: whether it has any.
        channels: of a picture, 1 or 3.
        seed: of its weights.
        idle_steps: see `generator_graph`.
        truncation: what its manifest says.
        changes: top-level keys of the manifest that differ.

    Returns:
        The bundle's folder.
    """
    texts = texts and classes
    bundle = models / name / str(version)
    bundle.mkdir(parents=True)
    entries = {"generator": generator_entry(classes=classes, channels=channels)}
    graphs = {"generator": generator_graph(classes=classes, channels=channels, seed=seed, idle_steps=idle_steps)}
    if texts:
        entries = {"text": text_entry(), **entries}
        graphs = {"text": text_graph(), **graphs}
    for role, graph in graphs.items():
        (bundle / entries[role]["file"]).write_bytes(graph.SerializeToString())
    if classes:
        (bundle / "labels.json").write_text(json.dumps(list(LABELS)), encoding="utf-8")
    (bundle / "README.md").write_text("# A tiny model\n", encoding="utf-8")
    write_golden(bundle, _golden_of({role: graph.SerializeToString() for role, graph in graphs.items()}))
    content = manifest_of(
        **{
            "schema_version": 5,
            "title": "A tiny painter",
            "description": "Draws dark and bright pictures.",
            "task": "text-to-image" if classes else "unconditional-image-generation",
            "parameters": sum(array.size for array in weights(channels)),
            "variants": {
                "fp32": {"graphs": entries, "tolerance": {"framework": TOLERANCE, "runtime": TOLERANCE}},
            },
            "preprocessing": {
                "kind": "ngrams",
                "input": "tokens",
                "buckets": BUCKETS,
                "shortest": SHORTEST,
                "longest": LONGEST,
                "most": MOST,
                "conditions": "conditions",
                "meant": "meant",
                "threshold": THRESHOLD,
            }
            if texts
            else None,
            "postprocessing": {
                "kind": "images",
                "latent": "latent",
                "output": "image",
                "truncation": truncation,
                **({"condition": "condition", "labels": "labels.json"} if classes else {}),
            },
            "batching": {"max_batch_size": 64},
            **changes,
        }
    )
    write_manifest(bundle, content)
    sign(bundle)
    Manifest.model_validate(manifest_in(bundle))
    return bundle


def golden_inputs() -> dict[str, dict[str, NDArray[Any]]]:
    """What each graph is asked: latents drawn at random with every class, and a text of each."""
    draw = np.random.default_rng(7)
    latents = draw.standard_normal((5, LATENT), np.float32)
    conditions = np.eye(len(LABELS), dtype=np.float32)[np.arange(5) % len(LABELS)]
    words = [words[0] for words in WORDS.values()]
    return {
        "generator": {"latent": latents, "condition": conditions},
        "text": {"tokens": padded([*words, f"a {words[0]} cat", "nothing of it"])},
    }


def _golden_of(graphs: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for role, graph in graphs.items():
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        taken = {one.name for one in session.get_inputs()}
        inputs = {name: array for name, array in golden_inputs()[role].items() if name in taken}
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        arrays |= {f"inputs/{role}/{name}": array for name, array in inputs.items()}
        for kind in (f"framework/{role}", f"runtime/fp32/{role}"):
            arrays |= {f"{kind}/{name}": array for name, array in outputs.items()}
    return arrays


def _rounded(before: str, after: str) -> list[onnx.NodeProto]:
    """Nodes that bring numbers to whole 64ths."""
    return [
        helper.make_node("Mul", [before, "steps_of_a_number"], [f"{after}_times"]),
        helper.make_node("Round", [f"{after}_times"], [f"{after}_whole"]),
        helper.make_node("Div", [f"{after}_whole", "steps_of_a_number"], [after]),
    ]


def _model(
    nodes: Sequence[onnx.NodeProto], entry: Mapping[str, Any], constants: Mapping[str, NDArray[Any]]
) -> onnx.ModelProto:
    """A graph with the tensors of a manifest's entry."""
    inputs, outputs = (
        [tensor(one["name"], one["datatype"], one["shape"]) for one in entry[kind]] for kind in ("inputs", "outputs")
    )
    return graph_of(nodes, inputs, outputs, constants)
