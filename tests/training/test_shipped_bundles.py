"""The bundles in `models/`: as good as they say, and small enough to ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.images import normalise
from service.manifest import read_manifest
from service.repository.scan import BundleFolder, scan
from training.core.export import open_session
from training.image_classification.data import DataConfig, load_data

MODELS = Path(__file__).parents[2] / "models"
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


@pytest.mark.data
@pytest.mark.parametrize("folder", _bundles(), ids=_name)
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
