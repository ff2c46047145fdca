from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from service.manifest import Manifest, TokenizerPreprocessing, TranslationPostprocessing, read_manifest
from service.repository.bundle import LoadOptions, verify_bundle
from service.repository.scan import scan
from service.tasks.base import TaskLimits
from tests.training.translation.conftest import Project
from tests.training.translation.test_graph import small, written
from training.translation import export as export_module
from training.translation.check import check, network_decode, network_read
from training.translation.data import load_corpus, shared_targets
from training.translation.engine import GraphEngine
from training.translation.evaluate import load_trained, measured, search_of
from training.translation.export import (
    _choose_default,
    _choose_search,
    _Variant,
    effect_of_a_rounding,
    export,
    golden_rows,
)
from training.translation.graph import (
    CANDIDATES,
    DECODER,
    ENCODER,
    LENGTHS,
    MEMORY,
    STATE,
    STEP,
    TOKEN,
    TOKENS,
    decoder_graph,
    encoder_graph,
    round_to_half,
)
from training.translation.samples import SENTENCES
from training.translation.search import SearchConfig
from training.translation.tokens import END_TOKEN, START_TOKEN, load_tokenizer
from training.translation.train import count_parameters

GRAPHS = {"encoder.onnx", "decoder.onnx", "encoder.int8.onnx", "decoder.int8.onnx"}
FILES = {*GRAPHS, "README.md", "attention-1.png", "attention-2.png", "golden.npz", "history.png", "tokenizer.json"}
OPTIONS = LoadOptions(
    providers=("CPUExecutionProvider",), threads=1, max_batch_rows=8, limits=TaskLimits(max_pixels=10_000)
)
SIZES = (8, 16, 24)


@pytest.fixture
def manifest(exported: Project) -> Manifest:
    return read_manifest(exported.bundle)


# The bundle


def test_the_server_accepts_every_variant_of_the_bundle(exported: Project) -> None:
    (folder,) = scan(exported.models)
    assert set(verify_bundle(folder, OPTIONS).variants) == {"fp32", "int8"}


def test_the_bundle_holds_what_it_must_and_no_more(exported: Project, manifest: Manifest) -> None:
    assert {path.name for path in exported.bundle.iterdir()} == {*FILES, "manifest.json"}
    assert set(manifest.files) == FILES
    assert load_tokenizer(exported.bundle / "tokenizer.json").get_vocab_size() == 400


def test_the_manifest_says_how_a_sentence_is_read_and_written(manifest: Manifest) -> None:
    assert manifest.task == "translation"
    assert manifest.preprocessing == TokenizerPreprocessing(
        input="tokens", lengths="lengths", start=1, end=2, padding=0, sizes=(8, 16, 32)
    )
    assert isinstance(manifest.postprocessing, TranslationPostprocessing)
    assert manifest.postprocessing.model_dump(exclude={"length_penalty"}) == {
        "kind": "translation", "source": "en", "target": "de", "beams": 3, "length_factor": 2.0, "length_offset": 10,
    }  # fmt: skip
    assert manifest.postprocessing.length_penalty in (0.0, 1.0)
    for variant in manifest.variants.values():
        encoder, decoder = variant.graphs[ENCODER], variant.graphs[DECODER]
        assert (encoder.batched, decoder.batched, encoder.step, decoder.step) == (True, True, None, STEP)
        assert {one.name: (one.datatype, one.shape) for one in (*encoder.inputs, *encoder.outputs)} == {
            "tokens": ("INT64", ("batch", "source")),
            "lengths": ("INT64", ("batch",)),
            "memory": ("FP32", ("batch", "source", 48)),
            "present": ("BOOL", ("batch", "source")),
            "state": ("FP32", ("batch", 192)),
        }
        told = {one.name: (one.datatype, one.shape) for one in decoder.outputs}
        assert (told["tokens"], told["logprobs"]) == (("INT64", ("batch", 16)), ("FP32", ("batch", 16)))
        assert told["attention"] == ("FP32", ("batch", "source"))


def test_the_manifest_says_where_the_model_comes_from(exported: Project, manifest: Manifest) -> None:
    run, corpus, _, model = load_trained(exported.config(), exported.folder("first"))
    origin = manifest.provenance
    assert origin is not None
    assert manifest.parameters == count_parameters(model)
    assert (origin.data.name, origin.data.licence, origin.data.sha256) == ("Who sees what", "CC0-1.0", corpus.sha256)
    assert (origin.seed, origin.config["fit"]["epochs"], origin.initial_weights) == (3, 5, None)
    assert origin.training_seconds == round(sum(row["seconds"] for row in run.read_history()))


def test_every_figure_of_the_manifest_is_what_its_graphs_do(exported: Project, manifest: Manifest) -> None:
    corpus = load_corpus(exported.config().data)
    tokenizer = load_tokenizer(exported.bundle / "tokenizer.json")
    search = manifest.postprocessing
    assert isinstance(search, TranslationPostprocessing)
    searches = search_of(SearchConfig(beam=search.beams, length_penalty=search.length_penalty))
    for name, variant in manifest.variants.items():
        engine = GraphEngine(*(exported.bundle / variant.graphs[role].file for role in (ENCODER, DECODER)))
        for part, examples in (("test", corpus.test), ("validation", corpus.validation)):
            found = [measured(engine, tokenizer, part, examples, one, search.source).metrics() for one in searches]
            claimed = {one.metric: one.value for one in manifest.quality if (one.variant, one.split) == (name, part)}
            assert claimed == {**found[0], **found[1]}
            assert set(claimed) == {"bleu", "chrf", "bleu_greedy", "chrf_greedy"}
    first = manifest.quality[0]
    assert (first.metric, first.split, first.n) == ("bleu", "test", len(corpus.test))
    assert first.variant == manifest.default_variant
    assert first.value > 30


def test_the_golden_file_holds_both_graphs_inputs_with_the_answers_of_both(
    exported: Project, manifest: Manifest
) -> None:
    _, _, tokenizer, model = load_trained(exported.config(), exported.folder("first"))
    round_to_half(model)
    with np.load(exported.bundle / "golden.npz", allow_pickle=False) as golden:
        arrays = dict(golden)
    assert len(arrays) == (2 + 3) + (4 + 4) + 2 * (3 + 4)
    for role, rows in golden_rows(model, tokenizer, (8, 16, 32)).items():
        for name, values in rows.inputs.items():
            np.testing.assert_allclose(arrays[f"inputs/{role}/{name}"], values, atol=1e-4)
        assert {key.rsplit("/", 1)[1] for key in arrays if key.startswith(f"framework/{role}/")} == set(rows.expected)
    fp32, int8 = (manifest.variants[name].tolerance for name in ("fp32", "int8"))
    assert fp32.framework is not None
    assert int8.framework is not None
    assert fp32.framework <= 1e-3 < int8.framework
    assert fp32.runtime <= int8.runtime <= int8.framework


def test_the_card_gives_figures_translations_and_pictures(exported: Project, manifest: Manifest) -> None:
    card = (exported.bundle / "README.md").read_text(encoding="utf-8")
    corpus = load_corpus(exported.config().data)
    for one in manifest.quality:
        assert f"| {one.metric} | {one.value:.4f} | {one.split} | {one.n} | {one.variant} | 3 |" in card
    references = sum(len(one.references) for one in corpus.test)
    assert f"{len(corpus.test)} texts of the test part have {references}." in card
    assert f"{shared_targets(corpus)} of the test part's {references} have a German side" in card
    assert "|tok:13a|" in card
    assert all(f"\n| {sentence} | " in card for sentence in SENTENCES)
    assert "| fp32 | yes | " in card
    for picture in ("history.png", "attention-1.png", "attention-2.png"):
        assert f"]({picture})" in card
    assert "Attribution: www.manythings.org" not in card, "these pairs are not Tatoeba's"


def test_the_card_of_tatoeba_passes_its_attribution_on() -> None:
    notice = export_module._NOTICE.read_text(encoding="utf-8")
    assert "Attribution: www.manythings.org/anki and tatoeba.org" in notice
    assert "creativecommons.org/licenses/by/2.0" in notice


def test_sentences_of_the_card_are_thirty_different_ones() -> None:
    assert len({*SENTENCES}) == len(SENTENCES) == 30


# Exporting again


def test_a_bundle_may_hold_int8_alone(exported: Project, tmp_path: Path) -> None:
    export(exported.config(f"export.models={tmp_path}", 'export.variants=["int8"]'), exported.folder("first"))
    bundle = tmp_path / "who-sees-what" / "2"
    manifest = read_manifest(bundle)
    assert (set(manifest.variants), manifest.default_variant) == ({"int8"}, "int8")
    assert {one.variant for one in manifest.quality} == {"int8"}
    assert {path.name for path in bundle.glob("*.onnx")} == {"encoder.int8.onnx", "decoder.int8.onnx"}
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "| fp32 | no | " in card
    assert "| int8 | yes | " in card


def test_a_version_that_is_there_is_not_exported_again(exported: Project) -> None:
    with pytest.raises(FileExistsError, match=r"export\.replace=true"):
        export(exported.config(), exported.folder("first"))


def test_a_network_that_answers_no_number_is_not_exported_and_nothing_changes(
    exported: Project, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(exported.folder("first"), broken)
    weights = torch.load(broken / "best.pt", weights_only=True)
    weights["output.weight"][1, 5] = float("nan")
    torch.save(weights, broken / "best.pt")
    with pytest.raises(ValueError, match="differs from PyTorch by nan"):
        export(exported.config(f"export.models={tmp_path / 'models'}"), broken)
    assert not (tmp_path / "models" / "who-sees-what").exists()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("export.sizes=[8, 12]", "multiple of 8"),
        ("export.sizes=[16, 8]", "sizes must rise"),
        ("export.sizes=[8, 8]", "each may be there once"),
        ('export.variants=["int4"]', "'fp32' or 'int8'"),
        ("export.variants=[]", "at least 1 item"),
    ],
)
def test_a_configuration_that_can_not_be_exported_is_refused(project: Project, override: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        project.config(override)


# Each check of the export, on graphs that are bad in just its way


@pytest.mark.parametrize("quantised", [False, True])
def test_sound_graphs_pass(tmp_path: Path, quantised: bool) -> None:
    files = written(small(), tmp_path, quantised=quantised)
    check(files, small(), quantised=quantised, sizes=SIZES, seed=1)


def _refused(
    folder: Path, role: str, change: Callable[[onnx.GraphProto], None], problem: str, *, quantised: bool = False
) -> None:
    files = written(small(), folder, quantised=quantised)
    model = onnx.load(files[role])
    change(model.graph)
    onnx.save(model, files[role])
    with pytest.raises(ValueError, match=problem):
        check(files, small(), quantised=quantised, sizes=SIZES, seed=1)


def _node(graph: onnx.GraphProto, output: str) -> onnx.NodeProto:
    (found,) = (node for node in graph.node if output in node.output)
    return found


@pytest.mark.parametrize(
    ("role", "tensor", "axis"),
    [
        (ENCODER, "tokens", 0),
        (ENCODER, "tokens", 1),
        (ENCODER, "memory", 1),
        (DECODER, "present", 1),
        (DECODER, "token", 0),
    ],
)
def test_a_frozen_axis_is_refused(tmp_path: Path, role: str, tensor: str, axis: int) -> None:
    def freeze(graph: onnx.GraphProto) -> None:
        (value,) = (one for one in (*graph.input, *graph.output) if one.name == tensor)
        value.type.tensor_type.shape.dim[axis].dim_value = 8

    _refused(tmp_path, role, freeze, f"'{tensor}' is declared as")


def test_a_decoder_that_looks_at_padding_is_refused(tmp_path: Path) -> None:
    def look(graph: onnx.GraphProto) -> None:
        _node(graph, "attention").input[0] = "all_scores"

    _refused(tmp_path, DECODER, look, "decoder.onnx: '(tokens|logprobs|next_state|attention)' of a row of .* filled up")


def test_an_encoder_that_reads_beyond_a_sentences_end_is_refused(tmp_path: Path) -> None:
    def read_on(graph: onnx.GraphProto) -> None:
        _node(graph, "present_by_step").CopyFrom(
            helper.make_node("GreaterOrEqual", ["tokens_by_step", "at_0"], ["present_by_step"])
        )

    _refused(tmp_path, ENCODER, read_on, "encoder.onnx: '(memory|state)' of a row of .* filled up")


def test_a_state_that_is_not_handed_on_is_refused(tmp_path: Path) -> None:
    def keep(graph: onnx.GraphProto) -> None:
        _node(graph, "next_state").CopyFrom(helper.make_node("Identity", ["state"], ["next_state"]))

    _refused(tmp_path, DECODER, keep, "differs from PyTorch by")


def test_the_graphs_of_another_network_are_refused(tmp_path: Path) -> None:
    files = written(small(9), tmp_path, quantised=False)
    with pytest.raises(ValueError, match="differs from PyTorch by"):
        check(files, small(), quantised=False, sizes=SIZES, seed=1)


@pytest.mark.parametrize(("role", "name"), [(ENCODER, "encoder"), (DECODER, "decoder")])
def test_a_graph_that_was_not_quantised_is_refused(tmp_path: Path, role: str, name: str) -> None:
    (tmp_path / "floats").mkdir()
    files = {
        **written(small(), tmp_path, quantised=True),
        role: written(small(), tmp_path / "floats", quantised=False)[role],
    }
    with pytest.raises(ValueError, match=rf"{name}\.onnx is not quantised throughout"):
        check(files, small(), quantised=True, sizes=SIZES, seed=1)


def test_weights_of_eight_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.core.graph_writer.LARGEST_WEIGHT", 127)
    files = written(small(), tmp_path, quantised=True)
    with pytest.raises(ValueError, match="more than seven bits"):
        check(files, small(), quantised=True, sizes=SIZES, seed=1)


# What is decided on the way


@pytest.mark.parametrize(
    ("variants", "lost", "seconds", "default"),
    [
        (("fp32", "int8"), 0.0, 0.5, "int8"),
        (("fp32", "int8"), 0.5, 0.5, "int8"),
        (("fp32", "int8"), 0.51, 0.5, "fp32"),
        (("fp32", "int8"), -0.3, 2.0, "fp32"),
        (("int8",), 0.5, 2.0, "int8"),
        (("fp32",), 0.0, 0.5, "fp32"),
    ],
)
def test_the_fastest_variant_of_the_bundle_that_loses_little_is_the_default(
    project: Project, variants: tuple[str, ...], lost: float, seconds: float, default: str
) -> None:
    asked = project.config().export.model_copy(update={"variants": variants, "max_bleu_loss": 0.5})
    measured = {"fp32": _Variant(30.0, 2, 1.0), "int8": _Variant(30.0 - lost, 1, seconds)}
    assert _choose_default(measured, asked) == default


def test_int8_that_loses_too_much_is_no_bundle_alone(project: Project) -> None:
    asked = project.config().export.model_copy(update={"variants": ("int8",), "max_bleu_loss": 0.5})
    measured = {"fp32": _Variant(30.0, 2, 1.0), "int8": _Variant(29.0, 1, 0.5)}
    with pytest.raises(ValueError, match=r"int8 loses 1\.00 BLEU on the validation part, allowed are 0\.5"):
        _choose_default(measured, asked)


def test_the_length_penalty_is_the_best_on_the_validation_part(
    exported: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = exported.config("export.length_penalties=[0.0, 0.7, 1.0]")
    _, corpus, tokenizer, _ = load_trained(config, exported.folder("first"))
    asked = []

    class Scores:
        def __init__(self, bleu: float) -> None:
            self.scores, self.bleu = self, bleu

    def figures(_: object, __: object, part: str, examples: object, search: SearchConfig, language: str) -> Scores:
        assert (part, examples, language) == ("validation", corpus.validation, config.export.source)
        asked.append((search.beam, search.length_penalty))
        return Scores({0.0: 20.0, 0.7: 22.0, 1.0: 21.0}[search.length_penalty])

    monkeypatch.setattr(export_module, "measured", figures)
    engine = GraphEngine(exported.bundle / "encoder.onnx", exported.bundle / "decoder.onnx")
    assert _choose_search(engine, corpus, tokenizer, config) == SearchConfig(beam=3, length_penalty=0.7)
    assert asked == [(3, 0.0), (3, 0.7), (3, 1.0)]


# Golden rows


def test_golden_rows_begin_and_go_on_with_likely_tokens(exported: Project) -> None:
    _, _, tokenizer, model = load_trained(exported.config(), exported.folder("first"))
    rows = golden_rows(model, tokenizer, (8, 16, 32))
    encoder, decoder = rows[ENCODER], rows[DECODER]
    assert encoder.inputs[LENGTHS][0] == 1
    assert encoder.inputs[TOKENS][0, 0] == END_TOKEN
    assert len(set(encoder.inputs[LENGTHS].tolist())) > 3
    assert encoder.inputs[TOKENS].shape[1] % 8 == 0
    assert decoder.inputs[TOKEN][0] == START_TOKEN
    np.testing.assert_array_equal(decoder.inputs[STATE][0], encoder.expected[STATE][0])
    one = network_decode(model, np.full(12, START_TOKEN), encoder.expected)
    assert decoder.inputs[TOKEN][1] == one[CANDIDATES][1, 0]
    assert len({row.tobytes() for row in decoder.inputs[STATE]}) == 12
    np.testing.assert_array_equal(decoder.inputs[MEMORY], encoder.expected[MEMORY])
    again = network_read(model, encoder.inputs)
    np.testing.assert_array_equal(encoder.expected[MEMORY], again[MEMORY])


def test_the_effect_of_a_rounding_is_small_and_more_than_of_the_noise(exported: Project) -> None:
    _, _, tokenizer, model = load_trained(exported.config(), exported.folder("first"))
    files = {role: exported.bundle / f"{role}.int8.onnx" for role in (ENCODER, DECODER)}
    effect = effect_of_a_rounding(files, golden_rows(model, tokenizer, (8, 16, 32)), seed=1)
    assert 5 * export_module._NUDGE < effect < 0.5


def test_graphs_are_written_alike_each_time() -> None:
    for graph in (encoder_graph, decoder_graph):
        first, again = (graph(small(), quantised=True).SerializeToString(deterministic=True) for _ in range(2))
        assert first == again
