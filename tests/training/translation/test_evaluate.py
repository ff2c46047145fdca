from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from service.manifest import read_manifest
from tests.training.translation.conftest import Project
from training.core.bundle import write_manifest
from training.translation.data import load_corpus
from training.translation.evaluate import evaluate


@pytest.fixture
def unexported(trained: Project, tmp_path: Path) -> str:
    """What to say for there to be no bundle."""
    return f"export.models={tmp_path / 'none'}"


# The network


def test_both_parts_are_measured_greedily_and_with_the_beam(
    trained: Project, unexported: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="training")
    folder = trained.folder("first")
    evaluate(trained.config(unexported), folder)
    report = json.loads((folder / "evaluation.json").read_bytes())
    assert [(one["part"], one["beam"]) for one in report["results"]] == [
        ("validation", 1), ("validation", 3), ("test", 1), ("test", 3),
    ]  # fmt: skip
    corpus = load_corpus(trained.config().data)
    assert [one["n"] for one in report["results"]] == [len(corpus.validation)] * 2 + [len(corpus.test)] * 2
    best = max(row["validation_bleu"] for row in trained.run().read_history())
    assert report["results"][0]["bleu"] == pytest.approx(best)
    assert (report["test_pairs_with_a_translation_in_train"], report["pairs_trained_on"]) == (0, len(corpus.train))
    assert "PyTorch, validation, beam 1, length penalty 0: BLEU" in caplog.text
    assert "|tok:13a|" in caplog.text
    assert (folder / "history.png").is_file()


def test_a_beam_of_one_is_measured_once(trained: Project, unexported: str) -> None:
    folder = trained.folder("first")
    evaluate(trained.config("search.beam=1", unexported), folder)
    results = json.loads((folder / "evaluation.json").read_bytes())["results"]
    assert [(one["part"], one["beam"]) for one in results] == [("validation", 1), ("test", 1)]


def test_there_must_be_a_run_that_has_finished_an_epoch(project: Project, unexported: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        evaluate(project.config(unexported), tmp_path)


# The bundle


def test_the_bundles_graphs_have_the_figures_of_its_manifest(
    exported: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="training")
    evaluate(exported.config(), tmp_path / "no run")
    manifest = read_manifest(exported.bundle)
    for one in manifest.quality:
        if (one.variant, one.split) == (manifest.default_variant, "test"):
            assert f"{exported.bundle}: {one.metric} {one.value:.2f}, manifest {one.value:.2f}" in caplog.text
    assert "PyTorch, " not in caplog.text
    assert not (tmp_path / "no run").exists()


def _other_bundle(exported: Project, folder: Path, **changes: object) -> str:
    """A copy of the bundle with another manifest; returns what to say for it to be evaluated."""
    bundle = folder / "models" / "who-sees-what" / "2"
    shutil.copytree(exported.bundle, bundle)
    write_manifest(bundle, read_manifest(bundle).model_copy(update=changes))
    return f"export.models={folder / 'models'}"


@pytest.mark.parametrize("metric", ["bleu", "chrf_greedy"])
def test_a_bundle_that_claims_more_is_refused(exported: Project, tmp_path: Path, metric: str) -> None:
    quality = tuple(
        one.model_copy(update={"value": one.value + 0.5}) if one.metric == metric else one
        for one in read_manifest(exported.bundle).quality
    )
    bundle = _other_bundle(exported, tmp_path, quality=quality)
    with pytest.raises(ValueError, match=rf"{metric} is .*, and its manifest says"):
        evaluate(exported.config(bundle), tmp_path / "no run")


def test_a_bundle_of_other_pairs_is_not_measured_on_these(
    exported: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="training")
    origin = read_manifest(exported.bundle).provenance
    assert origin is not None
    data = origin.data.model_copy(update={"sha256": {"pairs.tsv": "0" * 64}})
    bundle = _other_bundle(exported, tmp_path, provenance=origin.model_copy(update={"data": data}))
    evaluate(exported.config(bundle), exported.folder("first"))
    assert "was made from something else than Who sees what" in caplog.text
    assert "PyTorch, test, beam 3" in caplog.text
    assert ", manifest " not in caplog.text
