from __future__ import annotations

import pytest
import torch
from torch import nn

from training.core.lstm import LSTMLayer, locked_dropout


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


def test_a_layer_computes_what_pytorchs_lstm_computes_and_the_same_gradients() -> None:
    ours, theirs = _pair()
    x = torch.randn(11, 3, 5, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    given = torch.randn(2, 3, 7)
    state, same_state = given.clone().requires_grad_(), given.clone().requires_grad_()
    expected, (_, last) = theirs(same, (same_state[None, 0], same_state[None, 1]))
    found, found_last = ours(x, state[0], state[1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_last, last[0])
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(state.grad, same_state.grad)
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


def test_locked_dropout_is_one_mask_for_all_steps_and_keeps_the_mean() -> None:
    dropped = locked_dropout(torch.ones(9, 50, 40), 0.25)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.06)


def test_no_dropout_changes_nothing() -> None:
    x = torch.ones(2, 3, 4)
    assert locked_dropout(x, 0.0) is x
