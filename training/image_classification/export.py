"""A trained classifier becomes a bundle: float32 and int8 graphs, golden outputs, measured quality, the card."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from service.images import normalise
from service.manifest import (
    SCHEMA_VERSION,
    Batching,
    ClassificationPostprocessing,
    ImagePreprocessing,
    Manifest,
    Provenance,
    Quality,
    Source,
)
from training.core.bundle import file_entries, new_bundle, write_manifest
from training.core.card import markdown_table, render_card, variants_table
from training.core.export import (
    export_onnx,
    fastest,
    graph_variants,
    largest_difference,
    open_session,
    quantise,
    seconds_a_run,
)
from training.core.golden import write_golden
from training.core.provenance import processor, provenance
from training.core.run import Run
from training.image_classification.data import INPUT, DataSet, Part
from training.image_classification.evaluate import Evaluation, load_trained, measure, report
from training.image_classification.model import published_weights
from training.image_classification.train import Config

logger = logging.getLogger(__name__)

OUTPUT, GRAPH, LABELS_FILE = "logits", "model", "labels.json"
_FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
_HERE = Path(__file__).parent
_AGREEMENT = 1e-4
"""Largest difference between PyTorch and ONNX Runtime in float32, in logits, at any batch size."""


@dataclass(frozen=True)
class _Measured:
    """A variant, as it did on this machine."""

    validation: Evaluation
    test: Evaluation
    test_outputs: Tensor
    seconds_a_row: float


def export(config: Config, folder: Path) -> None:
    """Write the bundle of the run in `folder`.

    Raises:
        ValueError: the exported graph does not agree with PyTorch.
        FileExistsError: a bundle of that version exists, and `export.replace` is false.
    """
    run, data, model = load_trained(config, folder)
    asked = config.export
    preprocessing = data.preprocessing
    golden_inputs = normalise(made_up_pictures(16, preprocessing, config.seed), preprocessing)
    with new_bundle(Path(asked.models), asked.name, asked.version, replace=asked.replace) as bundle:
        example = torch.from_numpy(golden_inputs)
        export_onnx(model, {INPUT: example[:2]}, [OUTPUT], bundle / _FILES["fp32"])
        difference = largest_difference(model, open_session(bundle / _FILES["fp32"]), {INPUT: example}, (1, 2, 7, 64))
        if not difference <= _AGREEMENT:  # not so either for NaN
            raise ValueError(f"ONNX Runtime differs from PyTorch by {difference:.3g}; allowed is {_AGREEMENT}")
        logger.info("ONNX Runtime and PyTorch agree to %.2g at batch 1, 2, 7 and 64", difference)
        calibration = _batches(data, data.train.pixels[: asked.calibration_images])
        quantise(bundle / _FILES["fp32"], bundle / _FILES["int8"], ({INPUT: batch} for batch in calibration))

        measured = {name: _measure(bundle / file, data) for name, file in _FILES.items()}
        default = _choose_default(measured, asked.max_loss_points)
        report(run, data, data.test, measured[default].test_outputs)
        with torch.no_grad():
            expected = model(example).numpy()
        tolerances = write_golden(bundle, GRAPH, {INPUT: golden_inputs}, {OUTPUT: expected}, _FILES)
        (bundle / LABELS_FILE).write_text(json.dumps(data.labels, indent=2) + "\n", encoding="utf-8")
        for picture in ("history.png", "confusion.png"):
            shutil.copyfile(run.folder / picture, bundle / picture)

        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            title=asked.title,
            description=asked.description,
            task="image-classification",
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            files=file_entries(bundle),
            variants=graph_variants(bundle, GRAPH, _FILES, tolerances),
            default_variant=default,
            preprocessing=preprocessing,
            postprocessing=ClassificationPostprocessing(output=OUTPUT, activation="softmax", labels=LABELS_FILE),
            batching=Batching(max_batch_size=64),
            quality=_quality(measured, default, config.seed),
            provenance=_provenance(config, data, run),
        )
        card = render_card(
            manifest,
            name=asked.name,
            pictures={"Learning curve": "history.png", "Confusion matrix, test part": "confusion.png"},
            tables={"By class": _by_class(measured[default].test), "Variants": _variants(bundle, measured)},
            notices=_notices(config),
        )
        (bundle / "README.md").write_text(card, encoding="utf-8")
        write_manifest(bundle, manifest)
    logger.info("wrote %s/%s/%d, default %s", asked.models, asked.name, asked.version, default)


def made_up_pictures(count: int, how: ImagePreprocessing, seed: int) -> NDArray[np.uint8]:
    """Draw `count` pictures of nothing in particular (count, channels, height, width): the golden inputs.

    Shapes and smooth noise, so that every layer has something to answer, and no picture of any data set is needed.
    """
    draw = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        mode = "L" if how.channels == 1 else "RGB"
        picture = Image.new(mode, (how.width, how.height), 0)
        pen = ImageDraw.Draw(picture)
        for _ in range(int(draw.integers(1, 5))):
            corners = draw.uniform(0, 1, (int(draw.integers(3, 7)), 2)) * (how.width, how.height)
            colour = tuple(int(value) for value in draw.integers(40, 256, how.channels))
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=colour if how.channels == 3 else colour[0])
        picture = picture.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, 1.5))))
        noise = draw.normal(0, draw.uniform(0, 25), (how.height, how.width, how.channels))
        values = np.asarray(picture, np.float64).reshape(noise.shape) + noise
        pictures.append(values.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))
    return np.stack(pictures)


def _batches(data: DataSet, pixels: Tensor) -> Iterator[NDArray[np.float32]]:
    for part in pixels.split(64):
        yield data.normalised(part).numpy()


def _outputs(session: ort.InferenceSession, data: DataSet, part: Part) -> Tensor:
    return torch.cat([torch.from_numpy(session.run(None, {INPUT: batch})[0]) for batch in _batches(data, part.pixels)])


def _measure(path: Path, data: DataSet) -> _Measured:
    session = open_session(path)
    test = _outputs(session, data, data.test)
    batch = data.normalised(data.test.pixels[:32]).numpy()
    return _Measured(
        validation=measure(_outputs(session, data, data.validation), data.validation.labels, data.labels),
        test=measure(test, data.test.labels, data.labels),
        test_outputs=test,
        seconds_a_row=seconds_a_run(open_session(path, threads=1), {INPUT: batch}) / len(batch),
    )


def _choose_default(measured: Mapping[str, _Measured], max_loss_points: float) -> str:
    """The fastest variant that loses at most so many points of accuracy on the validation part against float32."""
    reference = measured["fp32"].validation.accuracy
    for name, one in measured.items():
        logger.info(
            "%s: validation %.4f, test %.4f, %.1f us a row",
            name, one.validation.accuracy, one.test.accuracy, 1e6 * one.seconds_a_row,
        )  # fmt: skip
    lost = {name: 100 * (reference - one.validation.accuracy) for name, one in measured.items()}
    return fastest(lost, {name: one.seconds_a_row for name, one in measured.items()}, max_loss_points)


def _quality(measured: Mapping[str, _Measured], default: str, seed: int) -> tuple[Quality, ...]:
    where = f"{processor()}, ONNX Runtime on CPU"
    figures = []
    for name in (default, *(other for other in measured if other != default)):
        for split, result in (("test", measured[name].test), ("validation", measured[name].validation)):
            for metric, value in (("accuracy", result.accuracy), ("calibration_error", result.calibration_error)):
                figures.append(
                    Quality(
                        metric=metric, value=value, split=split, n=result.n, variant=name, seeds=(seed,), hardware=where
                    )
                )
    return tuple(figures)


def _provenance(config: Config, data: DataSet, run: Run) -> Provenance:
    initial = None
    if config.model.initial_weights == "cifar10":
        file = published_weights(config.model.depth)
        initial = Source(
            name=f"CIFAR-10 ResNet-{config.model.depth}",
            licence="BSD-2-Clause",
            url=file.url,
            sha256={file.name: file.digest.removeprefix("sha256:")},
        )
    source = Source(name=data.name, licence=data.licence, url=data.url, sha256=data.sha256)
    return provenance(config, config.seed, run, source, initial)


def _notices(config: Config) -> list[Path]:
    """The texts that the licences of what this model was made from oblige to pass on."""
    names = {
        "NOTICE-cifar10-resnets.txt": config.model.initial_weights == "cifar10",
        "NOTICE-fashion-mnist.txt": config.data.source == "fashion_mnist",
    }
    return [_HERE / name for name, applies in names.items() if applies]


def _by_class(result: Evaluation) -> str:
    return markdown_table(("class", "recall"), [(label, f"{value:.3f}") for label, value in result.by_class.items()])


def _variants(bundle: Path, measured: Mapping[str, _Measured]) -> str:
    values = {name: one.test.accuracy for name, one in measured.items()}
    seconds = {name: one.seconds_a_row for name, one in measured.items()}
    return variants_table(bundle, _FILES, "test accuracy", values, seconds)
