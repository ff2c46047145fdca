from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.image_generation.conftest import Project, write_captions
from training.core.config import read_config
from training.core.loop import FitConfig
from training.image_classification.data import _PUBLISHED
from training.image_generation import text as text_module
from training.image_generation.captions import NOTHING, Caption, Captions, load_captions
from training.image_generation.text import (
    Reading,
    TextConfig,
    TextEncoder,
    choose_threshold,
    figures,
    load_text,
    measure_text,
    read,
    train_text,
)
from training.image_generation.train import TEXT, Config

COLOURS = ("blue", "green", "red")


@pytest.fixture
def captions(tmp_path: Path) -> Captions:
    return load_captions(str(write_captions(tmp_path / "captions")), COLOURS)


@pytest.fixture
def encoder(trained: Project) -> TextEncoder:
    return load_text(trained.config().text, trained.folder("first") / TEXT, 3)


def _replies(monkeypatch: pytest.MonkeyPatch, *rows: tuple[int, float]) -> None:
    """Have `read` find these classes and certainties, whatever it reads."""
    conditions = torch.eye(3)[[label for label, _ in rows]]
    meant = torch.tensor([sure for _, sure in rows], dtype=torch.float64)
    monkeypatch.setattr(text_module, "read", lambda _, texts: Reading(conditions[: len(texts)], meant[: len(texts)]))


def test_an_encoder_learns_what_texts_mean_and_which_mean_nothing(encoder: TextEncoder) -> None:
    found = read(encoder, ["blue", "draw a lime", "a picture of the scarlet", "draw a dog", "good morning"])
    assert found.conditions.argmax(1).tolist()[:3] == [0, 1, 2]
    assert float(found.meant[:3].min()) > float(found.meant[3:].max())
    torch.testing.assert_close(found.conditions.sum(1), torch.ones(5))


def test_a_text_is_read_the_same_alone_and_beside_longer_ones(encoder: TextEncoder) -> None:
    texts = ["blue", "", "a picture of something very long, which is neither green nor red, but lime " * 3]
    together = read(encoder, texts)
    for row, text in enumerate(texts):
        alone = read(encoder, [text])
        torch.testing.assert_close(alone.conditions[0], together.conditions[row], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.meant[0], together.meant[row], rtol=1e-5, atol=1e-6)


def test_padding_is_never_attended_to(encoder: TextEncoder) -> None:
    tokens = torch.tensor([[5, 9, 12], [7, 2, 3]])
    with torch.no_grad():
        padded = encoder(torch.nn.functional.pad(tokens, (0, 6)))
        torch.testing.assert_close(padded, encoder(tokens), rtol=1e-6, atol=1e-6)


def test_dropped_ngrams_leave_one_at_least() -> None:
    torch.manual_seed(1)
    encoder = TextEncoder(TextConfig(buckets=20, width=4, hidden=4, dropout=0.95), 3).train()
    for _ in range(50):
        assert bool(encoder(torch.tensor([[3, 4, 0], [5, 0, 0]])).isfinite().all())


@pytest.mark.parametrize("fatal", [1, 5, 7])
def test_a_training_cut_off_anywhere_gives_the_same_bits(
    captions: Captions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    class Killed(Exception):
        pass

    fit_config = FitConfig(epochs=2, learning_rate=0.01, optimiser="adamw", ema_decay=0.5, checkpoint_minutes=0)
    config = TextConfig(buckets=50, width=4, hidden=4, batch_size=8, steps=4, fit=fit_config)
    whole = train_text(config, captions, tmp_path / "whole", seed=1)
    draw, seen = text_module.draw_caption, [0]

    def until_killed(*arguments: Any, **named: Any) -> Caption:
        seen[0] += 1
        if seen[0] == fatal * 8:
            raise Killed
        return draw(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(text_module, "draw_caption", until_killed)
        with pytest.raises(Killed):
            train_text(config, captions, tmp_path / "cut", seed=1)
    again = train_text(config, captions, tmp_path / "cut", seed=1)
    other = train_text(config, captions, tmp_path / "other", seed=2)
    first, second, third = (one.state_dict() for one in (whole, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], third["embed.weight"])


def test_texts_are_counted_as_right_as_rejected_and_as_wrongly_accepted(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = [
        Caption("a", 0),
        Caption("b", 1),
        Caption("c", 2),
        Caption("d", 2),
        Caption("e", NOTHING),
        Caption("f", NOTHING),
    ]
    _replies(monkeypatch, (0, 0.9), (2, 0.9), (2, 0.2), (2, 0.5), (1, 0.5), (1, 0.1))
    found = measure_text(encoder, truth, 0.5)
    assert (found.n, found.accuracy, found.nearest_accuracy) == (6, 2 / 4, 3 / 4)
    assert (found.rejected, found.false_acceptance) == (1 / 4, 1 / 2)
    only_off = measure_text(encoder, truth[4:], 0.0)
    assert (only_off.accuracy, only_off.rejected, only_off.false_acceptance) == (None, None, 1.0)
    only_on = measure_text(encoder, truth[:1], 0.0)
    assert (only_on.accuracy, only_on.false_acceptance) == (1.0, None)


@pytest.mark.parametrize(
    ("sure", "off", "threshold"),
    [
        ((0.9, 0.8, 0.7), (0.6, 0.1), 0.65),
        ((0.9, 0.8, 0.3), (0.5, 0.1), 0.65),
        ((0.2, 0.3), (0.9, 0.1), 0.15),
        ((0.4, 0.5), (0.1, 0.2), 0.3),
    ],
    ids=["they can be told apart", "better lose one", "better accept one", "halfway"],
)
def test_the_threshold_weighs_texts_lost_against_texts_wrongly_accepted(
    encoder: TextEncoder,
    monkeypatch: pytest.MonkeyPatch,
    sure: tuple[float, ...],
    off: tuple[float, ...],
    threshold: float,
) -> None:
    validation = [*(Caption("on", 1) for _ in sure), *(Caption("off", NOTHING) for _ in off)]
    _replies(monkeypatch, *((1, one) for one in (*sure, *off)))
    assert choose_threshold(encoder, validation) == pytest.approx(threshold)


def test_every_list_is_measured_with_the_threshold_of_the_validation_part(
    encoder: TextEncoder, captions: Captions
) -> None:
    found = figures(encoder, captions)
    assert set(found) == {"threshold", "validation", "new_words", "new_patterns", "off_topic"}
    threshold = choose_threshold(encoder, captions.validation)
    assert found["threshold"] == threshold
    table = found["new_words"]
    assert isinstance(table, dict)
    assert table["accuracy"] == measure_text(encoder, captions.tests["new_words"], threshold).accuracy


def test_an_encoder_of_another_configuration_is_not_loaded(trained: Project) -> None:
    config = trained.config("text.hidden=17").text
    with pytest.raises(ValueError, match="another configuration"):
        load_text(config, trained.folder("first") / TEXT, 3)


@pytest.mark.slow
def test_the_committed_texts_are_learnt_so_that_new_ones_are_understood(tmp_path: Path) -> None:
    committed = read_config(
        Config, Path(text_module.__file__).parent / "config.toml", ["text.fit.epochs=3", "text.batch_size=64"]
    ).text
    captions = load_captions(committed.captions, _PUBLISHED["fashion_mnist"].labels)
    encoder = train_text(committed, captions, tmp_path, seed=1)
    found = measure_text(encoder, captions.validation, choose_threshold(encoder, captions.validation))
    assert (found.accuracy or 0) > 0.7
    assert (found.false_acceptance or 0) < 0.3
