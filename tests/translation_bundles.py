"""A small bundle that translates word by word, made in the test.

Its encoder writes down which token stands where. Its decoder goes from place to place and writes the counterpart of
what it finds, until it finds the end. A `WILD` one does so half-heartedly: what it says means nothing, and who searches
with more beams finds something better. `Reference` says it all too, in NumPy and float64.

All that is added up are multiples of a power of two, small enough for sums to be exact in float32: they do not depend
on their order, and so no row on the number of others or on how far its context is filled up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from service.manifest import Manifest
from tests.bundles import idle_work, manifest_in, manifest_of, sign, tensor, write_golden, write_manifest

PAD, START, END = range(3)
WORDS: Final = {
    "Hello": "Hallo",
    "Yes": "Ja",
    "hello": "hallo",
    "world": "Welt",
    "the": "die",
    "cat": "Katze",
    "dog": "Hund",
    "sees": "sieht",
    "house": "Haus",
    "red": "rotes",
    "and": "und",
    "is": "ist",
    "beautiful": "schön",
    "now": "jetzt",
    "we": "wir",
    "go": "gehen",
    "home": "heim",
}
"""What the model knows; other words it spells, and leaves as they are. It translates from German in the same way."""

LETTERS: Final = tuple("▁ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzäöüß0123456789.,;:!?'\"()-&")
PIECES: Final = (
    *("<pad>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *LETTERS,
    *(f"▁{word}" for pair in WORDS.items() for word in pair),
)
"""The text of each token."""

SIZES: Final = (8, 16, 32)
PLACES: Final = SIZES[-1]
HIDDEN: Final = PLACES
WIDTH: Final = PLACES + HIDDEN
CANDIDATES: Final = 16
TOLERANCE: Final = 1e-4
STEP: Final = {
    "token": "token",
    "candidates": {"tokens": "tokens", "logprobs": "logprobs"},
    "states": [{"input": "state", "output": "next_state"}],
    "context": ["memory", "present"],
    "attention": "attention",
}

_FINE: Final = 4096.0
"""The attention's weights are whole 4096ths, and add up to 1 within 0.4 %."""
_COARSE: Final = 64.0
_NOWHERE: Final = -1e4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Character:
    """How a model translates.

    Attributes:
        meaning: how much the counterpart of what it looks at counts.
        noise: how much it counts what was written before.
        sharp: how sure it is of the place to look at.
        look: how much that place depends on what was written before.
    """

    meaning: float = 1.0
    noise: float = 0.5
    sharp: float = 16.0
    look: float = 0.0


SURE: Final = Character()
"""It translates word by word; the weights of its attention are 1 and 0."""
WILD: Final = Character(meaning=0.25, noise=2.0, sharp=2.0, look=0.25)
"""Nobody knows what it will say, or when it will end."""


@cache
def counterparts() -> NDArray[np.int64]:
    """The token that each token is translated to, which is translated back to it."""
    numbers = {piece: number for number, piece in enumerate(PIECES)}
    found = np.arange(len(PIECES))
    for one, other in WORDS.items():
        first, second = numbers[f"▁{one}"], numbers[f"▁{other}"]
        found[[first, second]] = second, first
    return found


@cache
def weights(seed: int = 3) -> dict[str, Floats]:
    """The network's, in multiples of powers of two; `codes` are the tokens as the encoder writes them down."""
    draw = np.random.default_rng(seed)
    size = len(PIECES)
    codes = np.where(np.random.default_rng(1).random((size, HIDDEN)) < 0.5, -1.0, 1.0)
    written = np.empty_like(codes)
    written[counterparts()] = codes
    forbidden = np.zeros(size)
    forbidden[[PAD, START]] = -np.inf
    arrays = {
        "codes": codes,
        "written": written.T,
        "places": np.eye(PLACES),
        "onward": np.eye(PLACES, k=1),
        "embedding": np.round(draw.normal(0, 1, (size, HIDDEN)) * _COARSE) / _COARSE,
        "recurrent": np.round(draw.normal(0, 1.2 / math.sqrt(HIDDEN), (HIDDEN, HIDDEN)) * _COARSE) / _COARSE,
        "head": np.round(draw.normal(0, 1 / math.sqrt(HIDDEN), (HIDDEN, size)) * 1024) / 1024,
        "forbidden": forbidden,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


class Reference:
    """The network without ONNX Runtime, for one sentence at a time.

    Args:
        sentence: its tokens, the end token included.
        character: how it translates.
        seed: of its weights.
    """

    def __init__(self, sentence: Sequence[int], character: Character = SURE, seed: int = 3) -> None:
        self._weights = {name: array.astype(np.float64) for name, array in weights(seed).items()}
        self._sentence = list(sentence)
        self._character = character

    def after(self, written: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What follows `written`: log-probabilities (vocabulary,), and where it looked (sentence length,)."""
        network, character = self._weights, self._character
        codes = network["codes"][self._sentence]
        cell = codes[0] / 2
        for token in (START, *written):
            cell = np.round(np.tanh(network["embedding"][token] + cell @ network["recurrent"]) * _COARSE) / _COARSE
        scores = codes @ (cell * character.look)
        if len(written) < len(scores):
            scores[len(written)] += character.sharp
        share = np.round(np.exp(scores - scores.max()) * _FINE) / _FINE
        attention = np.round(share / share.sum() * _FINE) / _FINE
        logits = attention @ codes @ network["written"] * character.meaning
        logits += cell @ network["head"] * character.noise + network["forbidden"]
        logits -= logits.max()
        return logits - np.log(np.exp(logits).sum()), attention

    def logprob(self, written: Sequence[int]) -> float:
        """The log-probability of all of `written`, and of what ends it if that is its last token."""
        return sum(float(self.after(written[:place])[0][token]) for place, token in enumerate(written))

    def likeliest(self, limit: int) -> list[int]:
        """The likeliest token after token, without the end token, up to `limit` of them."""
        written: list[int] = []
        while len(written) < limit:
            token = int(self.after(written)[0].argmax())
            if token == END:
                break
            written.append(token)
        return written


@cache
def tokenizer() -> Tokenizer:
    """What makes tokens of texts: words that it knows, letters of those that it doesn't, bytes of everything else."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, ignore_merges=True))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def encode(sentence: str) -> list[int]:
    """The tokens of a sentence, the end token included."""
    return [*tokenizer().encode(sentence).ids, END]


def decode(tokens: Sequence[int]) -> str:
    """The text of some tokens, special ones left out."""
    return str(tokenizer().decode([token for token in tokens if token > END]))


def translated(sentence: str) -> str:
    """What a sure model makes of a sentence."""
    return decode(counterparts()[encode(sentence)].tolist())


def padded(sentences: Sequence[Sequence[int]], size: int | None = None) -> dict[str, NDArray[np.int64]]:
    """The encoder's inputs for some sentences, of `size` or as long as the longest."""
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    tokens = np.full((len(sentences), size or max(lengths)), PAD, np.int64)
    for row, sentence in zip(tokens, sentences, strict=True):
        row[: len(sentence)] = sentence
    return {"tokens": tokens, "lengths": lengths}


def encoder_graph() -> onnx.ModelProto:
    """Make the encoder: what stands where, and a state that stands before the first place."""
    node = helper.make_node
    nodes = [
        node("Shape", ["tokens"], ["length"], start=1),
        node("Squeeze", ["length"], ["steps"]),
        node("Range", ["zero", "steps", "one"], ["counted"]),
        node("Unsqueeze", ["lengths", "last_of_two"], ["columns"]),
        node("Less", ["counted", "columns"], ["present"]),
        node("Cast", ["present"], ["ones"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["ones", "last_of_three"], ["here"]),
        node("Gather", ["places", "counted"], ["place"]),
        node("Mul", ["place", "here"], ["where"]),
        node("Gather", ["codes", "tokens"], ["code"]),
        node("Mul", ["code", "here"], ["what"]),
        node("Concat", ["where", "what"], ["memory"], axis=2),
        node("Gather", ["code", "zero"], ["first"], axis=1),
        node("Mul", ["first", "half"], ["cell"]),
        node("Unsqueeze", ["cell", "inner"], ["cells"]),
        node("Mul", ["cells", "nothing"], ["zeros"]),
        node("Add", ["zeros", "beginning"], ["begins"]),
        node("Concat", ["begins", "cells"], ["state"], axis=1),
    ]
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "last_of_two": np.array([1], np.int64),
        "last_of_three": np.array([2], np.int64),
        "inner": np.array([1, 2], np.int64),
        "half": np.array(0.5, np.float32),
        "nothing": np.array(0, np.float32),
        "beginning": np.eye(1, HIDDEN, dtype=np.float32).reshape(1, 1, 1, HIDDEN),
        "places": weights()["places"],
        "codes": weights()["codes"],
    }
    return _model("encoder", nodes, constants, encoder_entry())


def decoder_graph(character: Character = SURE, seed: int = 3, *, idle_steps: int = 0) -> onnx.ModelProto:
    """Make the decoder; `idle_steps` of work are done for nothing in each step, to make it slow."""
    node = helper.make_node
    nodes = [
        node("Split", ["state"], ["positions", "cells"], axis=1),
        node("Squeeze", ["positions", "inner"], ["position"]),
        node("Squeeze", ["cells", "inner"], ["cell"]),
        node("Gather", ["embedding", "token"], ["embedded"]),
        node("MatMul", ["cell", "recurrent"], ["carried"]),
        node("Add", ["embedded", "carried"], ["both"]),
        node("Tanh", ["both"], ["squashed"]),
        *_rounded("squashed", "next_cell", "coarse"),
        node("MatMul", ["position", "onward"], ["next_position"]),
        node("Mul", ["position", "sharp"], ["by_place"]),
        node("Mul", ["next_cell", "look"], ["by_code"]),
        node("Concat", ["by_place", "by_code"], ["asked"], axis=1),
        node("Unsqueeze", ["asked", "third"], ["query"]),
        node("MatMul", ["memory", "query"], ["found_scores"]),
        node("Squeeze", ["found_scores", "third"], ["all_scores"]),
        node("Where", ["present", "all_scores", "nowhere"], ["scores"]),
        node("ReduceMax", ["scores"], ["highest"], axes=[1], keepdims=1),
        node("Sub", ["scores", "highest"], ["below"]),
        node("Exp", ["below"], ["raw_share"]),
        *_rounded("raw_share", "share", "fine"),
        node("ReduceSum", ["share", "second"], ["sum_of_shares"], keepdims=1),
        node("Div", ["share", "sum_of_shares"], ["raw_attention"]),
        *_rounded("raw_attention", "attention", "fine"),
        node("Unsqueeze", ["attention", "second"], ["weights"]),
        node("MatMul", ["weights", "memory"], ["found_rows"]),
        node("Squeeze", ["found_rows", "second"], ["found"]),
        node("Slice", ["found", "codes_begin", "codes_end", "second"], ["code"]),
        node("MatMul", ["code", "written"], ["counterparts"]),
        node("Mul", ["counterparts", "meaning"], ["meant"]),
        node("MatMul", ["next_cell", "head"], ["said"]),
        node("Mul", ["said", "noise"], ["meant_nothing"]),
        node("Add", ["meant", "meant_nothing"], ["summed"]),
        node("Add", ["summed", "forbidden"], ["logits"]),
        node("LogSoftmax", ["logits"], ["likelihoods"], axis=1),
        node("TopK", ["likelihoods", "candidates"], ["logprobs", "tokens"], axis=1),
        node("Unsqueeze", ["next_position", "inner"], ["next_positions"]),
        node("Unsqueeze", ["next_cell", "inner"], ["next_cells"]),
        node("Concat", ["next_positions", "next_cells"], ["next_state"], axis=1),
    ]
    network = weights(seed)
    constants: dict[str, NDArray[Any]] = {
        "second": np.array([1], np.int64),
        "third": np.array([2], np.int64),
        "inner": np.array([1, 2], np.int64),
        "codes_begin": np.array([PLACES], np.int64),
        "codes_end": np.array([WIDTH], np.int64),
        "candidates": np.array([CANDIDATES], np.int64),
        "coarse": np.array(_COARSE, np.float32),
        "fine": np.array(_FINE, np.float32),
        "nowhere": np.array(_NOWHERE, np.float32),
        **{name: np.array(getattr(character, name), np.float32) for name in ("meaning", "noise", "sharp", "look")},
        **{name: network[name] for name in ("embedding", "recurrent", "head", "written", "onward", "forbidden")},
    }
    return _model("decoder", nodes, constants, decoder_entry(), idle_steps)


def encoder_entry() -> dict[str, Any]:
    """The encoder as a manifest describes it."""
    return {
        "file": "encoder.onnx",
        "inputs": [
            {"name": "tokens", "datatype": "INT64", "shape": ["batch", "source"]},
            {"name": "lengths", "datatype": "INT64", "shape": ["batch"]},
        ],
        "outputs": [
            {"name": "memory", "datatype": "FP32", "shape": ["batch", "source", WIDTH]},
            {"name": "present", "datatype": "BOOL", "shape": ["batch", "source"]},
            {"name": "state", "datatype": "FP32", "shape": ["batch", 2, 1, HIDDEN]},
        ],
    }


def decoder_entry() -> dict[str, Any]:
    """The decoder as a manifest describes it."""
    return {
        "file": "decoder.onnx",
        "inputs": [
            {"name": "token", "datatype": "INT64", "shape": ["batch"]},
            {"name": "state", "datatype": "FP32", "shape": ["batch", 2, 1, HIDDEN]},
            {"name": "memory", "datatype": "FP32", "shape": ["batch", "source", WIDTH]},
            {"name": "present", "datatype": "BOOL", "shape": ["batch", "source"]},
        ],
        "outputs": [
            {"name": "tokens", "datatype": "INT64", "shape": ["batch", CANDIDATES]},
            {"name": "logprobs", "datatype": "FP32", "shape": ["batch", CANDIDATES]},
            {"name": "next_state", "datatype": "FP32", "shape": ["batch", 2, 1, HIDDEN]},
            {"name": "attention", "datatype": "FP32", "shape": ["batch", "source"]},
        ],
        "step": STEP,
    }


def make_translation_bundle(
    models: Path,
    name: str = "tiny-en-de",
    version: int = 1,
    *,
    character: Character = SURE,
    seed: int = 3,
    idle_steps: int = 0,
    source: str = "en",
    target: str = "de",
    postprocessing: Mapping[str, object] | None = None,
    **changes: object,
) -> Path:
    """Write a small valid bundle of a model that translates.

    Args:
        models: the folder of all models.
        name: of the model.
        version: of the model.
        character: how it translates.
        seed: of its weights.
        idle_steps: see `decoder_graph`.
        source: the language that its manifest says it reads.
        target: the language that its manifest says it writes.
        postprocessing: what else the manifest says of the search.
        changes: top-level keys of the manifest that differ.

    Returns:
        The bundle's folder.
    """
    bundle = models / name / str(version)
    bundle.mkdir(parents=True)
    graphs = {"encoder": encoder_graph(), "decoder": decoder_graph(character, seed, idle_steps=idle_steps)}
    for role, graph in graphs.items():
        (bundle / f"{role}.onnx").write_bytes(graph.SerializeToString())
    tokenizer().save(str(bundle / "tokenizer.json"))
    (bundle / "README.md").write_text("# A tiny model\n", encoding="utf-8")
    write_golden(bundle, _golden_of({role: graph.SerializeToString() for role, graph in graphs.items()}))
    content = manifest_of(
        **{
            "schema_version": 4,
            "title": "A tiny translator",
            "description": "Translates word by word.",
            "task": "translation",
            "parameters": sum(array.size for array in weights(seed).values()),
            "variants": {
                "fp32": {
                    "graphs": {"encoder": encoder_entry(), "decoder": decoder_entry()},
                    "tolerance": {"framework": TOLERANCE, "runtime": TOLERANCE},
                }
            },
            "preprocessing": {
                "kind": "tokenizer",
                "input": "tokens",
                "lengths": "lengths",
                "tokenizer": "tokenizer.json",
                "start": START,
                "end": END,
                "padding": PAD,
                "sizes": SIZES,
            },
            "postprocessing": {"kind": "translation", "source": source, "target": target, **(postprocessing or {})},
            "batching": {"max_batch_size": 64},
            **changes,
        }
    )
    write_manifest(bundle, content)
    sign(bundle)
    Manifest.model_validate(manifest_in(bundle))
    return bundle


def _golden_of(graphs: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    """What each graph answers: three sentences, and three steps on from their beginnings."""
    encoder, decoder = (ort.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs.values())
    sentences = padded([encode(text) for text in ("Hello world.", "we go home", "Oh!")], SIZES[0])
    read = _run(encoder, sentences)
    steps = {"token": np.array([START, *counterparts()[sentences["tokens"][1:, 0]]]), **read}
    arrays = {}
    for role, inputs, outputs in (("encoder", sentences, read), ("decoder", steps, _run(decoder, steps))):
        arrays |= {f"inputs/{role}/{name}": array for name, array in inputs.items()}
        for kind in (f"framework/{role}", f"runtime/fp32/{role}"):
            arrays |= {f"{kind}/{name}": array for name, array in outputs.items()}
    return arrays


def _run(session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _rounded(before: str, after: str, fraction: str) -> list[onnx.NodeProto]:
    """Nodes that bring numbers to whole multiples of one over the constant `fraction`."""
    return [
        helper.make_node("Mul", [before, fraction], [f"{after}_times"]),
        helper.make_node("Round", [f"{after}_times"], [f"{after}_whole"]),
        helper.make_node("Div", [f"{after}_whole", fraction], [after]),
    ]


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    entry: Mapping[str, Any],
    idle_steps: int = 0,
) -> onnx.ModelProto:
    """A graph with the tensors of a manifest's entry; idle work stands before the logprobs."""
    constants = dict(constants)
    if idle_steps:
        (last,) = (node for node in nodes if "logprobs" in node.output)
        last.output[0] = "answers"
        idle, idle_constants = idle_work("answers", "logprobs", idle_steps)
        nodes = [*nodes, *idle]
        constants |= idle_constants
    graph = helper.make_graph(
        nodes,
        name,
        *(
            [tensor(one["name"], one["datatype"], one["shape"]) for one in entry[kind]]
            for kind in ("inputs", "outputs")
        ),
        initializer=[numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
