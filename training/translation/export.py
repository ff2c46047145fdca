"""A trained translator becomes a bundle: two graphs, their golden outputs, measured figures, the card."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from tokenizers import Tokenizer

from service.manifest import (
    SCHEMA_VERSION,
    Batching,
    Manifest,
    Quality,
    Source,
    TokenizerPreprocessing,
    TranslationPostprocessing,
)
from training.core.bundle import file_entries, new_bundle, write_manifest
from training.core.card import markdown_table, render_card
from training.core.export import fastest, open_session, seconds_a_run, variants_of_graphs
from training.core.golden import GoldenRows, difference_of, write_golden_of_graphs
from training.core.provenance import processor, provenance
from training.translation.check import check, network_decode, network_read
from training.translation.data import Corpus, Example, shared_targets
from training.translation.engine import GraphEngine, encoder_inputs
from training.translation.evaluate import Measured, load_trained, measured, report, search_of
from training.translation.graph import (
    CANDIDATES,
    DECODER,
    ENCODER,
    LENGTHS,
    NEXT_STATE,
    STATE,
    STEP,
    TOKEN,
    TOKENS,
    decoder_graph,
    encoder_graph,
    round_to_half,
)
from training.translation.model import Translator
from training.translation.samples import SENTENCES, draw_attention, translations_table
from training.translation.search import LENGTH_FACTOR, LENGTH_OFFSET, SearchConfig
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN, encode
from training.translation.train import TOKENIZER, WATCHED_SENTENCES, Config, ExportConfig, count_parameters

logger = logging.getLogger(__name__)

FILES = {
    "fp32": {ENCODER: "encoder.onnx", DECODER: "decoder.onnx"},
    "int8": {ENCODER: "encoder.int8.onnx", DECODER: "decoder.int8.onnx"},
}

_NOTICE = Path(__file__).parent / "NOTICE-tatoeba.txt"
_LEARNING_CURVE = (
    "Learning curve: while it trains, what is watched is the BLEU of greedy translations of the first "
    f"{WATCHED_SENTENCES:,} sentences of the validation part"
)
_GOLDEN_ROWS = 12
_NUDGE = 1e-5
"""How far another processor's numbers may lie apart, before a rounding to bytes makes more of it."""
_SENTENCES, _SOURCE = 32, 16
"""How many sentences, of how many tokens, a step of the decoder is timed with."""


@dataclass(frozen=True)
class _Variant:
    """A variant, as it did on this machine.

    Attributes:
        bleu: on the validation part, searched by as the configuration says.
        bytes: of its graphs.
        seconds_a_step: of the decoder, with all beginnings of some sentences.
    """

    bleu: float
    bytes: int
    seconds_a_step: float


def export(config: Config, folder: Path) -> None:
    """Write the bundle of the run in `folder`.

    Both variants are made, checked and measured, whichever of them the bundle is to hold.

    Raises:
        ValueError: a graph is not what it should be (see `check`), or int8 loses too much and is all there is.
        FileExistsError: a bundle of that version exists, and `export.replace` is false.
    """
    run, corpus, tokenizer, model = load_trained(config, folder)
    asked, model = config.export, model.cpu()
    round_to_half(model)
    with (
        new_bundle(Path(asked.models), asked.name, asked.version, replace=asked.replace) as bundle,
        tempfile.TemporaryDirectory() as temporary,
    ):
        graphs = {name: {role: Path(temporary) / file for role, file in files.items()} for name, files in FILES.items()}
        for name, files in graphs.items():
            onnx.save(encoder_graph(model, quantised=name == "int8"), files[ENCODER])
            onnx.save(decoder_graph(model, quantised=name == "int8"), files[DECODER])
            check(files, model, quantised=name == "int8", sizes=asked.sizes, seed=config.seed)
        variants = {name: _measure(files, corpus, tokenizer, config) for name, files in graphs.items()}
        default = _choose_default(variants, asked)
        search = _choose_search(_engine(graphs[default]), corpus, tokenizer, config)
        shipped = {name: FILES[name] for name in (default, *(one for one in asked.variants if one != default))}
        figures = {name: _figures(_engine(files), corpus, tokenizer, search, asked) for name, files in graphs.items()}
        report(run, corpus, model, config, figures[default])

        for file in [file for several in shipped.values() for file in several.values()]:
            shutil.copyfile(Path(temporary) / file, bundle / file)
        shutil.copyfile(run.folder / TOKENIZER, bundle / TOKENIZER)
        shutil.copyfile(run.folder / "history.png", bundle / "history.png")
        golden = golden_rows(model, tokenizer, asked.sizes)
        nudged = {"int8": effect_of_a_rounding(graphs["int8"], golden, config.seed)}
        tolerances = write_golden_of_graphs(bundle, golden, shipped, nudged)
        engine = _engine(graphs[default])
        pictures = draw_attention(engine, tokenizer, search, bundle)

        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            title=asked.title,
            description=asked.description,
            task="translation",
            parameters=count_parameters(model),
            files=file_entries(bundle),
            variants=variants_of_graphs(bundle, shipped, tolerances, {DECODER: STEP}),
            default_variant=default,
            preprocessing=TokenizerPreprocessing(
                input=TOKENS,
                lengths=LENGTHS,
                tokenizer=TOKENIZER,
                start=START_TOKEN,
                end=END_TOKEN,
                padding=PAD_TOKEN,
                sizes=asked.sizes,
            ),
            postprocessing=TranslationPostprocessing(
                source=asked.source,
                target=asked.target,
                beams=search.beam,
                length_penalty=search.length_penalty,
                length_factor=LENGTH_FACTOR,
                length_offset=LENGTH_OFFSET,
            ),
            batching=Batching(max_batch_size=_SENTENCES),
            quality=_quality({name: figures[name] for name in shipped}, config.seed),
            provenance=provenance(
                config,
                config.seed,
                run,
                Source(name=corpus.name, licence=corpus.licence, url=corpus.url, sha256=corpus.sha256),
            ),
        )
        card = render_card(
            manifest,
            name=asked.name,
            pictures={_LEARNING_CURVE: "history.png", **pictures},
            tables={
                "How it was measured": _how_it_was_measured(corpus, figures[default], search, asked),
                "Variants": _variants_table(variants, figures, shipped, search),
                "Translations": translations_table(engine, tokenizer, search),
            },
            notices=[_NOTICE] if config.data.source == "tatoeba" else [],
        )
        (bundle / "README.md").write_text(card, encoding="utf-8")
        write_manifest(bundle, manifest)
    logger.info("wrote %s/%s/%d, default %s", asked.models, asked.name, asked.version, default)


def golden_rows(model: Translator, tokenizer: Tokenizer, sizes: Sequence[int]) -> dict[str, GoldenRows]:
    """The golden inputs of both graphs and PyTorch's outputs: made-up sentences, and beginnings of their translations.

    The first sentence has no words. The decoder's first row begins; each of the others is a token further than the one
    before it, all of them the likeliest ones.
    """
    sentences = [tokens[: sizes[-1] - 1] for tokens in encode(tokenizer, SENTENCES[: _GOLDEN_ROWS - 1])]
    inputs = encoder_inputs([[], *sentences])
    read = network_read(model, inputs)
    given = {TOKEN: np.full(_GOLDEN_ROWS, START_TOKEN), **{name: array.copy() for name, array in read.items()}}
    for step in range(1, _GOLDEN_ROWS):
        tokens = given.pop(TOKEN)
        outputs = network_decode(model, tokens, given)
        tokens[step:] = outputs[CANDIDATES][step:, 0]
        given[STATE][step:] = outputs[NEXT_STATE][step:]
        given[TOKEN] = tokens
    expected = network_decode(model, given[TOKEN], given)
    return {ENCODER: GoldenRows(inputs, read), DECODER: GoldenRows(given, expected, STEP.candidates)}


def effect_of_a_rounding(files: Mapping[str, Path], golden: Mapping[str, GoldenRows], seed: int) -> float:
    """How far int8 outputs may move where another processor's arithmetic differs in the last digits of a float.

    Now and then such a difference has a number rounded to the next byte. Measured by moving all biases and all inputs
    that are floats a little, with a margin of two.
    """
    draw, worst = np.random.default_rng(seed), 0.0
    for role, rows in golden.items():
        outputs = list(rows.expected)
        found = open_session(files[role]).run(outputs, dict(rows.inputs))
        inputs = {name: _nudged(array, draw) for name, array in rows.inputs.items()}
        graph = onnx.load(files[role])
        for constant in graph.graph.initializer:
            if constant.name.endswith("_bias"):
                constant.CopyFrom(
                    numpy_helper.from_array(_nudged(numpy_helper.to_array(constant), draw), constant.name)
                )
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / files[role].name
            onnx.save(graph, path)
            moved = open_session(path).run(outputs, inputs)
        here, there = (dict(zip(outputs, one, strict=True)) for one in (moved, found))
        worst = max(worst, difference_of(here, there, rows.candidates))
    return 2 * worst


def _nudged(array: NDArray[Any], draw: np.random.Generator) -> NDArray[Any]:
    if array.dtype != np.float32:
        return array
    return array + draw.normal(0, _NUDGE, array.shape).astype(np.float32)


def _engine(files: Mapping[str, Path]) -> GraphEngine:
    return GraphEngine(files[ENCODER], files[DECODER])


def _measure(files: Mapping[str, Path], corpus: Corpus, tokenizer: Tokenizer, config: Config) -> _Variant:
    engine, beam = _engine(files), config.search.beam
    given = engine.encode([[END_TOKEN] * (_SOURCE - 1)] * _SENTENCES * beam)
    tokens = np.full(_SENTENCES * beam, START_TOKEN)
    return _Variant(
        bleu=_validation_bleu(engine, corpus, tokenizer, config.search, config.export),
        bytes=sum(path.stat().st_size for path in files.values()),
        seconds_a_step=seconds_a_run(open_session(files[DECODER], threads=1), {TOKEN: tokens, **given}, runs=20),
    )


def _choose_default(variants: Mapping[str, _Variant], asked: ExportConfig) -> str:
    """The fastest variant of the bundle that loses little BLEU on the validation part against float32."""
    for name, one in variants.items():
        logger.info("%s: validation BLEU %.2f, %.2f ms a step", name, one.bleu, 1e3 * one.seconds_a_step)
    lost: dict[str, float] = {name: variants["fp32"].bleu - variants[name].bleu for name in asked.variants}
    if min(lost.values()) > asked.max_bleu_loss:
        raise ValueError(
            f"int8 loses {lost['int8']:.2f} BLEU on the validation part, allowed are {asked.max_bleu_loss}, "
            "and the bundle is to hold nothing else"
        )
    return fastest(lost, {name: variants[name].seconds_a_step for name in lost}, asked.max_bleu_loss)


def _choose_search(engine: GraphEngine, corpus: Corpus, tokenizer: Tokenizer, config: Config) -> SearchConfig:
    """The length penalty with the best BLEU on the validation part."""
    best, found = -1.0, config.search
    for exponent in config.export.length_penalties:
        search = config.search.model_copy(update={"length_penalty": exponent})
        bleu = _validation_bleu(engine, corpus, tokenizer, search, config.export)
        logger.info("length penalty %g: validation BLEU %.2f", exponent, bleu)
        if bleu > best:
            best, found = bleu, search
    return found


def _validation_bleu(
    engine: GraphEngine, corpus: Corpus, tokenizer: Tokenizer, search: SearchConfig, asked: ExportConfig
) -> float:
    return measured(engine, tokenizer, "validation", corpus.validation, search, asked.source).scores.bleu


def _figures(
    engine: GraphEngine, corpus: Corpus, tokenizer: Tokenizer, search: SearchConfig, asked: ExportConfig
) -> list[Measured]:
    parts: Sequence[tuple[str, Sequence[Example]]] = (("test", corpus.test), ("validation", corpus.validation))
    return [
        measured(engine, tokenizer, part, examples, one, asked.source)
        for part, examples in parts
        for one in reversed(search_of(search))
    ]


def _quality(figures: Mapping[str, Sequence[Measured]], seed: int) -> tuple[Quality, ...]:
    where = f"{processor()}, ONNX Runtime on CPU"
    return tuple(
        Quality(metric=metric, value=value, split=one.part, n=one.scores.n, variant=name, seeds=(seed,), hardware=where)
        for name, several in figures.items()
        for one in several
        for metric, value in one.metrics().items()
    )


def _how_it_was_measured(corpus: Corpus, figures: Sequence[Measured], search: SearchConfig, asked: ExportConfig) -> str:
    scores = figures[0].scores
    tried = ", ".join(f"{exponent:g}" for exponent in asked.length_penalties)
    return (
        f"BLEU and chrF are percentages by sacreBLEU (`{scores.bleu_signature}`, `{scores.chrf_signature}`) of text as "
        "it is written. A text is taken apart into sentences as the server does, and its translation compared with all "
        f"that the data have of it: {scores.n:,} texts of the test part have {scores.references:,}. The figures are "
        f"those of the exported graphs in ONNX Runtime, with a beam of {search.beam} and the length penalty "
        f"{search.length_penalty:g}, which of {tried} was the best on the "
        "validation part; those called `greedy` take the likeliest token after token.\n\n"
        "A sentence is in the test or in the validation part by its English side alone, and no such sentence was "
        "learnt from, however its case, punctuation and white space were changed. Of its translations some were: "
        f"{shared_targets(corpus)} of the test part's {scores.references:,} have a German side that stands in the "
        "training part beside another English sentence."
    )


def _variants_table(
    variants: Mapping[str, _Variant],
    figures: Mapping[str, Sequence[Measured]],
    shipped: Mapping[str, object],
    search: SearchConfig,
) -> str:
    slowest = variants["fp32"].seconds_a_step
    bleu = {
        (name, one.part): one.scores.bleu
        for name, several in figures.items()
        for one in several
        if one.search == search
    }
    rows = [
        (
            name,
            "yes" if name in shipped else "no",
            f"{bleu[name, 'test']:.2f}",
            f"{bleu[name, 'validation']:.2f}",
            f"{one.bytes / 1e6:.1f} MB",
            f"{slowest / one.seconds_a_step:.2f} x",
        )
        for name, one in variants.items()
    ]
    beginnings = _SENTENCES * search.beam
    speed = f"speed of a step (of {beginnings} beginnings, one thread)"
    return markdown_table(("variant", "in this bundle", "BLEU, test", "BLEU, validation", "both graphs", speed), rows)
