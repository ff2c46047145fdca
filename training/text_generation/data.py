"""The text: tiny Shakespeare, or any UTF-8 file, as tokens of characters, read in streams along which a state goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from training.core.config import ConfigModel
from training.core.data import RemoteFile, fetch, sha256_of
from training.core.seeding import generator

_TINY_SHAKESPEARE = RemoteFile(
    "tiny_shakespeare",
    "input.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)

START = "\n"
"""What a text is taken to follow where nothing comes before it."""


class DataConfig(ConfigModel):
    """Which text, and how it is split.

    Attributes:
        source: `tiny_shakespeare`, or `file` for any UTF-8 text at `path`.
        validation_share: of the characters, taken from the end; what comes before is trained on.
        path: of the text.
        name: what the manifest calls it.
        licence: of the text.
    """

    source: Literal["tiny_shakespeare", "file"] = "tiny_shakespeare"
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    path: str = ""
    name: str = "a text file"
    licence: str = "unknown"


@dataclass(frozen=True)
class Text:
    """A text split in two.

    Attributes:
        name: as the manifest names it.
        licence: of the text.
        url: where it is published, or a path.
        sha256: of its file, by name.
        vocabulary: every character of it, and `START`, in order; a character's index is its token.
        train: tokens (N,), int64.
        validation: tokens (M,), int64, which follow those of `train`.
    """

    name: str
    licence: str
    url: str
    sha256: dict[str, str]
    vocabulary: tuple[str, ...]
    train: Tensor
    validation: Tensor

    @property
    def start(self) -> int:
        """The token of `START`."""
        return self.vocabulary.index(START)


def load_text(config: DataConfig) -> Text:
    """Load the text of `config`. Line ends of any kind are read as a newline.

    Raises:
        ValueError: the file is no UTF-8, not what it should be, or too short to be split.
        OSError: it can't be read or downloaded.
    """
    published = config.source == "tiny_shakespeare"
    path = fetch(_TINY_SHAKESPEARE) if published else Path(config.path).expanduser()
    content = path.read_text(encoding="utf-8")
    vocabulary = tuple(sorted({*content, START}))
    number = {character: token for token, character in enumerate(vocabulary)}
    tokens = torch.tensor([number[character] for character in content], dtype=torch.int64)
    kept = int(len(tokens) * (1 - config.validation_share))
    if kept < 2 or kept == len(tokens):
        raise ValueError(f"{path} has {len(tokens)} characters, too few to hold some out")
    return Text(
        name="tiny Shakespeare" if published else config.name,
        licence="text in the public domain, no licence stated for the file" if published else config.licence,
        url=_TINY_SHAKESPEARE.url if published else str(path),
        sha256={path.name: sha256_of(path)},
        vocabulary=vocabulary,
        train=tokens[:kept],
        validation=tokens[kept:],
    )


@dataclass(frozen=True)
class Chunk:
    """What is learnt from in one step: a piece of each stream.

    Attributes:
        inputs: tokens (steps, streams).
        targets: the token after each of them (steps, streams).
        fresh: streams (streams,), bool, that begin anew here, with the zero state.
    """

    inputs: Tensor
    targets: Tensor
    fresh: Tensor


def chunks_per_epoch(tokens: Tensor, streams: int, steps: int) -> int:
    """How many chunks an epoch has; what is left over at the end of each stream is another text each epoch."""
    return len(tokens) // streams // steps


def training_chunks(
    tokens: Tensor,
    *,
    streams: int,
    steps: int,
    reset_probability: float,
    seed: int,
    epoch: int,
    skip: int,
    device: torch.device,
) -> Iterator[Chunk]:
    """Yield an epoch's chunks after the first `skip`: a stream's chunk goes on where its last one ended.

    The text is taken as a ring that each epoch cuts open at another place, so that neither where streams begin nor
    where chunks end is ever the same. Streams start anew with the epoch, and at random now and then, since a text that
    is generated starts so too. All of it is a function of (seed, epoch, step) alone.
    """
    length = len(tokens) // streams
    offset = int(torch.randint(len(tokens), (1,), generator=generator(seed, "offset", epoch)))
    ring = torch.cat([tokens[offset:], tokens[: offset + 1]])
    inputs = ring[: streams * length].view(streams, length).t()
    targets = ring[1 : streams * length + 1].view(streams, length).t()
    for step in range(skip, length // steps):
        fresh = torch.rand(streams, generator=generator(seed, "fresh", epoch, step)) < reset_probability
        part = slice(step * steps, (step + 1) * steps)
        yield Chunk(
            inputs=inputs[part].contiguous().to(device),
            targets=targets[part].contiguous().to(device),
            fresh=(fresh | (step == 0)).to(device),
        )
