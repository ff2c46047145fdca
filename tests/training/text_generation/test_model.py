from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.core.config import read_config
from training.text_generation.model import CharacterLSTM, ModelConfig
from training.text_generation.train import Config

COMMITTED = Path(__file__).parents[3] / "training" / "text_generation" / "config.toml"
VOCABULARY = 9


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def _model(**changes: object) -> CharacterLSTM:
    config = ModelConfig(**{"layers": 2, "hidden": 12, "embedding": 6, **changes})  # type: ignore[arg-type]
    return CharacterLSTM(config, VOCABULARY)


def _tokens(steps: int, batch: int) -> Tensor:
    return torch.randint(VOCABULARY, (steps, batch))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_state_carried_on_gives_what_one_go_gives(layers: int) -> None:
    model, tokens = _model(layers=layers).eval(), _tokens(12, 3)
    whole, last = model(tokens, model.zero_state(3))
    first, state = model(tokens[:5], model.zero_state(3))
    second, state = model(tokens[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for found, expected in zip(state, last, strict=True):
        assert found.shape == (3, layers, 12)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["input_dropout", "layer_dropout", "output_dropout", "recurrent_dropout"])
def test_each_dropout_is_on_in_training_and_off_in_evaluation(kind: str) -> None:
    model, tokens = _model(**{kind: 0.5}), _tokens(8, 4)
    first, second = (model(tokens, model.zero_state(4))[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (model(tokens, model.zero_state(4))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_tied_embedding_is_the_output_layer_too() -> None:
    tied, free = _model(embedding=12, tied=True), _model(embedding=12)
    assert tied.head.weight is tied.embedding.weight
    count = {name: sum(one.numel() for one in model.parameters()) for name, model in (("t", tied), ("f", free))}
    assert count["f"] - count["t"] == VOCABULARY * 12


def test_a_tied_embedding_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="as wide as the hidden layer"):
        ModelConfig(hidden=12, embedding=6, tied=True)


@pytest.mark.parametrize("change", [{"layers": 0}, {"layers": 5}, {"layer_dropout": 1.0}, {"recurrent_dropout": -0.1}])
def test_a_network_that_can_not_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ModelConfig(**change)  # type: ignore[arg-type]


def test_the_committed_network_has_at_most_three_and_a_half_million_parameters() -> None:
    config = read_config(Config, COMMITTED)
    model = CharacterLSTM(config.model, 65)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 3_500_000
    assert (config.data.source, config.export.name) == ("tiny_shakespeare", "shakespeare")
