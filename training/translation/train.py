"""Train a translator: pairs, tokens, network, loss and measures, put together for `fit`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, field_validator
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from training.core.bundle import BundleConfig
from training.core.config import ConfigModel
from training.core.loop import FitConfig, best_device, fit
from training.core.provenance import hardware
from training.core.report import plot_history
from training.core.run import Run
from training.core.seeding import seed_everything
from training.translation.batches import Batch, Bucketing, TokenPair
from training.translation.data import Corpus, DataConfig, Example, load_corpus
from training.translation.loss import smoothed_loss
from training.translation.model import ModelConfig, Translator
from training.translation.scores import score
from training.translation.search import Engine, NetworkEngine, SearchConfig, translate
from training.translation.tokens import (
    PAD_TOKEN,
    TokensConfig,
    decode,
    encode,
    load_tokenizer,
    train_tokenizer,
)

logger = logging.getLogger(__name__)

NOT_OF_THE_RUN = frozenset({"export", "search"})
"""Tables of a configuration that don't change how a network is trained."""

TOKENIZER = "tokenizer.json"

WATCHED_SENTENCES = 1500
_GREEDY = SearchConfig(beam=1, length_penalty=0.0)


class TrainConfig(ConfigModel):
    """What a step learns from.

    Attributes:
        batch_tokens: tokens of a batch, of both sides together and with padding.
        longest: a pair with a side of more tokens, the end token included, is not learnt from.
        label_smoothing: share of the probability that is wanted of all tokens alike.
    """

    batch_tokens: int = Field(default=3000, ge=1)
    longest: int = Field(default=64, ge=2)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)


class ExportConfig(BundleConfig):
    """What becomes of a trained network.

    Attributes:
        source: the language that it reads, as ISO 639 has it.
        target: the language that it writes.
        variants: which ones the bundle holds.
        max_bleu_loss: how much BLEU int8 may lose against float32 on the validation part to be the default.
        length_penalties: of these, that with the best BLEU on the validation part is what the bundle searches by.
        sizes: to the smallest of these that is enough a sentence is filled up, in tokens. In multiples of eight, ONNX
            Runtime's products of floats add up a sentence's numbers in one order, whichever it is filled up to.
    """

    source: str
    target: str
    variants: tuple[Literal["fp32", "int8"], ...] = Field(default=("int8",), min_length=1)
    max_bleu_loss: float = Field(default=0.5, ge=0)
    length_penalties: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 0.5, 1.0, 1.5), min_length=1)
    sizes: tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...] = (8, 16, 24, 32, 48, 64)

    @field_validator("variants", "sizes")
    @classmethod
    def _each_once(cls, values: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len(set(values)) < len(values):
            raise ValueError("each may be there once")
        return values

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(sizes):
            raise ValueError("sizes must rise")
        return sizes


class Config(ConfigModel):
    """A whole run, as in `config.toml`."""

    seed: int = 1
    data: DataConfig
    tokens: TokensConfig
    model: ModelConfig
    fit: FitConfig
    train: TrainConfig
    search: SearchConfig
    export: ExportConfig


def train(config: Config, folder: Path) -> None:
    """Train by `config` in the run folder `folder`, going on where an earlier call was cut off.

    What is kept are the averaged weights of the epoch after which greedy translations of the validation part, or of its
    first sentences, had the best BLEU.
    """
    run = Run(folder, config, ignore=NOT_OF_THE_RUN)
    run.add_hardware(hardware())
    seed_everything(config.seed)
    device = best_device()
    corpus = load_corpus(config.data)
    tokenizer = tokenizer_of(folder, corpus, config.tokens)
    pairs = _tokens(tokenizer, corpus.train)
    bucketing = Bucketing(pairs, config.train.batch_tokens, config.train.longest)
    logger.info("%d of %d pairs in %d batches an epoch", bucketing.pairs, len(pairs), len(bucketing))
    watched = corpus.validation[:WATCHED_SENTENCES]
    held_out = _tokens(tokenizer, [(one.source, target) for one in watched for target in one.references])
    model = Translator(config.model, tokenizer.get_vocab_size()).to(device)

    fit(
        model,
        batches=lambda epoch, skip: (batch.to(device) for batch in bucketing.batches(config.seed, epoch, skip)),
        steps_per_epoch=len(bucketing),
        loss=lambda network, batch: batch_loss(cast(Translator, network), batch, config.train.label_smoothing),
        evaluate=lambda network: measures(cast(Translator, network), tokenizer, watched, held_out),
        select="validation_bleu",
        config=config.fit,
        run=run,
    )
    plot_history(run.read_history(), "validation_bleu", folder / "history.png")


def tokenizer_of(folder: Path, corpus: Corpus, config: TokensConfig) -> Tokenizer:
    """The tokenizer of the run in `folder`: learnt from the training part the first time, read from then on."""
    path = folder / TOKENIZER
    if not path.is_file():
        tokenizer = train_tokenizer([sentence for pair in corpus.train for sentence in pair], config)
        partial = path.with_suffix(".partial")
        partial.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        partial.replace(path)
    return load_tokenizer(path)


def batch_loss(network: Translator, batch: Batch, smoothing: float) -> Tensor:
    """The mean loss of the batch's tokens, with label smoothing."""
    features = network(batch.sources, batch.given)
    real = (batch.wanted != PAD_TOKEN).flatten().nonzero().squeeze(1)
    rows = features.flatten(0, 1).index_select(0, real)
    return smoothed_loss(
        rows, network.embedding.weight, network.token_bias, batch.wanted.flatten().index_select(0, real), smoothing
    )


def measures(
    network: Translator, tokenizer: Tokenizer, examples: Sequence[Example], pairs: Sequence[TokenPair]
) -> dict[str, float]:
    """What a training is watched by: nats a token of `pairs`, and BLEU of greedy translations of `examples`."""
    network.eval()
    return {
        "validation_loss": loss_of(network, pairs),
        "validation_bleu": score(
            translations(NetworkEngine(network), tokenizer, [one.source for one in examples], _GREEDY),
            [one.references for one in examples],
        ).bleu,
    }


def translations(engine: Engine, tokenizer: Tokenizer, sources: Sequence[str], config: SearchConfig) -> list[str]:
    """The network's translation of each of `sources`."""
    found = translate(engine, encode(tokenizer, sources), config)
    return [decode(tokenizer, tokens) for tokens in found]


@torch.no_grad()
def loss_of(network: Translator, pairs: Sequence[TokenPair]) -> float:
    """The loss on `pairs` in nats a token, end tokens included, each given the true ones before it."""
    device = network.token_bias.device
    total, count = 0.0, 0
    for batch in Bucketing(pairs, tokens=4000, longest=10_000).batches(0, 0, 0):
        here = batch.to(device)
        logits = network.score(network(here.sources, here.given)).flatten(0, 1).float()
        total += float(functional.cross_entropy(logits, here.wanted.flatten(), ignore_index=PAD_TOKEN, reduction="sum"))
        count += int((here.wanted != PAD_TOKEN).sum())
    return total / count


def count_parameters(network: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(parameter.numel() for parameter in network.parameters())


def _tokens(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[TokenPair]:
    sources, targets = (encode(tokenizer, side) for side in zip(*pairs, strict=True))
    return list(zip(sources, targets, strict=True))
