"""A character LSTM with the regularisation of Merity et al. 2017 (arXiv:1708.02182).

A stack of LSTM layers over an embedding. Dropout is locked: one mask for all steps of a chunk (Gal and Ghahramani 2016,
arXiv:1512.05287). Weight-drop sets recurrent weights to zero, the same ones at every step of a chunk. Nothing of that
is left in evaluation mode.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.core.config import ConfigModel
from training.core.lstm import LSTMLayer, locked_dropout

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each (batch, layers, hidden), float32."""


class ModelConfig(ConfigModel):
    """Which network.

    Attributes:
        layers: how many LSTM layers lie on top of each other.
        hidden: units of each.
        embedding: numbers by which a character enters; `hidden` where it is tied.
        tied: whether the output layer uses the embedding's weights (Press and Wolf 2016, arXiv:1608.05859).
        input_dropout: locked dropout of the embedding.
        layer_dropout: locked dropout between layers.
        output_dropout: locked dropout of what the last layer gives.
        recurrent_dropout: weight-drop of the recurrent weights.
    """

    layers: int = Field(default=2, ge=1, le=4)
    hidden: int = Field(default=512, ge=1)
    embedding: int = Field(default=128, ge=1)
    tied: bool = False
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    layer_dropout: float = Field(default=0.0, ge=0, lt=1)
    output_dropout: float = Field(default=0.0, ge=0, lt=1)
    recurrent_dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _tied_fits(self) -> ModelConfig:
        if self.tied and self.embedding != self.hidden:
            raise ValueError("a tied embedding is as wide as the hidden layer")
        return self


class CharacterLSTM(nn.Module):
    """A stack of LSTM layers from tokens to logits of the token that follows.

    Args:
        config: its size and dropout.
        vocabulary: number of tokens.
    """

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        widths = [config.embedding, *[config.hidden] * (config.layers - 1)]
        self.layers = nn.ModuleList(LSTMLayer(width, config.hidden, config.recurrent_dropout) for width in widths)
        self.head = nn.Linear(config.hidden, vocabulary)
        nn.init.normal_(self.embedding.weight, std=config.embedding**-0.5 if config.tied else 1.0)
        nn.init.zeros_(self.head.bias)
        if config.tied:
            self.head.weight = self.embedding.weight

    @property
    def stack(self) -> list[LSTMLayer]:
        """The layers, from the embedding up."""
        return [layer for layer in self.layers if isinstance(layer, LSTMLayer)]

    def zero_state(self, batch: int) -> State:
        """The state before the first character."""
        shape = (batch, self.config.layers, self.config.hidden)
        device = self.head.weight.device
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Map tokens (steps, batch), int64, and a state to logits (steps, batch, vocabulary) and the state after."""
        config = self.config
        x = self._locked_dropout(self.embedding(tokens), config.input_dropout)
        hiddens, cells = [], []
        for number, layer in enumerate(self.stack):
            if number:
                x = self._locked_dropout(x, config.layer_dropout)
            x, cell = layer(x, state[0][:, number], state[1][:, number])
            hiddens.append(x[-1].float())
            cells.append(cell)
        logits: Tensor = self.head(self._locked_dropout(x, config.output_dropout))
        return logits, (torch.stack(hiddens, 1), torch.stack(cells, 1))

    def _locked_dropout(self, x: Tensor, share: float) -> Tensor:
        return locked_dropout(x, share) if self.training else x
