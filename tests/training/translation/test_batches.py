from __future__ import annotations

import random

import pytest
import torch

from training.translation.batches import Batch, Bucketing, TokenPair, batch_of, source_batch
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN


def _pairs(count: int = 300) -> list[TokenPair]:
    draw = random.Random(5)  # noqa: S311 - lengths
    return [
        ([10 + number] * draw.randint(1, 12), [10 + number] * draw.randint(1, 12)) for number in range(count)
    ]  # each pair can be told by its tokens


def _who(batch: Batch) -> list[int]:
    return batch.sources.tokens[0].tolist()


def test_sentences_end_and_are_padded() -> None:
    batch = batch_of([([5, 6, 7], [8]), ([9], [3, 4])])
    assert batch.sources.tokens.t().tolist() == [[5, 6, 7, END_TOKEN], [9, END_TOKEN, PAD_TOKEN, PAD_TOKEN]]
    assert batch.sources.lengths.tolist() == [4, 2]
    assert batch.given.t().tolist() == [[START_TOKEN, 8, PAD_TOKEN], [START_TOKEN, 3, 4]]
    assert batch.wanted.t().tolist() == [[8, END_TOKEN, PAD_TOKEN], [3, 4, END_TOKEN]]


def test_an_empty_sentence_is_its_end() -> None:
    assert source_batch([[], [7]]).tokens.t().tolist() == [[END_TOKEN, PAD_TOKEN], [7, END_TOKEN]]


def test_an_epoch_has_every_pair_once() -> None:
    seen = [who for batch in Bucketing(_pairs(), 120, 20).batches(1, 0, 0) for who in _who(batch)]
    assert sorted(seen) == [10 + number for number in range(300)]


def test_batches_have_at_most_the_tokens_asked_for_and_little_padding() -> None:
    bucketing = Bucketing(_pairs(), 120, 20)
    batches = list(bucketing.batches(1, 0, 0))
    assert len(batches) == len(bucketing)
    sizes = [batch.sources.tokens.numel() + batch.wanted.numel() for batch in batches]
    real = sum(int((side != PAD_TOKEN).sum()) for batch in batches for side in (batch.sources.tokens, batch.wanted))
    assert max(sizes) <= 120
    assert real > 0.85 * sum(sizes)


def test_a_pair_longer_than_a_batch_is_a_batch_alone() -> None:
    batches = list(Bucketing([([7] * 40, [8] * 40), ([9], [9])], 50, 64).batches(1, 0, 0))
    assert sorted(batch.wanted.shape for batch in batches) == [(2, 1), (41, 1)]


def test_pairs_that_are_too_long_are_left_out() -> None:
    bucketing = Bucketing([([5] * 4, [5]), ([6] * 3, [6] * 3), ([7], [7] * 4)], 50, 4)
    assert bucketing.pairs == 1
    with pytest.raises(ValueError, match="none of 300 pairs has fewer than 1 tokens"):
        Bucketing(_pairs(), 50, 1)


def test_epochs_differ_in_order_and_company_and_each_is_always_the_same() -> None:
    bucketing = Bucketing(_pairs(), 120, 20)
    first, again, second = ([tuple(_who(one)) for one in bucketing.batches(1, epoch, 0)] for epoch in (0, 0, 1))
    assert first == again
    assert sorted(map(len, first)) == sorted(map(len, second))
    assert {frozenset(one) for one in first} != {frozenset(one) for one in second}
    assert first != [tuple(_who(one)) for one in bucketing.batches(2, 0, 0)]


def test_an_epoch_entered_later_goes_on_as_it_would_have() -> None:
    bucketing = Bucketing(_pairs(), 120, 20)
    for one, other in zip(list(bucketing.batches(1, 3, 0))[4:], bucketing.batches(1, 3, 4), strict=True):
        assert torch.equal(one.given, other.given)
        assert torch.equal(one.sources.tokens, other.sources.tokens)
