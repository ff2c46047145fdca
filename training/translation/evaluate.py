"""How well a trained network translates: BLEU and chrF of greedy search and of the beam that is configured."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer

from training.core.loop import best_device
from training.core.provenance import hardware
from training.core.report import plot_history
from training.core.run import Run, finished_run
from training.translation.data import Corpus, load_corpus, shared_targets
from training.translation.model import Translator
from training.translation.scores import score
from training.translation.search import NetworkEngine, SearchConfig
from training.translation.tokens import load_tokenizer
from training.translation.train import NOT_OF_THE_RUN, TOKENIZER, Config, count_parameters, translations

logger = logging.getLogger(__name__)


def load_trained(config: Config, folder: Path) -> tuple[Run, Corpus, Tokenizer, Translator]:
    """The run in `folder` with its corpus, its tokenizer and the network it came to, in evaluation mode.

    Raises:
        FileNotFoundError: the run has not finished an epoch.
        ValueError: it is a run of another configuration.
    """
    run = finished_run(folder, config, ignore=NOT_OF_THE_RUN)
    corpus = load_corpus(config.data)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    model = Translator(config.model, tokenizer.get_vocab_size())
    run.load_best(model)
    return run, corpus, tokenizer, model.to(best_device()).eval()


def evaluate(config: Config, folder: Path) -> None:
    """Measure the network of the run in `folder`, and write `evaluation.json` and `history.png` into it.

    The validation part is for choosing how to search; the test part is what is reported.

    Raises:
        FileNotFoundError: the run has not finished an epoch.
    """
    run, corpus, tokenizer, model = load_trained(config, folder)
    results = []
    for part, examples in (("validation", corpus.validation), ("test", corpus.test)):
        for search in _searches(config.search):
            found = score(
                translations(NetworkEngine(model), tokenizer, examples, search), [one.references for one in examples]
            )
            results.append({"part": part, **search.model_dump(), **asdict(found)})
            logger.info(
                "%s, beam %d, length penalty %g: BLEU %.2f, chrF %.2f on %d sentences with %d references",
                part, search.beam, search.length_penalty, found.bleu, found.chrf, found.n, found.references,
            )  # fmt: skip
    logger.info("%s; %s", results[-1]["bleu_signature"], results[-1]["chrf_signature"])
    report = {
        "corpus": corpus.name,
        "pairs_trained_on": len(corpus.train),
        "test_pairs_with_a_translation_in_train": shared_targets(corpus),
        "parameters": count_parameters(model),
        "seed": config.seed,
        "hardware": hardware(),
        "results": results,
    }
    (folder / "evaluation.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    plot_history(run.read_history(), "validation_bleu", folder / "history.png")


def _searches(config: SearchConfig) -> list[SearchConfig]:
    greedy = SearchConfig(beam=1, length_penalty=0.0)
    return [greedy] if config.beam == 1 else [greedy, config]
