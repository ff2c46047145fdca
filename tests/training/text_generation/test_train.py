from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.text_generation.conftest import Project
from training.text_generation import train as train_module
from training.text_generation.data import Chunk, load_text
from training.text_generation.evaluate import load_trained
from training.text_generation.train import CarriedState, train, watched_loss


def test_a_run_learns_a_rhyme_by_heart(trained: Project) -> None:
    history = trained.run().read_history()
    assert history[-1]["validation_loss"] < 0.5 < 2 < history[0]["train_loss"]


def test_a_run_leaves_its_curve_its_weights_and_where_it_was_made(trained: Project) -> None:
    names = {path.name for path in trained.folder("first").iterdir()}
    assert names >= {"best.pt", "checkpoint.pt", "config.json", "hardware.json", "history.csv", "history.png"}


def test_what_is_kept_is_the_end_of_the_run_and_not_what_did_best_on_the_validation_part(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse_and_worse = iter((1.0, 2.0))
    monkeypatch.setattr(train_module, "watched_loss", lambda *_: next(worse_and_worse))
    train(project.config("fit.epochs=2"), tmp_path)
    best, last = (torch.load(tmp_path / name, weights_only=True) for name in ("best.pt", "checkpoint.pt"))
    averaged = last["parts"]["averaged"]
    assert all(torch.equal(value, averaged[f"module.{name}"]) for name, value in best.items())


@pytest.mark.parametrize("fatal", [3, 27, 28, 60])
def test_a_run_cut_off_anywhere_gives_the_bits_of_one_that_was_not(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    class Killed(Exception):
        pass

    whole, seen, often = train_module.training_chunks, [0], trained.config("fit.checkpoint_minutes=0")

    def until_killed(*arguments: Any, **options: Any) -> Iterator[Chunk]:
        for chunk in whole(*arguments, **options):
            seen[0] += 1
            if seen[0] == fatal:
                raise Killed
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "training_chunks", until_killed)
        with pytest.raises(Killed):
            train(often, tmp_path)
    train(often, tmp_path)
    first, second = (torch.load(path / "best.pt", weights_only=True) for path in (trained.folder("first"), tmp_path))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_streams_that_begin_anew_have_the_zero_state_and_others_go_on() -> None:
    carried = CarriedState((torch.ones(3, 2, 4), 2 * torch.ones(3, 2, 4)))
    hidden, cell = carried.begin(torch.tensor([False, True, False]))
    assert hidden[:, 0, 0].tolist() == [1, 0, 1]
    assert cell[:, 0, 0].tolist() == [2, 0, 2]


def test_no_gradient_goes_back_through_a_carried_state() -> None:
    carried = CarriedState((torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)))
    weight = torch.ones(1, 1, 1, requires_grad=True)
    carried.end((2 * weight, 3 * weight))
    hidden, cell = carried.begin(torch.tensor([False]))
    assert (float(hidden), float(cell)) == (2, 3)
    assert not hidden.requires_grad
    assert not cell.requires_grad


def test_l1_makes_weights_small(project: Project, tmp_path: Path) -> None:
    totals = {}
    for l1 in (0.0, 0.01):
        train(project.config(f"train.l1={l1}", "fit.epochs=1"), tmp_path / str(l1))
        weights = torch.load(tmp_path / str(l1) / "best.pt", weights_only=True)
        totals[l1] = float(sum(value.abs().sum() for value in weights.values() if value.ndim > 1))
    assert totals[0.01] < 0.8 * totals[0.0]


def test_a_tied_network_trains_too(project: Project, tmp_path: Path) -> None:
    train(project.config("model.tied=true", "model.embedding=32", "fit.epochs=1"), tmp_path)
    weights = torch.load(tmp_path / "best.pt", weights_only=True)
    assert torch.equal(weights["head.weight"], weights["embedding.weight"])


def test_the_loss_that_is_watched_is_near_the_exact_one(trained: Project) -> None:
    _, text, model = load_trained(trained.config(), trained.folder("first"))
    tokens = text.validation
    with torch.no_grad():
        before = torch.cat([torch.tensor([text.start]), tokens[:-1]])
        logits, _ = model(before[:, None], model.zero_state(1))
    exact = float(torch.nn.functional.cross_entropy(logits[:, 0], tokens))
    assert watched_loss(model, text) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("change", ["seed=5", "model.hidden=48", "train.steps=16", "fit.epochs=6"])
def test_a_run_is_not_gone_on_with_otherwise_than_it_was_begun(trained: Project, change: str) -> None:
    with pytest.raises(ValueError, match="first holds a run of another configuration"):
        train(trained.config(change), trained.folder("first"))


def test_a_text_too_short_for_a_chunk_is_refused(project: Project, tmp_path: Path) -> None:
    length = len(load_text(project.config().data).train)
    with pytest.raises(ValueError, match=f"{length} characters to train on are no 400 streams of 24 each"):
        train(project.config("train.streams=400"), tmp_path)


def test_a_run_notes_its_configuration_but_for_the_export(trained: Project) -> None:
    noted = json.loads((trained.folder("first") / "config.json").read_bytes())
    assert set(noted) == {"seed", "data", "model", "fit", "train"}
