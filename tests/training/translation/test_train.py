from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.training.translation.conftest import Project
from training.translation import train as train_module
from training.translation.batches import Batch, Bucketing, batch_of
from training.translation.data import load_corpus
from training.translation.evaluate import load_trained
from training.translation.search import NetworkEngine, SearchConfig
from training.translation.tokens import PAD_TOKEN, encode, load_tokenizer
from training.translation.train import loss_of, tokenizer_of, train, translations

SHORT = ("fit.epochs=2", "fit.checkpoint_minutes=0", "model.decoder_hidden=16", "model.embedding=8")


@pytest.fixture(scope="module")
def whole(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that was not cut off."""
    folder = tmp_path_factory.mktemp("whole")
    train(project.config(*SHORT), folder)
    return folder


def test_a_run_learns_to_translate_sentences_that_it_has_not_seen(trained: Project) -> None:
    history = trained.run().read_history()
    assert history[-1]["validation_loss"] < 1 < 2 < history[0]["validation_loss"]
    assert history[-1]["validation_bleu"] > 60


def test_a_run_leaves_its_curve_its_weights_its_tokenizer_and_where_it_was_made(trained: Project) -> None:
    names = {path.name for path in trained.folder("first").iterdir()}
    assert names >= {"best.pt", "checkpoint.pt", "config.json", "hardware.json", "history.csv", "history.png"}
    assert load_tokenizer(trained.folder("first") / "tokenizer.json").get_vocab_size() == 400


@pytest.mark.parametrize("fatal", [2, 28, 29, 40])
def test_a_run_cut_off_anywhere_gives_the_bits_of_one_that_was_not(
    project: Project, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    class Killed(Exception):
        pass

    batches, seen = Bucketing.batches, [0]

    def until_killed(self: Bucketing, seed: int, *arguments: int) -> Iterator[Batch]:
        for batch in batches(self, seed, *arguments):
            seen[0] += seed == project.config().seed  # the validation part is read in batches too
            if seen[0] == fatal:
                raise Killed
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Bucketing, "batches", until_killed)
        with pytest.raises(Killed):
            train(project.config(*SHORT), tmp_path)
    train(project.config(*SHORT), tmp_path)
    first, second = (torch.load(folder / "best.pt", weights_only=True) for folder in (whole, tmp_path))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_what_is_kept_is_the_epoch_with_the_best_greedy_bleu(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = iter(({"validation_bleu": 9.0}, {"validation_bleu": 5.0}))
    first = {}

    def measured(network: torch.nn.Module, *_: Any) -> dict[str, float]:
        first.update(first or {name: value.clone() for name, value in network.state_dict().items()})
        return next(worse)

    monkeypatch.setattr(train_module, "measures", measured)
    train(project.config(*SHORT), tmp_path)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert all(torch.equal(value, first[name]) for name, value in best.items())


def test_tokens_are_learnt_from_the_training_part_alone_and_only_once(project: Project, tmp_path: Path) -> None:
    corpus = load_corpus(project.config().data)
    config = project.config().tokens
    learnt = tokenizer_of(tmp_path, corpus, config).to_str()
    object.__setattr__(corpus, "train", corpus.train[:9])  # a run that goes on has the same pairs, and learns no more
    assert tokenizer_of(tmp_path, corpus, config).to_str() == learnt
    (tmp_path / "tokenizer.json").unlink()
    assert tokenizer_of(tmp_path, corpus, config).to_str() != learnt


def test_the_loss_that_is_watched_is_that_of_all_tokens(trained: Project) -> None:
    _, corpus, tokenizer, model = load_trained(trained.config(), trained.folder("first"))
    sources, targets = (encode(tokenizer, side) for side in zip(*corpus.train[:30], strict=True))
    pairs = list(zip(sources, targets, strict=True))
    batch = batch_of(pairs)
    with torch.no_grad():
        logits = model.score(model(batch.sources, batch.given)).flatten(0, 1)
    expected = functional.cross_entropy(logits, batch.wanted.flatten(), ignore_index=PAD_TOKEN)
    assert loss_of(model, pairs) == pytest.approx(float(expected), rel=1e-5)


def test_translations_come_in_the_order_of_their_sentences(trained: Project) -> None:
    _, corpus, tokenizer, model = load_trained(trained.config(), trained.folder("first"))
    examples = corpus.test
    sources = [one.source for one in examples]
    found = translations(NetworkEngine(model), tokenizer, sources, SearchConfig(beam=1))
    assert translations(NetworkEngine(model), tokenizer, sources[::-1], SearchConfig(beam=1)) == found[::-1]
    names = [(one.source.split()[0], text.split()[0]) for one, text in zip(examples, found, strict=True)]
    assert sum(source == target for source, target in names) > len(names) / 2


def test_a_run_is_not_gone_on_with_otherwise_than_it_was_begun_but_may_be_searched_otherwise(trained: Project) -> None:
    for change in ("seed=5", "tokens.vocabulary=390", "train.batch_tokens=300"):
        with pytest.raises(ValueError, match="first holds a run of another configuration"):
            train(trained.config(change), trained.folder("first"))
    load_trained(trained.config("search.beam=7"), trained.folder("first"))
    noted = json.loads((trained.folder("first") / "config.json").read_bytes())
    assert set(noted) == {"seed", "data", "tokens", "model", "fit", "train"}
