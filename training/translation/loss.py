"""Cross entropy with label smoothing (Szegedy et al. 2015, arXiv:1512.00567) that never holds all logits.

A batch has some thousand tokens, and each as many logits as there are tokens in the vocabulary. Here they are computed,
turned into their gradient and used up some rows at a time, while they are in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 128


def smoothed_loss(features: Tensor, weight: Tensor, bias: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
    """The mean loss of tokens scored by `features @ weight.T + bias`.

    Products are in the type of autocast where it is on. The gradient is made beforehand, and can be asked for once.

    Args:
        features: (N, width).
        weight: (vocabulary, width).
        bias: (vocabulary,).
        wanted: the right tokens (N,), int64.
        smoothing: share of the probability that is wanted of all tokens alike instead.
    """
    device = features.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    value: Tensor = _SmoothedLoss.apply(features, weight, bias, wanted, smoothing, kind)  # type: ignore[no-untyped-call]
    return value


class _SmoothedLoss(torch.autograd.Function):
    """Of which the forward pass makes the gradients."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, wanted: Tensor, smoothing: float, kind: torch.dtype
    ) -> Tensor:
        """See `smoothed_loss`."""
        count, vocabulary = len(wanted), len(weight)
        typed, matrix = features.to(kind), weight.to(kind)
        errors = torch.empty(count, vocabulary, dtype=kind, device=features.device)
        of_bias = torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        for begin in range(0, count, _ROWS):
            rows = slice(begin, begin + _ROWS)
            logits = (typed[rows] @ matrix.t()).float() + bias
            right = wanted[rows, None]
            normaliser = logits.logsumexp(1, keepdim=True)
            hit = (normaliser - logits.gather(1, right)).sum(dtype=torch.float64)
            even = (normaliser.squeeze(1) - logits.mean(1)).sum(dtype=torch.float64)
            total += (1 - smoothing) * hit + smoothing * even
            error = logits.sub_(normaliser).exp_().sub_(smoothing / vocabulary)
            error.scatter_add_(1, right, error.new_full(right.shape, smoothing - 1))
            error.div_(count)
            of_bias += error.sum(0)
            errors[rows] = error
        ctx.save_for_backward(errors @ matrix, errors.t() @ typed, of_bias)
        return (total / count).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        """The gradients that were made, times the loss's."""
        of_features, of_weight, of_bias = ctx.saved_tensors
        (factor,) = gradients
        return of_features * factor, of_weight * factor, of_bias * factor, None, None, None
