"""The bundles in `models/`: as good as they say, and small enough to ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.images import normalise
from service.manifest import (
    CharacterPreprocessing,
    ImagePreprocessing,
    ImagesPostprocessing,
    TokenizerPreprocessing,
    read_manifest,
)
from service.repository.scan import BundleFolder, scan
from training.core.config import read_config
from training.core.export import open_session
from training.image_classification.data import DataConfig, load_data
from training.text_generation.evaluate import evaluate
from training.text_generation.train import Config as TextConfig
from training.translation.evaluate import evaluate as evaluate_translation
from training.translation.train import Config as TranslationConfig

MODELS = Path(__file__).parents[2] / "models"
TEXT_CONFIG = Path(__file__).parents[2] / "training" / "text_generation" / "config.toml"
TRANSLATION_CONFIG = Path(__file__).parents[2] / "training" / "translation" / "config.toml"
LARGEST_SUM = 60e6


def _bundles() -> list[BundleFolder]:
    return scan(MODELS) if MODELS.is_dir() else []


def _name(folder: BundleFolder) -> str:
    return f"{folder.name}-{folder.version}"


def test_all_bundles_together_stay_under_60_megabytes() -> None:
    sizes = {str(path): path.stat().st_size for path in MODELS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < LARGEST_SUM, sizes


@pytest.mark.parametrize("folder", _bundles(), ids=_name)
def test_the_name_of_a_bundle_is_the_one_in_its_configuration(folder: BundleFolder) -> None:
    export = read_manifest(folder.path).provenance.config["export"]
    assert (export["name"], export["version"]) == (folder.name, folder.version)


@pytest.mark.parametrize("folder", _bundles(), ids=_name)
def test_a_bundle_passes_the_notice_of_its_initial_weights_on(folder: BundleFolder) -> None:
    weights = read_manifest(folder.path).provenance.initial_weights
    if weights is None:
        pytest.skip("was trained from nothing")
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert weights.url in card
    assert "Copyright (c) 2018, Yerlan Idelbayev" in card
    assert "Redistributions in binary form must reproduce the above copyright" in card


def _classifiers() -> list[BundleFolder]:
    return [one for one in _bundles() if isinstance(read_manifest(one.path).preprocessing, ImagePreprocessing)]


@pytest.mark.data
@pytest.mark.parametrize("folder", _classifiers(), ids=_name)
def test_the_default_graph_has_the_accuracy_that_its_manifest_claims(folder: BundleFolder, fashion_mnist: Path) -> None:
    assert fashion_mnist.is_dir()
    manifest = read_manifest(folder.path)
    if manifest.provenance.data.name != "Fashion-MNIST":
        pytest.skip(f"was trained on {manifest.provenance.data.name}")
    test = load_data(DataConfig()).test
    session = open_session(folder.path / manifest.default.graphs["model"].file, threads=1)
    answers = np.concatenate(
        [
            session.run(None, {"image": normalise(pixels.numpy(), manifest.preprocessing)})[0].argmax(1)
            for pixels in test.pixels.split(500)
        ]
    )
    (claim,) = (
        one
        for one in manifest.quality
        if (one.metric, one.split, one.variant) == ("accuracy", "test", manifest.default_variant)
    )
    assert claim.n == len(answers) == 10_000
    assert abs(float((answers == test.labels.numpy()).mean()) - claim.value) <= 0.001


def _text_bundles() -> list[BundleFolder]:
    return [one for one in _bundles() if isinstance(read_manifest(one.path).preprocessing, CharacterPreprocessing)]


@pytest.mark.parametrize("folder", _text_bundles(), ids=_name)
def test_a_character_model_is_small_and_int8_loses_little(folder: BundleFolder) -> None:
    manifest = read_manifest(folder.path)
    loss = {one.variant: one.value for one in manifest.quality if one.metric == "loss_nats"}
    assert manifest.parameters <= 3_500_000
    assert sum(entry.bytes for entry in manifest.files.values()) < 14e6
    assert manifest.default_variant == "int8"
    assert abs(loss["int8"] - loss["fp32"]) <= 0.01
    assert loss["int8"] <= 1.45


@pytest.mark.data
@pytest.mark.parametrize("folder", _text_bundles(), ids=_name)
def test_the_default_graph_has_the_loss_that_its_manifest_claims(
    folder: BundleFolder, tiny_shakespeare: Path, tmp_path: Path
) -> None:
    assert tiny_shakespeare.is_dir()
    config = read_config(TextConfig, TEXT_CONFIG, [f"export.models={MODELS}", f"export.version={folder.version}"])
    if config.export.name != folder.name:
        pytest.skip("was trained on another text")
    evaluate(config, tmp_path / "no run")


def _translators() -> list[BundleFolder]:
    return [one for one in _bundles() if isinstance(read_manifest(one.path).preprocessing, TokenizerPreprocessing)]


@pytest.mark.parametrize("folder", _translators(), ids=_name)
def test_a_translator_is_small_and_passes_the_attribution_of_its_sentences_on(folder: BundleFolder) -> None:
    manifest = read_manifest(folder.path)
    figures = {
        (one.metric, one.split): one.value for one in manifest.quality if one.variant == manifest.default_variant
    }
    assert manifest.parameters <= 10_000_000
    assert sum(entry.bytes for entry in manifest.files.values()) <= 25e6
    assert figures["bleu", "test"] >= 28
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert "Attribution: www.manythings.org/anki and tatoeba.org" in card


@pytest.mark.data
@pytest.mark.parametrize("folder", _translators(), ids=_name)
def test_the_default_graphs_have_the_figures_that_their_manifest_claims(
    folder: BundleFolder, tatoeba: Path, tmp_path: Path
) -> None:
    assert tatoeba.is_dir()
    config = read_config(
        TranslationConfig, TRANSLATION_CONFIG, [f"export.models={MODELS}", f"export.version={folder.version}"]
    )
    if config.export.name != folder.name:
        pytest.skip("was trained on other sentences")
    evaluate_translation(config, tmp_path / "no run")


def _generators() -> list[BundleFolder]:
    return [one for one in _bundles() if isinstance(read_manifest(one.path).postprocessing, ImagesPostprocessing)]


@pytest.mark.parametrize("folder", _generators(), ids=_name)
def test_a_generator_is_small_draws_what_it_is_asked_for_and_passes_the_licence_of_its_data_on(
    folder: BundleFolder,
) -> None:
    manifest = read_manifest(folder.path)
    figures = {one.metric: one.value for one in manifest.quality}
    assert manifest.parameters <= 2_000_000
    assert sum(entry.bytes for entry in manifest.files.values()) <= 10e6
    assert figures["label_agreement"] >= 0.9
    assert figures["gan_train_points_below_real"] <= 12
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in card
    assert {name for name in manifest.files if name.endswith(".png")} <= {
        "arithmetic-1.png", "interpolation.png", "samples.png", "watch.png",
    }, "what else is shown may be of the data"  # fmt: skip
