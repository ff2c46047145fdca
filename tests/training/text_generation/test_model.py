from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.core.config import read_config
from training.text_generation.model import CharacterLSTM, LSTMLayer, ModelConfig
from training.text_generation.train import Config

COMMITTED = Path(__file__).parents[3] / "training" / "text_generation" / "config.toml"
VOCABULARY = 9


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def _pair(inputs: int = 5, hidden: int = 7) -> tuple[LSTMLayer, nn.LSTM]:
    """Our layer and PyTorch's, with the same weights."""
    ours, theirs = LSTMLayer(inputs, hidden, 0.0), nn.LSTM(inputs, hidden)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input_weight)
        theirs.weight_hh_l0.copy_(ours.recurrent_weight)
        theirs.bias_ih_l0.copy_(ours.bias)
        theirs.bias_hh_l0.zero_()
    return ours, theirs


def _model(**changes: object) -> CharacterLSTM:
    config = ModelConfig(**{"layers": 2, "hidden": 12, "embedding": 6, **changes})  # type: ignore[arg-type]
    return CharacterLSTM(config, VOCABULARY)


def _tokens(steps: int, batch: int) -> Tensor:
    return torch.randint(VOCABULARY, (steps, batch))


# The layer


def test_a_layer_computes_what_pytorchs_lstm_computes_and_the_same_gradients() -> None:
    ours, theirs = _pair()
    x = torch.randn(11, 3, 5, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    hidden, cell = torch.randn(2, 3, 7)
    expected, (_, last) = theirs(same, (hidden[None], cell[None]))
    found, found_last = ours(x, hidden, cell)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_last, last[0])
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(ours.input_weight.grad, theirs.weight_ih_l0.grad)
    torch.testing.assert_close(ours.recurrent_weight.grad, theirs.weight_hh_l0.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias_hh_l0.grad)


def test_bfloat16_computes_nearly_the_same() -> None:
    ours, theirs = _pair(16, 32)
    x = torch.randn(20, 4, 16)
    hidden, cell = torch.zeros(2, 4, 32)
    expected, _ = theirs(x)
    with torch.autocast("cpu", torch.bfloat16):
        found, last = ours(x, hidden, cell)
    assert (found.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    ours_grad, theirs_grad = ours.recurrent_weight.grad, theirs.weight_hh_l0.grad
    assert ours_grad is not None
    assert torch.nn.functional.cosine_similarity(ours_grad.flatten(), theirs_grad.flatten(), dim=0) > 0.999


def test_dropped_recurrent_weights_get_no_gradient_and_are_all_there_in_evaluation() -> None:
    layer = LSTMLayer(4, 40, 0.5)
    x, zero = torch.randn(6, 3, 4), torch.zeros(3, 40)
    layer(x, zero, zero)[0].sum().backward()
    assert layer.recurrent_weight.grad is not None
    untouched = float((layer.recurrent_weight.grad == 0).float().mean())
    assert untouched == pytest.approx(0.5, abs=0.03), "the same weights are dropped at all steps"
    first, second = (layer(x, zero, zero)[0] for _ in range(2))
    assert not torch.equal(first, second)
    layer.eval()
    first, second = (layer(x, zero, zero)[0] for _ in range(2))
    assert torch.equal(first, second)


# The network


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


def test_locked_dropout_is_one_mask_for_all_steps_and_keeps_the_mean() -> None:
    model = _model()
    dropped = model._locked_dropout(torch.ones(9, 50, 40), 0.25)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.06)


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
