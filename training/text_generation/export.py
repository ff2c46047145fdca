"""A trained character LSTM becomes a bundle: step graphs, golden outputs, measured loss, the card with samples."""

from __future__ import annotations

import json
import logging
import shutil
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from service.manifest import (
    SCHEMA_VERSION,
    Batching,
    CharacterPreprocessing,
    Manifest,
    Quality,
    Source,
)
from training.core.bundle import file_entries, new_bundle, write_manifest
from training.core.card import render_card, variants_table
from training.core.checks import (
    require_declared_sizes,
    require_independent_rows,
    require_quantised,
    require_seven_bits,
    require_shapes,
)
from training.core.export import BATCH_AXIS, fastest, graph_variants, open_session, seconds_a_run
from training.core.golden import write_golden
from training.core.provenance import processor, provenance
from training.text_generation.data import START, Text
from training.text_generation.evaluate import (
    GRAPH,
    Loss,
    StepModel,
    load_trained,
    measure,
    metrics,
    report,
    sample,
    written,
)
from training.text_generation.graph import (
    LOGITS,
    NEXT_STATE,
    STATE,
    STEP,
    TOKEN,
    round_to_half,
    state_width,
    step_graph,
)
from training.text_generation.model import CharacterLSTM
from training.text_generation.train import WATCHED_CHARACTERS, Config

logger = logging.getLogger(__name__)

_LEARNING_CURVE = (
    f"Learning curve: while it trains, loss is watched on the first {WATCHED_CHARACTERS:,} characters of the "
    "validation part; the table has all of it"
)

VOCABULARY_FILE = "vocab.json"
FILES = {"fp32": "step.onnx", "int8": "step.int8.onnx"}

_AGREEMENT = 1e-3
"""Largest difference between PyTorch and ONNX Runtime in float32, in logits and states, after any number of steps."""

_BATCH_SIZES, _CARRIED_STEPS = (1, 2, 7, 64), 50
_GOLDEN_ROWS, _GOLDEN_STEPS = 24, 16
_TEMPERATURES, _SAMPLE_CHARACTERS = (0.5, 0.8, 1.0), 400
_NUDGE = 1e-5
"""How far another processor's states may lie apart, before a rounding to bytes makes more of it."""

_PUNCTUATION = {
    "\t": " ",
    "\r": "",
    "\u00a0": " ",
    "\u00ad": "",
    "\u2009": " ",
    "\u200b": "",
    "\u202f": " ",
    "\ufeff": "",
    "\u2010": "-",
    "\u2011": "-",
    "\u2012": "-",
    "\u2013": "-",
    "\u2014": "--",
    "\u2015": "--",
    "\u2018": "'",
    "\u2019": "'",
    "\u201a": "'",
    "\u201b": "'",
    "\u00b4": "'",
    "`": "'",
    '"': "'",
    "\u201c": "'",
    "\u201d": "'",
    "\u201e": "'",
    "\u00ab": "'",
    "\u00bb": "'",
    "\u2026": "...",
    "\u00c6": "AE",
    "\u00e6": "ae",
    "\u0152": "OE",
    "\u0153": "oe",
    "\u00d8": "O",
    "\u00f8": "o",
    "\u00df": "ss",
}
_ACCENTED = range(0xC0, 0x180)
"""Latin-1 and Latin Extended-A."""


@dataclass(frozen=True)
class _Measured:
    """A variant, as it did on this machine."""

    loss: Loss
    seconds_a_row: float


def export(config: Config, folder: Path) -> None:
    """Write the bundle of the run in `folder`.

    Raises:
        ValueError: a graph is not what it should be (see `check`).
        FileExistsError: a bundle of that version exists, and `export.replace` is false.
    """
    run, text, model = load_trained(config, folder)
    asked = config.export
    round_to_half(model)
    with new_bundle(Path(asked.models), asked.name, asked.version, replace=asked.replace) as bundle:
        for name, file in FILES.items():
            onnx.save(step_graph(model, quantised=name == "int8"), bundle / file)
            check(bundle / file, model, quantised=name == "int8", seed=config.seed)
        measured = {name: _measure(bundle / file, text) for name, file in FILES.items()}
        default = _choose_default(measured, asked.max_loss_nats)
        report(run, measured[default].loss)
        inputs, expected = golden_rows(model, config.seed)
        nudged = {"int8": effect_of_a_rounding(bundle / FILES["int8"], inputs, config.seed)}
        tolerances = write_golden(bundle, GRAPH, inputs, expected, FILES, nudged)
        (bundle / VOCABULARY_FILE).write_text(json.dumps(text.vocabulary, indent=0) + "\n", encoding="utf-8")
        shutil.copyfile(run.folder / "history.png", bundle / "history.png")

        source = Source(name=text.name, licence=text.licence, url=text.url, sha256=text.sha256)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            title=asked.title,
            description=asked.description,
            task="text-generation",
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            files=file_entries(bundle),
            variants=graph_variants(bundle, GRAPH, FILES, tolerances, STEP),
            default_variant=default,
            preprocessing=CharacterPreprocessing(
                vocabulary=VOCABULARY_FILE, start=START, replacements=replacements(text.vocabulary)
            ),
            batching=Batching(max_batch_size=64),
            quality=_quality(measured, default, config.seed),
            provenance=provenance(config, config.seed, run, source),
        )
        card = render_card(
            manifest,
            name=asked.name,
            pictures={_LEARNING_CURVE: "history.png"},
            tables={
                "Variants": _variants(bundle, measured),
                "Samples": _samples(StepModel(bundle / FILES[default]), text, config.seed),
            },
            notices=(),
        )
        (bundle / "README.md").write_text(card, encoding="utf-8")
        write_manifest(bundle, manifest)
    logger.info("wrote %s/%s/%d, default %s", asked.models, asked.name, asked.version, default)


def check(path: Path, model: CharacterLSTM, *, quantised: bool, seed: int) -> None:
    """Refuse a step graph that is not what a server may rely on.

    Its axes are declared as they are; a row has the same bits alone and in a batch of any size up to 64; in float32 it
    answers as PyTorch does at several batch sizes over many carried steps, and in int8 it multiplies no floats, and by
    seven bits.

    Raises:
        ValueError: it is not so; the reason names the tensor.
    """
    state: tuple[int | str, ...] = (BATCH_AXIS, state_width(model.config))
    shapes: Mapping[str, tuple[int | str, ...]] = {
        TOKEN: (BATCH_AXIS,),
        STATE: state,
        LOGITS: (BATCH_AXIS, len(model.head.bias)),
        NEXT_STATE: state,
    }
    require_shapes(path, shapes)
    tokens = random_tokens(len(model.head.bias), (_CARRIED_STEPS + 1, max(_BATCH_SIZES)), seed)
    rows = {TOKEN: tokens[-1], STATE: run_network(model, tokens[:-1])[1]}
    require_declared_sizes(path, rows, _BATCH_SIZES)
    require_independent_rows(path, rows, seed=seed)
    if quantised:
        require_quantised(path)
        require_seven_bits(path)
        return
    difference = carried_difference(path, model, tokens)
    if not difference <= _AGREEMENT:  # not so either for NaN
        raise ValueError(f"ONNX Runtime differs from PyTorch by {difference:.3g}; allowed is {_AGREEMENT}")
    logger.info(
        "ONNX Runtime and PyTorch agree to %.2g over %d steps at batch %s",
        difference, len(tokens), ", ".join(map(str, _BATCH_SIZES)),
    )  # fmt: skip


def carried_difference(path: Path, model: CharacterLSTM, tokens: NDArray[np.int64]) -> float:
    """The largest difference of a logit or state between PyTorch and the graph, each carrying its own state.

    Args:
        path: of the graph.
        model: in PyTorch.
        tokens: (steps, batch), batch as many as the largest that is tried.
    """
    worst, graph = 0.0, StepModel(path)
    for size in _BATCH_SIZES:
        state = graph.zero_state(size)
        expected, last = run_network(model, tokens[:, :size])
        for now, logits in zip(tokens[:, :size], expected, strict=True):
            found, state = graph.step(now, state)
            worst = float(np.maximum(worst, np.abs(found - logits).max()))  # NaN where there is one
        worst = float(np.maximum(worst, np.abs(state - last).max()))
    return worst


@torch.no_grad()
def run_network(
    model: CharacterLSTM, tokens: NDArray[np.int64], state: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run PyTorch over tokens (steps, batch) from a state (batch, 2 layers hidden), by default zero.

    Returns:
        logits (steps, batch, vocabulary) and the last state (batch, 2 layers hidden).
    """
    begin = model.zero_state(tokens.shape[1])
    if state is not None:
        hidden, cell = torch.from_numpy(state).unflatten(1, (2, *begin[0].shape[1:])).unbind(1)
        begin = (hidden, cell)
    logits, after = model(torch.from_numpy(tokens), begin)
    return logits.numpy(), torch.stack(after, 1).flatten(1).numpy()


def random_tokens(vocabulary: int, shape: tuple[int, int], seed: int) -> NDArray[np.int64]:
    """Tokens (steps, batch) of nothing in particular."""
    return np.random.default_rng(seed).integers(0, vocabulary, shape)


def golden_rows(
    model: CharacterLSTM, seed: int
) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.float32]]]:
    """The golden inputs: made-up tokens, and states that the network came to over others; and PyTorch's outputs.

    The first row is the start of a text.
    """
    tokens = random_tokens(len(model.head.bias), (_GOLDEN_STEPS + 1, _GOLDEN_ROWS), seed)
    _, state = run_network(model, tokens[:-1])
    state[0] = 0
    logits, after = run_network(model, tokens[-1:], state)
    return {TOKEN: tokens[-1], STATE: state}, {LOGITS: logits[0], NEXT_STATE: after}


def effect_of_a_rounding(path: Path, inputs: Mapping[str, NDArray[np.generic]], seed: int) -> float:
    """How far int8 outputs may move where another processor's arithmetic differs in the last digits of a float.

    Now and then such a difference has a hidden state rounded to the next byte. Measured by moving all states a little,
    with a margin of two.
    """
    session = open_session(path)
    outputs = session.run(None, dict(inputs))
    draw = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(8):
        noise = draw.uniform(-_NUDGE, _NUDGE, inputs[STATE].shape).astype(np.float32)
        moved = session.run(None, {**inputs, STATE: np.add(inputs[STATE], noise, dtype=np.float32)})
        worst = max(worst, *(float(np.abs(one - other).max()) for one, other in zip(outputs, moved, strict=True)))
    return 2 * worst


def replacements(vocabulary: Collection[str]) -> dict[str, str]:
    """What may stand in for characters outside `vocabulary`, in characters of it: quotes, dashes, spaces, accents."""
    candidates = dict(_PUNCTUATION)
    for code in _ACCENTED:
        parts = unicodedata.normalize("NFKD", chr(code))
        if len(parts) > 1 and all(unicodedata.combining(mark) for mark in parts[1:]):
            candidates[chr(code)] = parts[0]
    known = set(vocabulary)
    return {one: text for one, text in candidates.items() if one not in known and known.issuperset(text)}


def _measure(path: Path, text: Text) -> _Measured:
    model = StepModel(path)
    tokens = text.validation[:32].numpy()
    seconds = seconds_a_run(open_session(path, threads=1), {TOKEN: tokens, STATE: model.zero_state(len(tokens))})
    return _Measured(measure(model, text.validation.numpy(), text.start), seconds / len(tokens))


def _choose_default(measured: Mapping[str, _Measured], max_loss_nats: float) -> str:
    """The fastest variant that loses at most so much on the validation part, with carried state, against float32."""
    for name, one in measured.items():
        logger.info(
            "%s: %.4f nats, %.4f in windows, %.1f us a row",
            name, one.loss.carried, one.loss.windows, 1e6 * one.seconds_a_row,
        )  # fmt: skip
    lost = {name: one.loss.carried - measured["fp32"].loss.carried for name, one in measured.items()}
    return fastest(lost, {name: one.seconds_a_row for name, one in measured.items()}, max_loss_nats)


def _quality(measured: Mapping[str, _Measured], default: str, seed: int) -> tuple[Quality, ...]:
    where = f"{processor()}, ONNX Runtime on CPU"
    return tuple(
        Quality(
            metric=metric,
            value=value,
            split="validation",
            n=measured[name].loss.n,
            variant=name,
            seeds=(seed,),
            hardware=where,
        )
        for name in (default, *(other for other in measured if other != default))
        for metric, value in metrics(measured[name].loss).items()
    )


def _variants(bundle: Path, measured: Mapping[str, _Measured]) -> str:
    values = {name: one.loss.carried for name, one in measured.items()}
    seconds = {name: one.seconds_a_row for name, one in measured.items()}
    return variants_table(bundle, FILES, "nats a character", values, seconds)


def _samples(model: StepModel, text: Text, seed: int) -> str:
    """What the model writes when nothing comes before, at several temperatures."""
    parts = []
    for temperature in _TEMPERATURES:
        tokens: Sequence[int] = sample(model, text.start, _SAMPLE_CHARACTERS, temperature=temperature, seed=seed)
        parts.append(f"Temperature {temperature}:\n\n```text\n{written(tokens, text).strip()}\n```")
    return "\n\n".join(parts)
