"""How well a network or its exported graphs translate: BLEU and chrF of greedy search and of a beam."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from service.manifest import Manifest, TokenizerPreprocessing, TranslationPostprocessing, read_manifest
from service.sentences import cut
from training.core.loop import best_device
from training.core.provenance import hardware
from training.core.report import plot_history
from training.core.run import Run, finished_run
from training.translation.data import Corpus, Example, load_corpus, shared_targets
from training.translation.engine import GraphEngine
from training.translation.graph import DECODER, ENCODER
from training.translation.model import Translator
from training.translation.scores import Scores, score
from training.translation.search import Engine, NetworkEngine, SearchConfig
from training.translation.tokens import load_tokenizer
from training.translation.train import NOT_OF_THE_RUN, TOKENIZER, Config, count_parameters, translations

logger = logging.getLogger(__name__)

_SAME_POINTS = 0.3
"""How far figures measured again may lie from the manifest's: another processor rounds otherwise, now and then."""


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


@dataclass(frozen=True)
class Measured:
    """How well a part of the corpus was translated.

    Attributes:
        part: its name.
        search: how it was searched.
        scores: what came of it.
    """

    part: str
    search: SearchConfig
    scores: Scores

    def metrics(self) -> dict[str, float]:
        """The figures as a manifest names them."""
        suffix = "_greedy" if self.search.beam == 1 else ""
        return {f"bleu{suffix}": self.scores.bleu, f"chrf{suffix}": self.scores.chrf}


def measured(
    engine: Engine, tokenizer: Tokenizer, part: str, examples: Sequence[Example], search: SearchConfig, language: str
) -> Measured:
    """Translate a part of the corpus, whose sources are in `language`, and score it.

    Sources are taken apart as the server does: some are two sentences, which it translates one by one.
    """
    texts = [list(cut(one.source, language)) for one in examples]
    sentences = [piece.text for pieces in texts for piece in pieces if piece.is_sentence]
    found = iter(translations(engine, tokenizer, sentences, search))
    translated = ["".join(next(found) if piece.is_sentence else piece.text for piece in pieces) for pieces in texts]
    return Measured(part, search, score(translated, [one.references for one in examples]))


def search_of(config: SearchConfig) -> list[SearchConfig]:
    """What figures are given for: greedy search, and the one that is configured if it is another."""
    greedy = SearchConfig(beam=1, length_penalty=0.0)
    return [greedy] if config.beam == 1 else [greedy, config]


def evaluate(config: Config, folder: Path) -> None:
    """Measure the network of the run in `folder`, and the bundle that was exported with this configuration.

    The network is measured in PyTorch, the bundle as its default graphs, by the search that its manifest asks for.
    Either may be missing. The validation part is for choosing how to search; the test part is what is reported.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the bundle does not have the figures that its manifest says.
    """
    corpus = load_corpus(config.data)
    bundle = Path(config.export.models) / config.export.name / str(config.export.version)
    claimed = _manifest_of(bundle, corpus) if bundle.is_dir() else None
    if claimed is None or (folder / "best.pt").is_file():
        run, _, tokenizer, model = load_trained(config, folder)
        engine, results = NetworkEngine(model), []
        for part, examples in (("validation", corpus.validation), ("test", corpus.test)):
            for search in search_of(config.search):
                results.append(measured(engine, tokenizer, part, examples, search, config.export.source))
                _tell(results[-1], "PyTorch")
        report(run, corpus, model, config, results)
    if claimed is not None:
        _compare(bundle, claimed, corpus)


def report(run: Run, corpus: Corpus, model: Translator, config: Config, results: Sequence[Measured]) -> None:
    """Write `evaluation.json` and `history.png` into the run."""
    content = {
        "corpus": corpus.name,
        "pairs_trained_on": len(corpus.train),
        "test_pairs_with_a_translation_in_train": shared_targets(corpus),
        "parameters": count_parameters(model),
        "seed": config.seed,
        "hardware": hardware(),
        "results": [{"part": one.part, **one.search.model_dump(), **asdict(one.scores)} for one in results],
    }
    (run.folder / "evaluation.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    plot_history(run.read_history(), "validation_bleu", run.folder / "history.png")
    logger.info("%s; %s", results[0].scores.bleu_signature, results[0].scores.chrf_signature)


def _tell(one: Measured, what: str) -> None:
    logger.info(
        "%s, %s, beam %d, length penalty %g: BLEU %.2f, chrF %.2f on %d sentences with %d references",
        what, one.part, one.search.beam, one.search.length_penalty,
        one.scores.bleu, one.scores.chrf, one.scores.n, one.scores.references,
    )  # fmt: skip


def _compare(bundle: Path, claimed: Manifest, corpus: Corpus) -> None:
    """Measure the default graphs of a bundle on the test part, and refuse other figures than its manifest has."""
    how, search = claimed.preprocessing, claimed.postprocessing
    if not isinstance(how, TokenizerPreprocessing) or not isinstance(search, TranslationPostprocessing):
        raise ValueError(f"{bundle} does not say how it translates")
    tokenizer = load_tokenizer(bundle / how.tokenizer)
    graphs = claimed.default.graphs
    engine = GraphEngine(bundle / graphs[ENCODER].file, bundle / graphs[DECODER].file)
    figures = {
        one.metric: one.value
        for one in claimed.quality
        if (one.variant, one.split) == (claimed.default_variant, "test")
    }
    for one in search_of(SearchConfig(beam=search.beams, length_penalty=search.length_penalty)):
        found = measured(engine, tokenizer, "test", corpus.test, one, search.source)
        _tell(found, str(bundle))
        for metric, value in found.metrics().items():
            logger.info("%s: %s %.2f, manifest %.2f", bundle, metric, value, figures[metric])
            if not abs(value - figures[metric]) <= _SAME_POINTS:
                raise ValueError(f"{bundle}: {metric} is {value:.2f}, and its manifest says {figures[metric]:.2f}")


def _manifest_of(bundle: Path, corpus: Corpus) -> Manifest | None:
    """The manifest of the bundle in that folder, if it was made from `corpus`."""
    manifest = read_manifest(bundle)
    made_from = manifest.provenance.data.sha256 if manifest.provenance else {}
    if manifest.task != "translation" or made_from != corpus.sha256:
        logger.info("%s was made from something else than %s", bundle, corpus.name)
        return None
    return manifest
