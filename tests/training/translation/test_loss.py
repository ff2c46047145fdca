from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.translation.loss import smoothed_loss


def _given(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    features, weight, bias = torch.randn(count, 12), torch.randn(50, 12), torch.randn(50)
    for tensor in (features, weight, bias):
        tensor.requires_grad_()
    return features, weight, bias, torch.randint(50, (count,))


@pytest.mark.parametrize("count", [1, 127, 128, 300])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_cross_entropy_and_has_its_gradients(count: int, smoothing: float) -> None:
    features, weight, bias, wanted = _given(count)
    expected = functional.cross_entropy(features @ weight.t() + bias, wanted, label_smoothing=smoothing)
    gradients = torch.autograd.grad(3 * expected, (features, weight, bias))
    found = smoothed_loss(features, weight, bias, wanted, smoothing)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(3 * found, (features, weight, bias)), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_gives_nearly_the_same() -> None:
    features, weight, bias, wanted = _given(200)
    expected = functional.cross_entropy(features @ weight.t() + bias, wanted, label_smoothing=0.1)
    gradients = torch.autograd.grad(expected, (features, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        found = smoothed_loss(features, weight, bias, wanted, 0.1)
    assert found.item() == pytest.approx(expected.item(), rel=0.01)
    for one, other in zip(torch.autograd.grad(found, (features, weight, bias)), gradients, strict=True):
        assert one.dtype == torch.float32
        assert functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999
