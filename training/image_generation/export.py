"""A trained generator and its text encoder become a bundle: two graphs, golden outputs, measured figures, the card."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import training.image_classification
from service.latents import latents_of
from service.manifest import (
    GOLDEN_FILE,
    LABELS_FILE,
    SCHEMA_VERSION,
    Batching,
    ImagesPostprocessing,
    Manifest,
    NgramPreprocessing,
    Provenance,
    Quality,
    Source,
)
from training.core.bundle import file_entries, new_bundle, write_manifest
from training.core.card import render_card
from training.core.export import open_session, seconds_a_run, variants_of_graphs
from training.core.golden import GoldenRows, write_golden_of_graphs
from training.core.provenance import processor, provenance
from training.core.run import Run
from training.core.seeding import generator
from training.image_classification.data import DataSet
from training.image_generation.agreement import Agreement, ShippedClassifier, agreement_of, measure_agreement
from training.image_generation.captions import LONGEST, MOST_NGRAMS, SHORTEST, Captions, load_captions, token_ids
from training.image_generation.card import DRAWN, VALIDATION, Findings, sections
from training.image_generation.check import check_generator, check_text
from training.image_generation.classifier import Judge, load_classifier
from training.image_generation.data import conditions_of
from training.image_generation.engine import GraphEngine
from training.image_generation.evaluate import asked_classes, load_report, load_trained, seen
from training.image_generation.graph import (
    CONDITION,
    CONDITIONS,
    GENERATOR,
    IMAGE,
    LATENT,
    MEANT,
    TEXT,
    TOKENS,
    ImageGraph,
    TextGraph,
    export_generator,
    export_text,
)
from training.image_generation.model import Generator, count_parameters
from training.image_generation.samples import draw_pictures, require_known_classes
from training.image_generation.text import (
    TextEncoder,
    Understanding,
    choose_threshold,
    load_text,
    padded,
    understanding,
)
from training.image_generation.train import JUDGE, Config
from training.image_generation.train import TEXT as TEXT_FOLDER

logger = logging.getLogger(__name__)

VARIANT = "fp32"
FILES = {TEXT: "text.onnx", GENERATOR: "model.onnx"}

_WATCH = "watch.png"
_GOLDEN_ROWS, _CANDIDATES = 16, 128
_TIMED_ROWS = (1, 64)
_MOST_ROWS = 64
_NOTICE = Path(training.image_classification.__file__).parent / "NOTICE-fashion-mnist.txt"


def export(config: Config, folder: Path) -> None:
    """Write the bundle of the run in `folder`, which was evaluated.

    What the judge says, and what texts are read as, is measured again of the exported graphs; what takes pupils or
    another run is taken from the evaluation.

    Raises:
        FileNotFoundError: the run has not finished an epoch or was not evaluated, or a classifier is to look at its
            images that is not there.
        ValueError: a graph is not what it should be (see `check`), the evaluation is of other weights, or classes are
            asked for that don't exist.
        FileExistsError: a bundle of that version exists, and `export.replace` is false.
    """
    run, data, network = load_trained(config, folder)
    report, network = load_report(config, folder), network.cpu()
    encoder, captions = _text(config, data, folder)
    asked, labels = config.export, data.labels if network.classes > 1 else ()
    require_known_classes(asked, labels)
    threshold = choose_threshold(encoder, captions.validation) if encoder and captions else 0.0
    truncation = choose_truncation(report, asked.min_agreement)
    with new_bundle(Path(asked.models), asked.name, asked.version, replace=asked.replace) as bundle:
        files = {GENERATOR: bundle / FILES[GENERATOR]}
        export_generator(network, files[GENERATOR])
        check_generator(files[GENERATOR], network, config.seed)
        if encoder and captions:
            files = {TEXT: bundle / FILES[TEXT], **files}
            export_text(encoder, files[TEXT])
            check_text(files[TEXT], encoder, [one.text for one in captions.validation], config.seed)
        engine = GraphEngine(files, config.text.buckets, labels)
        judge = Judge(load_classifier(config.judge, data, folder / JUDGE, seed=config.seed), data)
        classes = asked_classes(data, config.evaluate.images)
        pixels = engine.draw_pixels(classes, generator(config.seed, "evaluate"), truncation)
        findings = Findings(
            report=report,
            drawn=seen(pixels, classes if labels else None, judge, data),
            shipped=_shipped_agreements(engine, config, threshold, truncation, pixels, classes) if labels else {},
            texts=read_by_graph(engine, captions, threshold) if captions else {},
            threshold=threshold,
            truncation=truncation,
            milliseconds=_milliseconds(files[GENERATOR], network),
        )

        golden = golden_rows(network, encoder, captions, config.seed)
        names = {VARIANT: {role: path.name for role, path in files.items()}}
        tolerances = write_golden_of_graphs(bundle, golden, names)
        _require_same_golden_bytes(bundle)
        if labels:
            (bundle / LABELS_FILE).write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")
        pictures = draw_pictures(engine, asked, truncation, bundle)
        shutil.copyfile(run.folder / _WATCH, bundle / _WATCH)

        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            title=asked.title,
            description=asked.description,
            task="text-to-image" if labels else "unconditional-image-generation",
            parameters=count_parameters(network) + (count_parameters(encoder) if encoder else 0),
            files=file_entries(bundle),
            variants=variants_of_graphs(bundle, names, tolerances, {}),
            default_variant=VARIANT,
            preprocessing=_preprocessing(encoder, threshold) if encoder else None,
            postprocessing=ImagesPostprocessing(
                latent=LATENT,
                condition=CONDITION if labels else None,
                output=IMAGE,
                labels=LABELS_FILE if labels else None,
                truncation=truncation,
            ),
            batching=Batching(max_batch_size=_MOST_ROWS),
            quality=tuple(_quality(findings, config)),
            provenance=_provenance(config, data, run),
        )
        card = render_card(
            manifest,
            name=asked.name,
            pictures={**pictures, "What was watched while it was trained, epoch by epoch": _WATCH},
            tables=sections(findings, engine, config, data),
            notices=[_NOTICE] if config.data.source == "fashion_mnist" else [],
        )
        (bundle / "README.md").write_text(card, encoding="utf-8")
        write_manifest(bundle, manifest)
    logger.info("wrote %s/%s/%d, truncation %g", asked.models, asked.name, asked.version, truncation)


def choose_truncation(report: Mapping[str, Any], min_agreement: float) -> float:
    """The largest truncation with which the judge agrees with so many images, by the evaluation.

    Where there is none, it is the one with which it agrees most; where there are no classes, 1.
    """
    measured = {1.0: report["drawn"], **{float(factor): found for factor, found in report["truncated"].items()}}
    agreement = {factor: found.get("label_agreement", 1.0) for factor, found in measured.items()}
    enough = [factor for factor, share in agreement.items() if share >= min_agreement]
    return max(enough) if enough else max(agreement, key=lambda factor: agreement[factor])


def read_by_graph(engine: GraphEngine, captions: Captions, threshold: float) -> dict[str, Understanding]:
    """How well the text graph understands every list of texts."""
    lists = {VALIDATION: captions.validation, **captions.tests}
    return {
        name: understanding(engine.read([one.text for one in texts]), texts, threshold) for name, texts in lists.items()
    }


@torch.no_grad()
def golden_rows(
    network: Generator, encoder: TextEncoder | None, captions: Captions | None, seed: int
) -> dict[str, GoldenRows]:
    """The golden inputs of the graphs and PyTorch's outputs: latents that were drawn, and texts that were made up.

    An image is compared byte by byte, so latents are taken whose images have no number near the middle between two
    bytes: there the last digits, which another processor computes otherwise, would decide.
    """
    count = _GOLDEN_ROWS * _CANDIDATES
    latents = torch.from_numpy(latents_of(seed, count, network.latent))
    conditions = conditions_of(torch.arange(count) % _GOLDEN_ROWS % network.classes, network.classes)
    drawn = torch.cat([network(*some) for some in zip(latents.split(250), conditions.split(250), strict=True)])
    places = (drawn.double() + 1) * 127.5
    margins = (places - places.floor() - 0.5).abs().flatten(1).amin(1)
    best = margins.view(_CANDIDATES, _GOLDEN_ROWS).argmax(0) * _GOLDEN_ROWS + torch.arange(_GOLDEN_ROWS)
    logger.info("golden images keep %.2g of a byte from where a byte changes", float(margins[best].min()))
    inputs = {LATENT: latents[best].numpy(), CONDITION: conditions[best].numpy()}
    pixels, _ = ImageGraph(network)(latents[best], conditions[best])
    if network.classes == 1:
        del inputs[CONDITION]
    rows = {GENERATOR: GoldenRows(inputs, {IMAGE: pixels.contiguous().numpy()})}
    if encoder and captions:
        step = -(-len(captions.validation) // (_GOLDEN_ROWS - 1))
        texts = ["", *(one.text for one in captions.validation[::step])]
        tokens = padded([token_ids(text, encoder.embed.num_embeddings) for text in texts])
        read = (one.numpy() for one in TextGraph(encoder)(tokens))
        rows[TEXT] = GoldenRows({TOKENS: tokens.numpy()}, dict(zip((CONDITIONS, MEANT), read, strict=True)))
    return rows


def _require_same_golden_bytes(bundle: Path) -> None:
    with np.load(bundle / GOLDEN_FILE) as arrays:
        expected, found = arrays[f"framework/{GENERATOR}/{IMAGE}"], arrays[f"runtime/{VARIANT}/{GENERATOR}/{IMAGE}"]
    if not np.array_equal(expected, found):
        raise ValueError(f"ONNX Runtime's golden images are not PyTorch's: {(expected != found).sum()} bytes differ")


def _text(config: Config, data: DataSet, folder: Path) -> tuple[TextEncoder, Captions] | tuple[None, None]:
    if not config.text.captions:
        return None, None
    encoder = load_text(config.text, folder / TEXT_FOLDER, len(data.labels))
    return encoder, load_captions(config.text.captions, data.labels)


def _preprocessing(encoder: TextEncoder, threshold: float) -> NgramPreprocessing:
    return NgramPreprocessing(
        input=TOKENS,
        buckets=encoder.embed.num_embeddings,
        shortest=SHORTEST,
        longest=LONGEST,
        most=MOST_NGRAMS,
        conditions=CONDITIONS,
        meant=MEANT,
        threshold=threshold,
    )


def _shipped_agreements(
    engine: GraphEngine, config: Config, threshold: float, truncation: float, pixels: Tensor, classes: Tensor
) -> dict[str, Agreement]:
    """What the classifier sees that ships, by the split: in the judge's images, and in those of seeds."""
    asked = config.export
    if not asked.classifier:
        return {}
    classifier = ShippedClassifier(Path(asked.models) / asked.classifier, engine.labels)
    names = [engine.labels[number] for number in classes.tolist()]
    found = {
        DRAWN: agreement_of(classifier(pixels.permute(0, 2, 3, 1).numpy()), names, names),
        f"seeds 0-{asked.seeds - 1}": measure_agreement(
            engine,
            classifier,
            seeds=asked.seeds,
            caption=asked.caption,
            threshold=threshold,
            truncation=truncation,
        ),
    }
    for split, one in found.items():
        logger.info("%s agrees with %.4f of %d images, %s", asked.classifier, one.share, one.n, split)
    return found


def _milliseconds(path: Path, network: Generator) -> dict[int, float]:
    """What a row takes on one thread, by the number of rows of a batch."""
    session = open_session(path, threads=1)
    found = {}
    for rows in _TIMED_ROWS:
        inputs = {LATENT: latents_of(1, rows, network.latent)}
        if network.classes > 1:
            inputs[CONDITION] = conditions_of(torch.arange(rows) % network.classes, network.classes).numpy()
        found[rows] = 1e3 * seconds_a_run(session, inputs) / rows
    return found


def _quality(findings: Findings, config: Config) -> Iterator[Quality]:
    """Every figure: what is drawn with the manifest's truncation first."""
    report, drawn, here = findings.report, findings.drawn, f"{processor()}, ONNX Runtime on CPU"

    def figure(metric: str, value: float, split: str, n: int, where: str = here) -> Quality:
        return Quality(
            metric=metric, value=value, split=split, n=n, variant=VARIANT, seeds=(config.seed,), hardware=where
        )

    there = f"{report['hardware']}, PyTorch"
    # What pupils and the baseline are measured by is drawn with truncation 1.
    part = DRAWN if findings.truncation == 1 else f"{DRAWN}, truncation {findings.truncation:g}"
    for metric in ("label_agreement", "frechet_distance", "relative_spread", "label_entropy"):
        if metric in drawn:
            yield figure(metric, drawn[metric], part, drawn["n"])
    yield figure("frechet_distance", report["real"]["frechet_distance"], "real", report["real"]["n"], there)
    if "baseline" in report:
        other = report["baseline"]
        yield figure(f"frechet_distance_{other['recipe']}", other["frechet_distance"], DRAWN, other["n"], there)
    for split, shipped in findings.shipped.items():
        yield figure("label_agreement_shipped_classifier", shipped.share, part if split == DRAWN else split, shipped.n)
    if "pupils" in report:
        pupils = report["pupils"]
        yield figure("gan_train", pupils["gan_train"], "test", pupils["n_test"], there)
        yield figure("gan_train_points_below_real", pupils["points_below_real"], "test", pupils["n_test"], there)
        yield figure("gan_test", pupils["gan_test"], DRAWN, config.evaluate.images, there)
    for name, found in findings.texts.items():
        if name == VALIDATION:  # by which the threshold was chosen
            continue
        if found.accuracy is not None:
            yield figure("text_accuracy", found.accuracy, name, found.n)
        if found.false_acceptance is not None:
            yield figure("text_false_acceptance", found.false_acceptance, name, found.n)


def _provenance(config: Config, data: DataSet, run: Run) -> Provenance:
    source = Source(name=data.name, licence=data.licence, url=data.url, sha256=data.sha256)
    made = provenance(config, config.seed, run, source)
    if not config.text.captions:
        return made
    text = Run(run.folder / TEXT_FOLDER, config.text).read_history()
    seconds = made.training_seconds + round(sum(row["seconds"] for row in text))
    return made.model_copy(update={"training_seconds": seconds})
