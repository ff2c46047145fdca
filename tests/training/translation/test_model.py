from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.core.config import read_config
from training.core.lstm import LSTMLayer
from training.translation.batches import batch_of, source_batch
from training.translation.model import BidirectionalLayer, ModelConfig, Translator, reversal
from training.translation.train import Config, batch_loss, count_parameters

COMMITTED = Path(__file__).parents[3] / "training" / "translation" / "config.toml"
VOCABULARY = 17
PAIRS = [([5, 6, 7, 8, 9], [4, 5]), ([10], [11, 12, 13, 14]), ([15, 16, 3], [7, 8, 9])]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def network(vocabulary: int = VOCABULARY, **changes: float) -> Translator:
    """A small one, with weights large enough for tokens to differ."""
    sizes = {"embedding": 8, "encoder_hidden": 6, "decoder_hidden": 10}
    model = Translator(ModelConfig(**{**sizes, **changes}), vocabulary)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


# The encoder


def test_a_reversal_turns_each_sentence_and_leaves_padding_where_it_is() -> None:
    tokens = source_batch([source for source, _ in PAIRS])
    order = reversal(tokens.lengths, tokens.tokens.shape[0])
    turned = tokens.tokens.flatten()[order].view_as(tokens.tokens)
    assert turned.t().tolist() == [[2, 9, 8, 7, 6, 5], [2, 10, 0, 0, 0, 0], [2, 3, 16, 15, 0, 0]]
    assert torch.equal(turned.flatten()[order].view_as(turned), tokens.tokens)


def _copy(ours: LSTMLayer, theirs: nn.LSTM, suffix: str) -> None:
    with torch.no_grad():
        getattr(theirs, f"weight_ih_l0{suffix}").copy_(ours.input_weight)
        getattr(theirs, f"weight_hh_l0{suffix}").copy_(ours.recurrent_weight)
        getattr(theirs, f"bias_ih_l0{suffix}").copy_(ours.bias)
        getattr(theirs, f"bias_hh_l0{suffix}").zero_()


def test_a_bidirectional_layer_is_pytorchs_on_packed_sentences_with_the_same_gradients() -> None:
    ours, theirs = BidirectionalLayer(5, 7, 0.0), nn.LSTM(5, 7, bidirectional=True)
    _copy(ours.forwards, theirs, "")
    _copy(ours.backwards, theirs, "_reverse")
    lengths = torch.tensor([6, 2, 4])
    x = torch.randn(6, 3, 5, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    packed, (last, _) = theirs(pack_padded_sequence(same, lengths, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed)
    found, backwards = ours(x, reversal(lengths, 6))
    real = (torch.arange(6)[:, None] < lengths)[:, :, None]
    torch.testing.assert_close(found * real, expected)
    torch.testing.assert_close(backwards[lengths - 1, torch.arange(3)], last[1])
    weights = torch.randn_like(expected) * real
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(ours.backwards.recurrent_weight.grad, theirs.weight_hh_l0_reverse.grad)


@torch.no_grad()
def test_a_sentence_is_the_same_alone_and_beside_longer_ones() -> None:
    model = network().eval()
    together, state = model.encode(source_batch([source for source, _ in PAIRS]))
    for number, (source, _) in enumerate(PAIRS):
        alone, start = model.encode(source_batch([source]))
        length = len(source) + 1
        torch.testing.assert_close(together.outputs[number, :length], alone.outputs[0])
        assert together.padding[number].tolist() == [False] * length + [True] * (6 - length)
        for one, other in zip(state, start, strict=True):
            torch.testing.assert_close(one[number], other[0])


# The decoder


@torch.no_grad()
def test_token_by_token_gives_what_all_steps_at_once_give() -> None:
    model = network().eval()
    batch = batch_of(PAIRS)
    memory, state = model.encode(batch.sources)
    whole, last, weights = model.decode(batch.given, memory, state)
    for step, token in enumerate(batch.given):
        features, state, weight = model.decode(token[None], memory, state)
        torch.testing.assert_close(features[0], whole[step])
        torch.testing.assert_close(weight[:, 0], weights[:, step])
    for one, other in zip(state, last, strict=True):
        assert one.shape == (3, 2, 10)
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_a_translation_is_scored_alike_alone_and_beside_longer_ones() -> None:
    model = network().eval()
    batch = batch_of(PAIRS)
    together = model.score(model(batch.sources, batch.given))
    for number, pair in enumerate(PAIRS):
        alone = batch_of([pair])
        expected = model.score(model(alone.sources, alone.given))[:, 0]
        torch.testing.assert_close(together[: len(pair[1]) + 1, number], expected)


@torch.no_grad()
def test_attention_is_a_share_of_each_token_of_the_sentence_and_none_of_its_padding() -> None:
    model = network().eval()
    batch = batch_of(PAIRS)
    memory, state = model.encode(batch.sources)
    _, _, weights = model.decode(batch.given, memory, state)
    assert weights.shape == (3, 5, 6)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 5))
    for number, (source, _) in enumerate(PAIRS):
        assert (weights[number, :, : len(source) + 1] > 0).all()
        assert (weights[number, :, len(source) + 1 :] == 0).all()


def _gradients(model: Translator, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Tensor]:
    loss = batch_loss(model, batch_of(pairs), 0.1)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_every_weight_learns_and_the_loss_of_a_batch_is_the_mean_of_its_tokens() -> None:
    model = network(encoder_layers=3, decoder_layers=3)
    together = _gradients(model, PAIRS)
    assert all(bool((gradient != 0).any()) for gradient in together)
    counts = [len(target) + 1 for _, target in PAIRS]
    alone = [_gradients(model, [pair]) for pair in PAIRS]
    for gradient, *others in zip(together, *alone, strict=True):
        mean = sum(count * other for count, other in zip(counts, others, strict=True)) / sum(counts)
        torch.testing.assert_close(gradient, mean)


def test_bfloat16_learns_in_nearly_the_same_direction() -> None:
    model = network(embedding=32, encoder_hidden=32, decoder_hidden=32)
    expected = torch.cat([one.flatten() for one in _gradients(model, PAIRS)])
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([one.flatten() for one in _gradients(model, PAIRS)])
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999


# The options


@pytest.mark.parametrize("kind", ["embedding_dropout", "layer_dropout", "output_dropout", "recurrent_dropout"])
def test_each_dropout_is_on_in_training_and_off_in_evaluation(kind: str) -> None:
    model, batch = network(**{kind: 0.5}), batch_of(PAIRS)
    assert not torch.equal(*(model(batch.sources, batch.given) for _ in range(2)))
    model.eval()
    assert torch.equal(*(model(batch.sources, batch.given) for _ in range(2)))


@pytest.mark.parametrize("change", [{"decoder_layers": 1}, {"encoder_layers": 0}, {"layer_dropout": 1.0}])
def test_a_network_that_can_not_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ModelConfig(**change)  # type: ignore[arg-type]


def test_the_committed_network_has_at_most_ten_million_parameters() -> None:
    config = read_config(Config, COMMITTED)
    assert count_parameters(Translator(config.model, config.tokens.vocabulary)) <= 10_000_000
    assert config.data.source == "tatoeba"
