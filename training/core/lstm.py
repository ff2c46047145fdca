"""An LSTM layer that trains quickly on a CPU, with the dropout of recurrent networks.

Dropout is locked: one mask for all steps (Gal and Ghahramani 2016, arXiv:1512.05287). Weight-drop sets recurrent
weights to zero, the same ones at every step (Merity et al. 2017, arXiv:1708.02182). Nothing of that is left in
evaluation mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Scan(torch.autograd.Function):
    """An LSTM layer's recurrence with its derivative, matrix products in the type of `weight`, the rest in float32.

    PyTorch's own LSTM is a good deal slower in bfloat16 on a CPU. Both passes work step by step in buffers that stay in
    the processor's cache; only the gradient of the weights is one product over all steps.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Run over `projected` (steps, batch, 4 hidden; gates i, f, g, o) from `hidden`, `cell` (batch, hidden).

        Returns:
            hidden states of all steps (steps, batch, hidden), and the last cell state.
        """
        steps, batch, width = projected.shape
        size = width // 4
        kind = weight.dtype
        transposed = weight.t()
        gates = torch.empty(projected.shape, device=projected.device)
        hiddens = torch.empty(steps + 1, batch, size, dtype=kind, device=projected.device)
        cells = torch.empty(steps + 1, batch, size, device=projected.device)
        bounded = torch.empty_like(cells[1:])
        hiddens[0], cells[0] = hidden, cell
        for step, gate in enumerate(gates):
            torch.add(projected[step], hiddens[step] @ transposed, out=gate)
            inward, forget, candidate, outward = gate.chunk(4, 1)
            # tanh x = 2 sigmoid 2x - 1, and one pass over all four gates is quicker than three.
            candidate *= 2
            gate.sigmoid_()
            candidate.mul_(2).sub_(1)
            torch.mul(forget, cells[step], out=cells[step + 1]).addcmul_(inward, candidate)
            torch.mul(cells[step + 1], 2, out=bounded[step]).sigmoid_().mul_(2).sub_(1)
            hiddens[step + 1] = outward * bounded[step]
        ctx.save_for_backward(weight, gates, hiddens, cells, bounded)
        return hiddens[1:].clone(), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of `projected`, `weight` and the state; what comes of the last cell state is taken for zero."""
        weight, gates, hiddens, cells, bounded = ctx.saved_tensors
        above, _ = gradients
        steps, _, width = gates.shape
        size = width // 4
        wanted = torch.empty_like(gates, dtype=weight.dtype)
        from_after, cell = torch.zeros_like(cells[0]), torch.zeros_like(cells[0])
        wanted_now, rest = torch.empty_like(gates[0]), torch.empty_like(cells[0])
        of_inward, of_forget, of_candidate, of_outward = wanted_now.chunk(4, 1)
        for step in range(steps - 1, -1, -1):
            inward, forget, candidate, outward = gates[step].chunk(4, 1)
            hidden = above[step] + from_after
            # The output gate: d tanh(c) o (1 - o); and into the cell: d o (1 - tanh(c)^2).
            torch.mul(hidden, outward, out=hidden)
            torch.mul(bounded[step], hidden, out=rest)
            torch.addcmul(rest, rest, outward, value=-1, out=of_outward)
            cell.add_(hidden).addcmul_(rest, bounded[step], value=-1)
            # d i' = d g i (1 - i), d f' = d c_before f (1 - f), d g' = d i (1 - g^2)
            torch.mul(cell, inward, out=rest)
            torch.mul(rest, candidate, out=of_inward)
            torch.addcmul(rest, of_inward, candidate, value=-1, out=of_candidate)
            of_inward.addcmul_(of_inward, inward, value=-1)
            cell *= forget
            torch.mul(cell, cells[step], out=rest)
            torch.addcmul(rest, rest, forget, value=-1, out=of_forget)
            wanted[step] = wanted_now
            from_after = wanted[step] @ weight
        of_weight = wanted.view(-1, width).t() @ hiddens[:-1].view(-1, size)
        return wanted, of_weight, from_after, cell


class LSTMLayer(nn.Module):
    """One LSTM layer (Hochreiter and Schmidhuber 1997; gates i, f, g, o) with weight-drop.

    Args:
        inputs: width of what comes in.
        hidden: number of units.
        recurrent_dropout: share of the recurrent weights that all steps of a call go without.
    """

    def __init__(self, inputs: int, hidden: int, recurrent_dropout: float) -> None:
        super().__init__()
        self.recurrent_dropout = recurrent_dropout
        self.input_weight = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.recurrent_weight = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        for weight in (self.input_weight, self.recurrent_weight):
            nn.init.uniform_(weight, -(hidden**-0.5), hidden**-0.5)
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = 1.0  # at first, remember

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x` (steps, batch, inputs) and a state (batch, hidden) to all steps' hidden states and the last cell.

        Gradients reach the state that is given; none goes back through the last cell.
        """
        weight = functional.dropout(self.recurrent_weight, self.recurrent_dropout, self.training)
        projected = functional.linear(x, self.input_weight, self.bias)
        outputs: tuple[Tensor, Tensor] = _Scan.apply(projected, weight.to(projected.dtype), hidden, cell)  # type: ignore[no-untyped-call]
        return outputs


def locked_dropout(x: Tensor, share: float) -> Tensor:
    """Set numbers of `x` (steps, batch, width) to zero, the same ones at every step, and keep the mean."""
    if not share:
        return x
    mask = torch.empty(1, *x.shape[1:], dtype=x.dtype, device=x.device).bernoulli_(1 - share)
    return x * mask.div_(1 - share)
