from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.training.translation.conftest import Project
from training.translation.data import load_corpus
from training.translation.evaluate import evaluate


def test_both_parts_are_measured_greedily_and_with_the_beam(trained: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="training")
    folder = trained.folder("first")
    evaluate(trained.config(), folder)
    report = json.loads((folder / "evaluation.json").read_bytes())
    assert [(one["part"], one["beam"]) for one in report["results"]] == [
        ("validation", 1), ("validation", 3), ("test", 1), ("test", 3),
    ]  # fmt: skip
    corpus = load_corpus(trained.config().data)
    assert [one["n"] for one in report["results"]] == [len(corpus.validation)] * 2 + [len(corpus.test)] * 2
    best = max(row["validation_bleu"] for row in trained.run().read_history())
    assert report["results"][0]["bleu"] == pytest.approx(best)
    assert (report["test_pairs_with_a_translation_in_train"], report["pairs_trained_on"]) == (0, len(corpus.train))
    assert "validation, beam 1, length penalty 0: BLEU" in caplog.text
    assert "|tok:13a|" in caplog.text
    assert (folder / "history.png").is_file()


def test_a_beam_of_one_is_measured_once(trained: Project) -> None:
    folder = trained.folder("first")
    evaluate(trained.config("search.beam=1"), folder)
    results = json.loads((folder / "evaluation.json").read_bytes())["results"]
    assert [(one["part"], one["beam"]) for one in results] == [("validation", 1), ("test", 1)]


def test_there_must_be_a_run_that_has_finished_an_epoch(project: Project, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        evaluate(project.config(), tmp_path)
