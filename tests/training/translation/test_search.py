from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.training.translation.test_model import network
from training.translation import search
from training.translation.batches import batch_of, source_batch
from training.translation.model import Translator
from training.translation.search import NetworkEngine, SearchConfig, length_penalty, longest_translation, translate
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN

WORDS = (3, 4, 5)
SOURCES = [[3, 4, 5, 3], [5], [4, 4], [], [3, 5, 4], [5, 5, 5, 5, 3, 4]]
GREEDY = SearchConfig(beam=1)


def _network(seed: int) -> Translator:
    torch.manual_seed(seed)
    return network(vocabulary=6).eval()


def _without_special(logits: torch.Tensor) -> torch.Tensor:
    logits[..., [PAD_TOKEN, START_TOKEN]] = float("-inf")
    return torch.log_softmax(logits, -1)


@torch.no_grad()
def _likelihood(model: Translator, source: list[int], translation: list[int]) -> float:
    batch = batch_of([(source, translation)])
    steps = _without_special(model.score(model(batch.sources, batch.given)))[:, 0]
    return float(steps.gather(1, batch.wanted).sum())


@torch.no_grad()
def _greedy(model: Translator, source: list[int]) -> list[int]:
    memory, state = model.encode(source_batch([source]))
    token, written = START_TOKEN, list[int]()
    while token != END_TOKEN and len(written) < longest_translation(len(source)):
        features, state, _ = model.decode(torch.tensor([[token]]), memory, state)
        token = int(_without_special(model.score(features[0, 0])).argmax())
        written.append(token)
    return [token for token in written if token != END_TOKEN]


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_of_one_takes_the_most_likely_token_after_token(seed: int) -> None:
    model = _network(seed)
    assert translate(NetworkEngine(model), SOURCES, GREEDY) == [_greedy(model, source) for source in SOURCES]


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_that_holds_everything_finds_the_most_likely_translation(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(search, "longest_translation", lambda _: 4)
    model = _network(seed)
    everything = [list(words) for length in range(4) for words in product(WORDS, repeat=length)]
    found = translate(NetworkEngine(model), SOURCES, SearchConfig(beam=64, length_penalty=0.0))
    for source, translation in zip(SOURCES, found, strict=True):
        assert translation == max(everything, key=lambda one: _likelihood(model, source, one))


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_a_search_is_the_same_alone_and_beside_others_in_any_order(exponent: float) -> None:
    config = SearchConfig(beam=4, length_penalty=exponent)
    for seed in range(4):
        model = _network(seed)
        together = translate(NetworkEngine(model), SOURCES, config)
        assert together == [translate(NetworkEngine(model), [source], config)[0] for source in SOURCES]
        assert together[::-1] == translate(NetworkEngine(model), SOURCES[::-1], config)


def test_many_sentences_are_searched_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _network(1)
    whole = translate(NetworkEngine(model), SOURCES, SearchConfig())
    monkeypatch.setattr(search, "_SENTENCES", 2)
    assert translate(NetworkEngine(model), SOURCES, SearchConfig()) == whole
    assert translate(NetworkEngine(model), [], SearchConfig()) == []


def test_longer_translations_are_preferred_the_larger_the_exponent() -> None:
    lengths = [
        sum(
            len(one)
            for seed in range(6)
            for one in translate(NetworkEngine(_network(seed)), SOURCES, SearchConfig(beam=5, length_penalty=exponent))
        )
        for exponent in (0.0, 1.0, 3.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@pytest.mark.parametrize("beam", [1, 3])
def test_a_translation_without_an_end_is_cut_off(beam: int) -> None:
    model = _network(2)
    with torch.no_grad():
        model.token_bias[END_TOKEN] = -100.0
    found = translate(NetworkEngine(model), SOURCES, SearchConfig(beam=beam))
    assert [len(one) for one in found] == [longest_translation(len(source)) for source in SOURCES]
    assert all(token in WORDS for one in found for token in one)


def test_the_penalty_is_that_of_the_paper() -> None:
    assert length_penalty(1, 0.7) == 1.0
    assert length_penalty(13, 1.0) == 3.0
    assert length_penalty(13, 0.5) == pytest.approx(3**0.5)
    assert length_penalty(13, 0.0) == 1.0
