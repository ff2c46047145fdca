"""The text encoder: from free text to a weight for each class, and to how surely it means any of them.

A text is a bag of hashed n-grams. Each has an embedding; how much each counts is learnt too (attention), so that the
few that matter are found among the words around them; what comes of it goes through one hidden layer. It is small
enough to be trained in a minute, and a graph of it needs nothing but rows of numbers, padded with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from service.ngrams import PAD
from training.core.config import ConfigModel
from training.core.loop import FitConfig, fit
from training.core.run import Run
from training.core.seeding import generator, seed_everything
from training.image_generation.captions import NOTHING, Caption, Captions, draw_caption, token_ids


class TextConfig(ConfigModel):
    """The text encoder and its training.

    Attributes:
        captions: name of the texts in `captions/`, or path of a folder of such files; empty = no text encoder.
        buckets: numbers that n-grams are hashed to.
        width: of an n-gram's embedding.
        hidden: width of the layer before the last.
        dropout: of n-grams' embeddings as a whole, and of the hidden layer.
        batch_size: captions a step.
        steps: a pass (`fit.epochs` says how many).
        nothing: share of captions that mean no class.
        typos: share of captions with a typing error.
        label_smoothing: share of the target that is spread over all answers.
        fit: see `FitConfig`.
    """

    captions: str = ""
    buckets: int = Field(default=8192, ge=3)
    width: int = Field(default=32, ge=1)
    hidden: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    batch_size: int = Field(default=128, ge=1)
    steps: int = Field(default=100, ge=1)
    nothing: float = Field(default=0.4, gt=0, lt=1)
    typos: float = Field(default=0.1, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    fit: FitConfig = FitConfig(epochs=10, learning_rate=0.01, optimiser="adamw")


class TextEncoder(nn.Module):
    """Tells what a text means.

    Args:
        config: see `TextConfig`.
        classes: how many there are.
    """

    def __init__(self, config: TextConfig, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.buckets, config.width, padding_idx=PAD)
        self.attend = nn.Linear(config.width, 1)
        self.hidden = nn.Linear(config.width, config.hidden)
        self.answer = nn.Linear(config.hidden, classes + 1)
        self.dropout = config.dropout
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map n-grams (N, length), padded with 0, to logits (N, classes + 1); the last is that of no class."""
        there = tokens != PAD
        if self.training:  # a whole n-gram is lost, not parts of each
            there = there & ((torch.rand(tokens.shape) >= self.dropout).to(tokens.device) | (tokens == tokens[:, :1]))
        x = self.embed(tokens)
        scores = self.attend(x)[..., 0].masked_fill(~there, -torch.inf)
        x = (scores.softmax(1)[..., None] * x).sum(1)
        x = functional.dropout(functional.relu(self.hidden(x)), self.dropout, self.training)
        logits: Tensor = self.answer(x)
        return logits


@dataclass(frozen=True)
class Reading:
    """What an encoder makes of texts.

    Attributes:
        conditions: weights of the classes if the text means one of them (N, classes), a row's sum is 1.
        meant: how surely it does (N,), 0..1.
    """

    conditions: Tensor
    meant: Tensor


def reading_of(logits: Tensor) -> Reading:
    """What logits (N, classes + 1) say, whose last is that of no class."""
    return Reading(conditions=logits[:, :-1].softmax(1), meant=(1 - logits.softmax(1)[:, -1]).clamp(0, 1))


@torch.no_grad()
def read(encoder: TextEncoder, texts: Sequence[str]) -> Reading:
    """Read `texts`; a text's reading does not depend on those beside it."""
    encoder.eval()
    return reading_of(encoder(padded([token_ids(text, encoder.embed.num_embeddings) for text in texts])))


def train_text(config: TextConfig, captions: Captions, folder: Path, *, seed: int) -> TextEncoder:
    """Train an encoder in the run folder `folder`, or go on with it, and return it in evaluation mode."""
    run = Run(folder, config)
    seed_everything(seed)
    classes = len(captions.names)
    model = TextEncoder(config, classes)

    def batches(epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(skip, config.steps):
            draw = generator(seed, "captions", epoch, step)
            drawn = [
                draw_caption(captions, draw, nothing=config.nothing, typos=config.typos)
                for _ in range(config.batch_size)
            ]
            labels = torch.tensor([classes if one.label == NOTHING else one.label for one in drawn])
            yield padded([token_ids(one.text, config.buckets) for one in drawn]), labels

    fit(
        model,
        batches=batches,
        steps_per_epoch=config.steps,
        loss=lambda network, batch: functional.cross_entropy(
            network(batch[0]), batch[1], label_smoothing=config.label_smoothing
        ),
        evaluate=lambda network: _watched(network, captions.validation),
        select="epoch",
        config=config.fit,
        run=run,
    )
    run.load_best(model)
    return model.eval()


def load_text(config: TextConfig, folder: Path, classes: int) -> TextEncoder:
    """The encoder that `train_text` left in `folder`, in evaluation mode.

    Raises:
        FileNotFoundError: it has not finished.
        ValueError: it was trained by another configuration.
    """
    model = TextEncoder(config, classes)
    Run(folder, config).load_best(model)
    return model.eval()


@dataclass(frozen=True)
class Understanding:
    """How well texts are understood; what does not apply is None.

    Attributes:
        n: how many texts.
        accuracy: share of those that mean a class and are accepted as just this one.
        nearest_accuracy: share whose likeliest class is right, accepted or not.
        rejected: share of those that mean a class and are not accepted.
        false_acceptance: share of those that mean none and are accepted.
    """

    n: int
    accuracy: float | None
    nearest_accuracy: float | None
    rejected: float | None
    false_acceptance: float | None


def measure_text(encoder: TextEncoder, captions: Sequence[Caption], threshold: float) -> Understanding:
    """Measure `encoder` on `captions`; a text is accepted that means a class by `threshold` or more surely."""
    return understanding(read(encoder, [one.text for one in captions]), captions, threshold)


def understanding(found: Reading, captions: Sequence[Caption], threshold: float) -> Understanding:
    """How well `captions` are understood that were read as `found`; see `measure_text`."""
    labels = torch.tensor([one.label for one in captions])
    accepted, right = found.meant >= threshold, found.conditions.argmax(1) == labels
    on, off = labels != NOTHING, labels == NOTHING
    return Understanding(
        n=len(captions),
        accuracy=_share((accepted & right)[on]),
        nearest_accuracy=_share(right[on]),
        rejected=_share(~accepted[on]),
        false_acceptance=_share(accepted[off]),
    )


def choose_threshold(encoder: TextEncoder, validation: Sequence[Caption]) -> float:
    """The threshold by which `validation` is understood best.

    It makes the share of texts that are accepted as the class they mean, less the share of off-topic texts that are
    accepted, as large as it can be. It lies halfway between two texts, so that no rounding decides on either.
    """
    found = read(encoder, [one.text for one in validation])
    labels = torch.tensor([one.label for one in validation])
    right, off = found.conditions.argmax(1) == labels, labels == NOTHING
    candidates = found.meant.unique()
    accepted = found.meant >= candidates[:, None]
    gain = (accepted & right).sum(1) / (~off).sum() - (accepted & off).sum(1) / off.sum()
    best = int(gain.argmax())
    return float(candidates[max(best - 1, 0) : best + 1].mean())


def figures(encoder: TextEncoder, captions: Captions) -> dict[str, object]:
    """The threshold, and every list of texts measured with it, as `evaluation.json` has them."""
    threshold = choose_threshold(encoder, captions.validation)
    lists = {"validation": captions.validation, **captions.tests}
    return {
        "threshold": threshold,
        **{name: asdict(measure_text(encoder, texts, threshold)) for name, texts in lists.items()},
    }


def _watched(network: nn.Module, validation: Sequence[Caption]) -> dict[str, float]:
    assert isinstance(network, TextEncoder)  # noqa: S101 - fit hands back what it was given
    found = measure_text(network, validation, 0.5)
    return {
        "validation_accuracy": found.accuracy or 0.0,
        "validation_false_acceptance": found.false_acceptance or 0.0,
    }


def _share(which: Tensor) -> float | None:
    return float(which.float().mean()) if len(which) else None


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of n-grams as one array (N, length of the longest), filled up with `PAD`."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (length - len(row))] for row in rows])
