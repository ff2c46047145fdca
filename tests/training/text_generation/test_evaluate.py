from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from service.manifest import read_manifest
from tests.training.text_generation.conftest import Project
from tests.training.text_generation.test_graph import VOCABULARY, network
from training.core.bundle import write_manifest
from training.text_generation.data import load_text
from training.text_generation.evaluate import (
    WINDOW,
    Loss,
    StepModel,
    evaluate,
    log_probabilities,
    measure,
    metrics,
    sample,
    written,
)
from training.text_generation.graph import step_graph
from training.text_generation.model import CharacterLSTM

TOKENS = np.random.default_rng(2).integers(0, VOCABULARY, 2 * WINDOW + 37)


def _graph(model: CharacterLSTM, folder: Path) -> StepModel:
    onnx.save(step_graph(model, quantised=False), folder / "step.onnx")
    return StepModel(folder / "step.onnx")


@torch.no_grad()
def _expected(model: CharacterLSTM, before: torch.Tensor, wanted: torch.Tensor) -> float:
    """The summed loss of one row from the zero state, by PyTorch in one go."""
    logits, _ = model(before[:, None], model.zero_state(1))
    return float(functional.cross_entropy(logits[:, 0].double(), wanted, reduction="sum"))


def test_a_loss_is_of_every_character_with_the_state_carried_and_in_windows(tmp_path: Path) -> None:
    model, tokens = network(), torch.from_numpy(TOKENS)
    found = measure(_graph(model, tmp_path), TOKENS, start=5)
    before = torch.cat([torch.tensor([5]), tokens[:-1]])
    windows = zip(before.split(WINDOW), tokens.split(WINDOW), strict=True)
    assert found.n == len(TOKENS)
    assert found.carried == pytest.approx(_expected(model, before, tokens) / len(tokens), abs=1e-5)
    assert found.windows == pytest.approx(sum(_expected(model, *window) for window in windows) / len(tokens), abs=1e-5)
    assert found.carried != found.windows


def test_a_text_shorter_than_a_window_has_one_loss(tmp_path: Path) -> None:
    found = measure(_graph(network(), tmp_path), TOKENS[:100], start=0)
    assert found.carried == pytest.approx(found.windows, abs=1e-12)


def test_a_network_that_knows_nothing_loses_the_logarithm_of_the_vocabulary(tmp_path: Path) -> None:
    model = network()
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    found = measure(_graph(model, tmp_path), TOKENS[:300], start=0)
    assert (found.carried, found.windows) == pytest.approx((math.log(VOCABULARY),) * 2)
    assert found.bits == pytest.approx(math.log2(VOCABULARY))


def test_probabilities_of_large_logits_are_finite() -> None:
    logits = np.array([[1e30, 0, -1e30], [1000, 1001, 1002]], np.float32)
    found = log_probabilities(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(np.exp(found).sum(1), 1)


def test_figures_have_the_names_that_manifests_give_them() -> None:
    assert metrics(Loss(n=9, carried=math.log(2), windows=0.7)) == {
        "loss_nats": pytest.approx(0.6931, abs=1e-4),
        "loss_nats_windows_256": 0.7,
        "bits_per_character": pytest.approx(1),
    }


# Texts


def test_a_sample_is_a_function_of_its_seed(tmp_path: Path) -> None:
    graph = _graph(network(), tmp_path)
    first, again, other = (sample(graph, 0, 50, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert all(0 <= token < VOCABULARY for token in first)


def test_a_sample_follows_the_probabilities_and_the_temperature(tmp_path: Path) -> None:
    model = network()
    model.head.weight.data.zero_()
    model.head.bias.data = torch.linspace(0, 2, VOCABULARY)
    graph = _graph(model, tmp_path)
    for temperature in (0.5, 1.0):
        found = np.bincount(sample(graph, 0, 4000, temperature=temperature, seed=3), minlength=VOCABULARY) / 4000
        expected = torch.softmax(model.head.bias / temperature, 0).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_a_cold_sample_says_the_rhyme(exported: Project) -> None:
    manifest = read_manifest(exported.bundle)
    vocabulary = json.loads((exported.bundle / "vocab.json").read_text(encoding="utf-8"))
    graph = StepModel(exported.bundle / manifest.default.graphs["step"].file)
    said = "".join(vocabulary[token] for token in sample(graph, vocabulary.index("\n"), 300, temperature=0.1, seed=1))
    assert "buckle my shoe" in said or "knock at the door" in said


# The command


def test_evaluating_measures_the_run_and_the_bundle_again(exported: Project, caplog: pytest.LogCaptureFixture) -> None:
    (exported.folder("first") / "evaluation.json").unlink()
    with caplog.at_level(logging.INFO, "training"):
        evaluate(exported.config(), exported.folder("first"))
    figures = json.loads((exported.folder("first") / "evaluation.json").read_bytes())
    claimed = {one.metric: one.value for one in read_manifest(exported.bundle).quality if one.variant == "fp32"}
    assert {name: figures[name] for name in claimed} == pytest.approx(claimed, abs=1e-4)
    assert figures["n"] == 425
    assert "nats a character with carried state" in caplog.text
    assert f"manifest {claimed['loss_nats']:.4f}" in caplog.text or "step.int8.onnx: loss_nats" in caplog.text


def test_a_run_is_measured_where_nothing_was_exported(trained: Project, tmp_path: Path) -> None:
    evaluate(trained.config(f"export.models={tmp_path}"), trained.folder("first"))
    figures = json.loads((trained.folder("first") / "evaluation.json").read_bytes())
    assert figures["loss_nats"] < 0.5


def test_a_bundle_is_measured_where_its_run_is_not(exported: Project, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "training"):
        evaluate(exported.config(), exported.folder("never"))
    assert "loss_nats_windows_256" in caplog.text
    assert not exported.folder("never").exists()


def test_a_bundle_that_claims_another_loss_is_told(exported: Project, tmp_path: Path) -> None:
    bundle = tmp_path / "rhyme" / "3"
    shutil.copytree(exported.bundle, bundle)
    manifest = read_manifest(bundle)
    better = tuple(one.model_copy(update={"value": one.value - 0.01}) for one in manifest.quality)
    write_manifest(bundle, manifest.model_copy(update={"quality": better}))
    with pytest.raises(ValueError, match=r"rhyme/3: loss_nats is 0\.\d+, and its manifest says"):
        evaluate(exported.config(f"export.models={tmp_path}"), exported.folder("never"))


def test_a_bundle_of_another_text_is_no_bundle_of_this_one(exported: Project, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Baa, baa, black sheep, have you any wool?\n" * 20, encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="train first"):
        evaluate(exported.config(f"data.path={other}"), exported.folder("never"))


def test_what_a_run_wrote_is_text_again(trained: Project) -> None:
    text = load_text(trained.config().data)
    assert written(text.train[:3].tolist(), text) == "One"
