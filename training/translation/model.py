"""A recurrent encoder-decoder with attention (Bahdanau et al. 2014, arXiv:1409.0473; Luong et al. 2015, 1508.04025).

The encoder is a stack of bidirectional LSTM layers. The decoder's first layer reads the translation so far and asks the
encoder's outputs by it (a bilinear score); what the attention finds goes into the layers above, which thereby know what
was looked at before. The first layer does not: with no way back from attention to the layer that asks, a training step
runs each layer, and the attention, over all steps at once. One matrix embeds the tokens of both languages and scores
them at the end (Press and Wolf 2016, arXiv:1608.05859).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.core.config import ConfigModel
from training.core.lstm import LSTMLayer, locked_dropout
from training.translation.batches import Sources

State = tuple[Tensor, Tensor]
"""Hidden and cell state of a decoder, each (batch, layers, hidden), float32."""


class ModelConfig(ConfigModel):
    """Which network.

    Attributes:
        embedding: numbers by which a token enters and is scored.
        encoder_layers: how many bidirectional LSTM layers lie on top of each other.
        encoder_hidden: units of each, in each direction.
        decoder_layers: how many LSTM layers lie on top of each other, the attention after the first.
        decoder_hidden: units of each.
        embedding_dropout: locked dropout of the tokens that enter, on both sides.
        layer_dropout: locked dropout of what comes out of the encoder and goes from layer to layer.
        output_dropout: locked dropout of that by which tokens are scored.
        recurrent_dropout: weight-drop of the recurrent weights.
    """

    embedding: int = Field(default=320, ge=1)
    encoder_layers: int = Field(default=2, ge=1, le=4)
    encoder_hidden: int = Field(default=256, ge=1)
    decoder_layers: int = Field(default=2, ge=2, le=4)
    decoder_hidden: int = Field(default=416, ge=1)
    embedding_dropout: float = Field(default=0.0, ge=0, lt=1)
    layer_dropout: float = Field(default=0.0, ge=0, lt=1)
    output_dropout: float = Field(default=0.0, ge=0, lt=1)
    recurrent_dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class Memory:
    """What a decoder is given of source sentences.

    Attributes:
        outputs: the encoder's, of every token (batch, steps, 2 encoder_hidden).
        padding: where there is no token (batch, steps), bool.
    """

    outputs: Tensor
    padding: Tensor

    def rows(self, chosen: Tensor) -> Memory:
        """That of the sentences `chosen` (any,), int64."""
        return Memory(self.outputs[chosen], self.padding[chosen])


class _Rearranged(torch.autograd.Function):
    """Rows of a matrix in another order, by a permutation that is its own inverse."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        """Take `rows` (N, width) in the order `order` (N,)."""
        ctx.save_for_backward(order)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient's rows, put back."""
        (order,) = ctx.saved_tensors
        return gradients[0].index_select(0, order), None


class BidirectionalLayer(nn.Module):
    """An LSTM layer that reads forwards beside one that reads backwards, each from a sentence's own first token on.

    Args:
        inputs: width of what comes in.
        hidden: number of units of each.
        recurrent_dropout: see `LSTMLayer`.
    """

    def __init__(self, inputs: int, hidden: int, recurrent_dropout: float) -> None:
        super().__init__()
        self.hidden = hidden
        self.forwards = LSTMLayer(inputs, hidden, recurrent_dropout)
        self.backwards = LSTMLayer(inputs, hidden, recurrent_dropout)

    def forward(self, x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x` (steps, batch, inputs) to outputs (steps, batch, 2 hidden).

        Args:
            x: what comes in; what stands after a sentence's end changes nothing before it.
            order: from `reversal`.

        Returns:
            The outputs, and those of the backward layer in the order in which it read.
        """
        zero = x.new_zeros(x.shape[1], self.hidden, dtype=torch.float32)
        forwards, _ = self.forwards(x, zero, zero)
        backwards, _ = self.backwards(_rearranged(x, order), zero, zero)
        return torch.cat([forwards, _rearranged(backwards, order)], 2), backwards


def reversal(lengths: Tensor, steps: int) -> Tensor:
    """The order of tokens (steps, batch), laid out in a row, that has each sentence backwards and padding in place."""
    step, batch = torch.arange(steps, device=lengths.device)[:, None], len(lengths)
    source = torch.where(step < lengths, lengths - 1 - step, step)
    return (source * batch + torch.arange(batch, device=lengths.device)).flatten()


class Translator(nn.Module):
    """From tokens of a sentence to those of its translation.

    Args:
        config: its size and dropout.
        vocabulary: number of tokens.
    """

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        drop, read = config.recurrent_dropout, 2 * config.encoder_hidden
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        widths = [config.embedding, *[read] * (config.encoder_layers - 1)]
        self.encoder = nn.ModuleList(BidirectionalLayer(width, config.encoder_hidden, drop) for width in widths)
        self.start = nn.Linear(read, config.decoder_layers * config.decoder_hidden)
        above = config.decoder_hidden + read
        widths = [config.embedding, *[above] * (config.decoder_layers - 1)]
        self.decoder = nn.ModuleList(LSTMLayer(width, config.decoder_hidden, drop) for width in widths)
        self.query = nn.Linear(config.decoder_hidden, read, bias=False)
        # As by Vaswani et al. 2017, arXiv:1706.03762: without it the scores soon lie so far apart that the attention
        # settles on the last places of a sentence, and learns no more.
        self.query_scale = read**-0.5
        self.output = nn.Linear(above, config.embedding)
        self.token_bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.embedding.weight, std=config.embedding**-0.5)

    def encode(self, sources: Sources) -> tuple[Memory, State]:
        """What a decoder is given of `sources`, and the state in which it starts."""
        config, steps = self.config, sources.tokens.shape[0]
        order = reversal(sources.lengths, steps)
        x = self._embed(sources.tokens)
        for layer in self.encoder:
            read, backwards = layer(x, order)
            x = self._dropped(read, config.layer_dropout)
        # Each direction's output at the last token that it read, which has the sentence's last place in its order.
        batch = torch.arange(len(sources.lengths), device=x.device)
        ends = (read[sources.lengths - 1, batch, : config.encoder_hidden], backwards[sources.lengths - 1, batch])
        cell = self.start(torch.cat(ends, 1)).float().view(len(batch), config.decoder_layers, config.decoder_hidden)
        padding = torch.arange(steps, device=x.device) >= sources.lengths[:, None]
        return Memory(x.transpose(0, 1).contiguous(), padding), (torch.tanh(cell), cell)

    def decode(self, given: Tensor, memory: Memory, state: State) -> tuple[Tensor, State, Tensor]:
        """Read a translation as far as it is known.

        Args:
            given: tokens (steps, batch), int64.
            memory: of the sentences that are translated.
            state: before the first step.

        Returns:
            That by which the tokens that follow are scored (steps, batch, embedding), the state after the last step,
            and the attention's weights (batch, steps, source steps).
        """
        config = self.config
        hiddens, cells = [], []
        x = self._embed(given)
        for number, layer in enumerate(self.decoder):
            if number == 1:
                found, weights = self._attend(x, memory)
            if number:
                x = torch.cat([self._dropped(x, config.layer_dropout), found], 2)
            x, cell = layer(x, state[0][:, number].contiguous(), state[1][:, number].contiguous())
            hiddens.append(x[-1].float())
            cells.append(cell)
        x = torch.cat([self._dropped(x, config.layer_dropout), found], 2)
        features = self._dropped(torch.tanh(self.output(x)), config.output_dropout)
        return features, (torch.stack(hiddens, 1), torch.stack(cells, 1)), weights

    def score(self, features: Tensor) -> Tensor:
        """Logits (..., vocabulary) of the tokens that follow, by `features` (..., embedding)."""
        return functional.linear(features, self.embedding.weight, self.token_bias)

    def forward(self, sources: Sources, given: Tensor) -> Tensor:
        """The features of every step of translations `given` (steps, batch), as `decode` gives them."""
        memory, state = self.encode(sources)
        features, _, _ = self.decode(given, memory, state)
        return features

    def _embed(self, tokens: Tensor) -> Tensor:
        # Of unit size as they enter, and small where they score.
        x = self.embedding(tokens) * self.config.embedding**0.5
        return self._dropped(x, self.config.embedding_dropout)

    def _attend(self, asking: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        asked = (self.query(asking) * self.query_scale).transpose(0, 1)
        scores = torch.bmm(asked, memory.outputs.transpose(1, 2)).float()
        weights = torch.softmax(scores.masked_fill(memory.padding[:, None], float("-inf")), 2)
        found = torch.bmm(weights.to(memory.outputs.dtype), memory.outputs)
        return found.transpose(0, 1), weights

    def _dropped(self, x: Tensor, share: float) -> Tensor:
        return locked_dropout(x, share) if self.training else x


def _rearranged(x: Tensor, order: Tensor) -> Tensor:
    rows: Tensor = _Rearranged.apply(x.reshape(-1, x.shape[2]), order)  # type: ignore[no-untyped-call]
    return rows.view(x.shape)
