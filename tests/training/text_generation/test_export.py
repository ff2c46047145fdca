from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from service.manifest import CharacterPreprocessing, Manifest, StatePair, Step, read_manifest
from service.repository.bundle import LoadOptions, verify_bundle
from service.repository.scan import scan
from service.tasks.base import TaskLimits
from tests.training.text_generation.conftest import Project
from tests.training.text_generation.test_graph import VOCABULARY, network
from training.text_generation import export as export_module
from training.text_generation.evaluate import Loss, StepModel, load_trained, measure, metrics
from training.text_generation.export import (
    _choose_default,
    _Measured,
    check,
    effect_of_a_rounding,
    export,
    golden_rows,
    replacements,
    run_network,
)
from training.text_generation.graph import round_to_half, step_graph

FILES = {"README.md", "golden.npz", "history.png", "step.int8.onnx", "step.onnx", "vocab.json"}
OPTIONS = LoadOptions(
    providers=("CPUExecutionProvider",), threads=1, max_batch_rows=8, limits=TaskLimits(max_pixels=10_000)
)


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
    vocabulary = json.loads((exported.bundle / "vocab.json").read_text(encoding="utf-8"))
    assert vocabulary == sorted({*exported.text.read_text(encoding="utf-8")})


def test_the_manifest_says_what_goes_from_step_to_step(manifest: Manifest) -> None:
    assert manifest.task == "text-generation"
    assert isinstance(manifest.preprocessing, CharacterPreprocessing)
    assert manifest.preprocessing.start == "\n"
    for variant in manifest.variants.values():
        graph = variant.graphs["step"]
        assert graph.batched
        assert graph.step == Step(
            token="token", logits="logits", states=(StatePair(input="state", output="next_state"),)
        )
        assert {one.name: (one.datatype, one.shape) for one in (*graph.inputs, *graph.outputs)} == {
            "token": ("INT64", ("batch",)),
            "state": ("FP32", ("batch", 128)),
            "logits": ("FP32", ("batch", 28)),
            "next_state": ("FP32", ("batch", 128)),
        }


def test_the_manifest_says_where_the_model_comes_from(exported: Project, manifest: Manifest) -> None:
    run, text, model = load_trained(exported.config(), exported.folder("first"))
    origin = manifest.provenance
    assert origin is not None
    assert manifest.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (origin.data.name, origin.data.licence, origin.data.sha256) == ("A rhyme", "CC0-1.0", text.sha256)
    assert (origin.seed, origin.config["fit"]["epochs"], origin.initial_weights) == (4, 5, None)
    assert origin.training_seconds == round(sum(row["seconds"] for row in run.read_history()))


def test_every_figure_of_the_manifest_is_what_its_graph_does(exported: Project, manifest: Manifest) -> None:
    _, text, _ = load_trained(exported.config(), exported.folder("first"))
    for name, variant in manifest.variants.items():
        found = measure(StepModel(exported.bundle / variant.graphs["step"].file), text.validation.numpy(), text.start)
        claimed = {one.metric: one.value for one in manifest.quality if one.variant == name}
        assert claimed == metrics(found)
    first = manifest.quality[0]
    assert (first.metric, first.split, first.n) == ("loss_nats", "validation", 425)
    assert first.variant == manifest.default_variant


def test_the_golden_file_holds_made_up_inputs_with_the_answers_of_both(exported: Project, manifest: Manifest) -> None:
    _, _, model = load_trained(exported.config(), exported.folder("first"))
    round_to_half(model)
    with np.load(exported.bundle / "golden.npz", allow_pickle=False) as golden:
        arrays = dict(golden)
    assert len(arrays) == 8
    tokens, state = arrays["inputs/step/token"], arrays["inputs/step/state"]
    assert len(tokens) == len(state) == 24
    assert not state[0].any(), "a text's start is among them"
    assert len({row.tobytes() for row in state}) == 24
    logits, after = run_network(model, tokens[None], state)
    expected = {"logits": logits[0], "next_state": after}
    for output, values in expected.items():
        np.testing.assert_allclose(arrays[f"framework/step/{output}"], values, rtol=0, atol=1e-5)
        for name, variant in manifest.variants.items():
            found = arrays[f"runtime/{name}/step/{output}"]
            assert np.abs(found - values).max() <= variant.tolerance.framework
    assert manifest.variants["fp32"].tolerance.framework <= 1e-3
    assert manifest.variants["fp32"].tolerance.runtime <= manifest.variants["int8"].tolerance.runtime


def test_the_card_gives_figures_the_learning_curve_and_samples(exported: Project, manifest: Manifest) -> None:
    card = (exported.bundle / "README.md").read_text(encoding="utf-8")
    for one in manifest.quality:
        assert f"| {one.metric} | {one.value:.4f} | validation | 425 | {one.variant} | 4 |" in card
    assert "![Learning curve: " in card
    assert "](history.png)" in card
    for temperature in (0.5, 0.8, 1.0):
        assert f"Temperature {temperature}:\n\n```text\n" in card
    assert card.count("```") == 6


# Exporting again


def test_a_version_that_is_there_is_not_exported_again(exported: Project) -> None:
    with pytest.raises(FileExistsError, match=r"export\.replace=true"):
        export(exported.config(), exported.folder("first"))


def test_a_network_that_answers_no_number_is_not_exported_and_nothing_changes(
    exported: Project, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(exported.folder("first"), broken)
    weights = torch.load(broken / "best.pt", weights_only=True)
    weights["head.weight"][1, 5] = float("nan")
    torch.save(weights, broken / "best.pt")
    with pytest.raises(ValueError, match="differs from PyTorch by nan"):
        export(exported.config(f"export.models={tmp_path / 'models'}"), broken)
    assert not (tmp_path / "models" / "rhyme").exists()


# Each check of the export, on a graph that is bad in just its way


def _refused(graph: onnx.ModelProto, path: Path, problem: str, *, quantised: bool = False) -> None:
    onnx.save(graph, path)
    with pytest.raises(ValueError, match=problem):
        check(path, network(), quantised=quantised, seed=1)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_sound_graph_passes(tmp_path: Path, quantised: bool) -> None:
    onnx.save(step_graph(network(), quantised=quantised), tmp_path / "step.onnx")
    check(tmp_path / "step.onnx", network(), quantised=quantised, seed=1)


@pytest.mark.parametrize("tensor", ["token", "state", "logits", "next_state"])
def test_a_frozen_batch_axis_is_refused(tmp_path: Path, tensor: str) -> None:
    graph = step_graph(network(), quantised=False)
    (value,) = (one for one in (*graph.graph.input, *graph.graph.output) if one.name == tensor)
    value.type.tensor_type.shape.dim[0].dim_value = 2
    _refused(graph, tmp_path / "step.onnx", f"'{tensor}' is declared as")


def test_a_graph_with_another_state_is_refused(tmp_path: Path) -> None:
    _refused(step_graph(network(3), quantised=False), tmp_path / "step.onnx", "'state' is declared as .*192")


def test_the_graph_of_another_network_is_refused(tmp_path: Path) -> None:
    _refused(step_graph(network(seed=9), quantised=False), tmp_path / "step.onnx", "differs from PyTorch by")


def test_a_state_that_is_not_handed_on_is_refused(tmp_path: Path) -> None:
    graph = step_graph(network(), quantised=False)
    (last,) = (node for node in graph.graph.node if node.output[0] == "next_state")
    last.CopyFrom(helper.make_node("Identity", ["state"], ["next_state"]))
    _refused(graph, tmp_path / "step.onnx", "differs from PyTorch by")


def test_a_graph_in_which_neighbours_count_is_refused(tmp_path: Path) -> None:
    onnx.save(step_graph(network(), quantised=False), tmp_path / "step.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "floats.onnx")
    ort.InferenceSession(tmp_path / "step.onnx", options, providers=["CPUExecutionProvider"])
    quantize_dynamic(
        str(tmp_path / "floats.onnx"), str(tmp_path / "dynamic.onnx"), weight_type=QuantType.QInt8, reduce_range=True
    )
    graph = onnx.load(tmp_path / "dynamic.onnx")
    assert any(node.op_type == "DynamicQuantizeLinear" for node in graph.graph.node)
    _refused(graph, tmp_path / "step.onnx", "of a row is another alone", quantised=True)


def test_a_graph_that_was_not_quantised_is_refused(tmp_path: Path) -> None:
    _refused(step_graph(network(), quantised=False), tmp_path / "step.onnx", "not quantised throughout", quantised=True)


def test_weights_of_eight_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.core.graph_writer.LARGEST_WEIGHT", 127)
    _refused(step_graph(network(), quantised=True), tmp_path / "step.onnx", "more than seven bits", quantised=True)


# What is decided on the way


@pytest.mark.parametrize(
    ("lost", "seconds", "default"),
    [(0.0, 0.5, "int8"), (0.01, 0.5, "int8"), (0.0101, 0.5, "fp32"), (-0.1, 0.5, "int8"), (0.0, 2.0, "fp32")],
)
def test_the_faster_variant_becomes_the_default_at_a_small_loss(lost: float, seconds: float, default: str) -> None:
    measured = {
        "fp32": _Measured(Loss(100, 1.4, 1.5), 1.0),
        "int8": _Measured(Loss(100, 1.4 + lost, 1.5), seconds),
    }
    assert _choose_default(measured, max_loss_nats=0.01) == default


def test_characters_outside_the_vocabulary_are_replaced_by_such_as_are_in_it() -> None:
    found = replacements("\n 'abcdefghijklmnopqrstuvwxyzABC-.")
    assert (found["\u2019"], found["\u2014"], found["\t"], found["\u00e9"], found["\u2026"]) == (
        "'",
        "--",
        " ",
        "e",
        "...",
    )
    assert found["\u00c4"] == "A"
    assert "\u00d6" not in found, "there is no O"
    assert "a" not in found
    assert "\u2019" not in replacements("abc\u2019'")
    assert "\u201c" not in replacements("abc")
    assert all(len(one) == 1 for one in found)


def test_golden_rows_are_the_same_for_a_seed() -> None:
    model = network()
    (first, expected), (again, _), (other, _) = (golden_rows(model, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["state"], other["state"])
    assert expected["logits"].shape == (24, VOCABULARY)


def test_the_effect_of_a_rounding_is_small_and_more_than_of_the_noise(tmp_path: Path) -> None:
    model = network()
    onnx.save(step_graph(model, quantised=True), tmp_path / "step.onnx")
    inputs, _ = golden_rows(model, seed=1)
    assert 10 * export_module._NUDGE < effect_of_a_rounding(tmp_path / "step.onnx", inputs, seed=1) < 0.1
