from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.text_generation.data import Chunk, DataConfig, chunks_per_epoch, load_text, training_chunks

TOKENS = torch.arange(1000)
"""A text in which every place can be told."""


def _file(path: Path, content: str | bytes, share: float = 0.2) -> DataConfig:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DataConfig(source="file", path=str(path), name="mine", licence="CC0-1.0", validation_share=share)


def _chunks(epoch: int = 0, skip: int = 0, reset_probability: float = 0.0, tokens: Tensor = TOKENS) -> Iterator[Chunk]:
    return training_chunks(
        tokens,
        streams=6,
        steps=16,
        reset_probability=reset_probability,
        seed=1,
        epoch=epoch,
        skip=skip,
        device=torch.device("cpu"),
    )


# Texts


def test_a_text_is_split_where_its_last_part_begins(tmp_path: Path) -> None:
    text = load_text(_file(tmp_path / "a.txt", "abcab\nabcé"))
    assert text.vocabulary == ("\n", "a", "b", "c", "é")
    assert text.train.tolist() == [1, 2, 3, 1, 2, 0, 1, 2]
    assert text.validation.tolist() == [3, 4]
    assert text.vocabulary[text.start] == "\n"
    assert (text.name, text.licence, list(text.sha256)) == ("mine", "CC0-1.0", ["a.txt"])


def test_a_text_without_a_newline_can_start_all_the_same(tmp_path: Path) -> None:
    text = load_text(_file(tmp_path / "a.txt", "abcabcabca"))
    assert text.vocabulary == ("\n", "a", "b", "c")
    assert text.start == 0


def test_line_ends_of_any_kind_are_newlines(tmp_path: Path) -> None:
    text = load_text(_file(tmp_path / "a.txt", b"a\r\nb\rc\na\r\nb\r\n"))
    assert text.vocabulary == ("\n", "a", "b", "c")
    assert len(text.train) + len(text.validation) == 10


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        load_text(_file(tmp_path / "a.txt", b"caf\xe9 " * 10))


@pytest.mark.parametrize("content", ["", "a", "ab"])
def test_a_text_too_short_to_be_split_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match=r"a\.txt has \d characters, too few to hold some out"):
        load_text(_file(tmp_path / "a.txt", content))


@pytest.mark.data
def test_tiny_shakespeare_has_the_split_that_others_report_on(tiny_shakespeare: Path) -> None:
    assert tiny_shakespeare.is_dir()
    text = load_text(DataConfig())
    assert (len(text.train), len(text.validation), len(text.vocabulary)) == (1_003_854, 111_540, 65)
    assert text.sha256["input.txt"].startswith("86c4e6aa")


# Streams


def test_a_stream_goes_on_where_its_chunk_before_ended() -> None:
    chunks = list(_chunks())
    assert len(chunks) == chunks_per_epoch(TOKENS, 6, 16) == 10
    for chunk in chunks:
        assert chunk.inputs.shape == chunk.targets.shape == (16, 6)
        assert torch.equal(chunk.targets, (chunk.inputs + 1) % 1000)
    for one, after in pairwise(chunks):
        assert torch.equal(after.inputs[0], one.targets[-1])


def test_streams_of_an_epoch_share_no_character() -> None:
    seen = torch.cat([chunk.inputs.flatten() for chunk in _chunks()])
    assert len(seen.unique()) == len(seen) == 960


def test_epochs_begin_at_other_places_and_each_always_at_the_same() -> None:
    begins = [int(next(_chunks(epoch)).inputs[0, 0]) for epoch in range(8)]
    assert len(set(begins)) == 8
    assert begins == [int(next(_chunks(epoch)).inputs[0, 0]) for epoch in range(8)]


def test_an_epoch_entered_later_goes_on_as_it_would_have() -> None:
    for one, other in zip(list(_chunks(3, reset_probability=0.4))[4:], _chunks(3, 4, 0.4), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.fresh, other.fresh)


def test_all_streams_are_fresh_at_first_and_then_as_often_as_asked() -> None:
    for share in (0.0, 0.3, 1.0):
        first, *others = (chunk.fresh for epoch in range(20) for chunk in _chunks(epoch, reset_probability=share))
        assert first.all()
        later = torch.stack([fresh for number, fresh in enumerate(others, 1) if number % 10])
        assert float(later.float().mean()) == pytest.approx(share, abs=0.05)
