"""How well a step graph foretells a text, measured on the exported file by ONNX Runtime; and texts of its own."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from service.manifest import CharacterPreprocessing, Manifest, read_manifest
from training.core.export import open_session
from training.core.report import plot_history
from training.core.run import Run, finished_run
from training.text_generation.data import Text, load_text
from training.text_generation.graph import LOGITS, NEXT_STATE, STATE, TOKEN, step_graph
from training.text_generation.model import CharacterLSTM
from training.text_generation.train import Config

logger = logging.getLogger(__name__)

WINDOW = 256
GRAPH = "step"
"""The role of the graph in a bundle."""

_LARGEST_BATCH, _STEPS_AT_ONCE = 64, 512
_SAME_LOSS = 1e-3
"""How far a loss measured again may lie from the manifest's: another processor rounds otherwise, now and then."""

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Loss:
    """Nats a character, over all characters of a text.

    Attributes:
        n: how many there are.
        carried: with the state carried from the first to the last.
        windows: with the zero state at every 256th, each character still given the true one before it.
    """

    n: int
    carried: float
    windows: float

    @property
    def bits(self) -> float:
        """The loss with carried state in bits a character."""
        return self.carried / math.log(2)


class StepModel:
    """A step graph in ONNX Runtime.

    Args:
        path: of the graph.
    """

    def __init__(self, path: Path) -> None:
        self._session = open_session(path, threads=1)
        (self._width,) = (one.shape[1] for one in self._session.get_inputs() if one.name == STATE)

    def zero_state(self, batch: int) -> NDArray[np.float32]:
        """The state before the first character (batch, 2 layers hidden)."""
        return np.zeros((batch, self._width), np.float32)

    def step(self, tokens: Tokens, state: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map tokens (batch,) and a state to logits (batch, vocabulary) of the tokens after, and the state after."""
        logits, after = self._session.run([LOGITS, NEXT_STATE], {TOKEN: tokens, STATE: state})
        return logits, after


def measure(model: StepModel, tokens: Tokens, start: int) -> Loss:
    """Measure `model` on `tokens` (N,), of which the first is taken to follow the token `start`."""
    before = np.concatenate([[start], tokens[:-1]])
    whole = len(tokens) // WINDOW * WINDOW
    windows = [
        (given, wanted)
        for given, wanted in (
            (before[:whole].reshape(-1, WINDOW), tokens[:whole].reshape(-1, WINDOW)),
            (before[None, whole:], tokens[None, whole:]),
        )
        if wanted.size
    ]
    return Loss(
        n=len(tokens),
        carried=total_loss(model, before[None], tokens[None]) / len(tokens),
        windows=sum(total_loss(model, given, wanted) for given, wanted in windows) / len(tokens),
    )


def total_loss(model: StepModel, given: Tokens, wanted: Tokens) -> float:
    """The summed loss of rows (rows, steps) that each start from the zero state, in nats, in double precision."""
    total = 0.0
    for begin in range(0, len(given), _LARGEST_BATCH):
        rows = slice(begin, begin + _LARGEST_BATCH)
        state = model.zero_state(len(given[rows]))
        for first in range(0, given.shape[1], _STEPS_AT_ONCE):
            steps, answers = slice(first, first + _STEPS_AT_ONCE), []
            for now in given[rows, steps].T:
                logits, state = model.step(now, state)
                answers.append(logits)
            after = wanted[rows, steps].T.ravel()
            total -= float(log_probabilities(np.concatenate(answers))[np.arange(len(after)), after].sum())
    return total


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithms of the probabilities that `logits` (batch, vocabulary) stand for."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def sample(model: StepModel, start: int, count: int, *, temperature: float, seed: int) -> list[int]:
    """Write `count` tokens after the token `start`, by nothing but a temperature above 0."""
    draw = np.random.default_rng(seed)
    state, token, written = model.zero_state(1), start, []
    for _ in range(count):
        logits, state = model.step(np.array([token]), state)
        chances = np.exp(log_probabilities(logits / np.float32(temperature))[0])
        token = int(np.searchsorted(chances.cumsum(), draw.random() * chances.sum()))
        written.append(token)
    return written


def load_trained(config: Config, folder: Path) -> tuple[Run, Text, CharacterLSTM]:
    """The run in `folder` with its text and the network it came to, on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: the run has not finished an epoch.
    """
    run = finished_run(folder, config)
    text = load_text(config.data)
    model = CharacterLSTM(config.model, len(text.vocabulary))
    run.load_best(model)
    return run, text, model.eval()


def evaluate(config: Config, folder: Path) -> None:
    """Measure the network of the run in `folder`, and the bundle that was exported with this configuration.

    Both are measured as graphs, by ONNX Runtime. Either may be missing.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the bundle does not have the loss that its manifest says.
    """
    text = load_text(config.data)
    bundle = Path(config.export.models) / config.export.name / str(config.export.version)
    claimed = _manifest_of(bundle, text) if bundle.is_dir() else None
    if claimed is None or (folder / "best.pt").is_file():
        run, _, model = load_trained(config, folder)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "step.onnx"
            onnx.save(step_graph(model, quantised=False), path)
            report(run, measure(StepModel(path), text.validation.numpy(), text.start))
    if claimed is not None:
        graph = claimed.default.graphs[GRAPH].file
        found = measure(StepModel(bundle / graph), text.validation.numpy(), text.start)
        figures = {one.metric: one.value for one in claimed.quality if one.variant == claimed.default_variant}
        for metric, value in metrics(found).items():
            logger.info("%s/%s: %s %.4f, manifest %.4f", bundle, graph, metric, value, figures[metric])
            if not abs(value - figures[metric]) <= _SAME_LOSS:
                raise ValueError(f"{bundle}: {metric} is {value:.4f}, and its manifest says {figures[metric]:.4f}")


def metrics(loss: Loss) -> dict[str, float]:
    """The figures of a loss as a manifest names them."""
    return {
        "loss_nats": loss.carried,
        f"loss_nats_windows_{WINDOW}": loss.windows,
        "bits_per_character": loss.bits,
    }


def report(run: Run, loss: Loss) -> None:
    """Write `evaluation.json` and `history.png` into the run."""
    figures = {"n": loss.n, **metrics(loss)}
    (run.folder / "evaluation.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    plot_history(run.read_history(), "validation_loss", run.folder / "history.png")
    logger.info(
        "%.4f nats a character with carried state (%.4f bits), %.4f in windows of %d, on %d characters",
        loss.carried, loss.bits, loss.windows, WINDOW, loss.n,
    )  # fmt: skip


def written(tokens: Sequence[int], text: Text) -> str:
    """The characters of `tokens`."""
    return "".join(text.vocabulary[token] for token in tokens)


def _manifest_of(bundle: Path, text: Text) -> Manifest | None:
    """The manifest of the bundle in that folder, if it was made from `text`."""
    manifest = read_manifest(bundle)
    made_from = manifest.provenance.data.sha256 if manifest.provenance else {}
    if not isinstance(manifest.preprocessing, CharacterPreprocessing) or made_from != text.sha256:
        logger.info("%s was made from something else than %s", bundle, text.name)
        return None
    return manifest
