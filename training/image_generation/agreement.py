"""How often a classifier that ships sees in an image what its prompt named: anybody can measure it again, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from service.images import decode, open_picture
from service.manifest import ClassificationPostprocessing, ImagePreprocessing, read_manifest
from training.core.export import open_session
from training.image_generation.engine import Floats, GraphEngine, Pixels

_AT_ONCE = 64


@dataclass(frozen=True)
class Agreement:
    """What a classifier said.

    Attributes:
        n: images.
        share: of them of which it said the class that their prompt named, 0..1.
        by_class: the same of each class.
    """

    n: int
    share: float
    by_class: dict[str, float]


class ShippedClassifier:
    """A bundle of image classification, run as the server runs its default variant.

    Args:
        folder: of the model; its newest version is taken.
        labels: the classes that it must know.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no classifier of images, or knows other classes.
        BundleRefused: it breaks the contract.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        versions = sorted((int(one.name), one) for one in folder.glob("[0-9]*") if one.name.isdecimal())
        if not versions:
            raise FileNotFoundError(f"{folder} holds no model: export it first, or set export.classifier to nothing")
        _, bundle = versions[-1]
        manifest = read_manifest(bundle)
        how, answer = manifest.preprocessing, manifest.postprocessing
        if not isinstance(how, ImagePreprocessing) or not isinstance(answer, ClassificationPostprocessing):
            raise ValueError(f"{bundle} is no classifier of images")
        (graph,) = manifest.default.graphs.values()
        self.name = f"{folder.name}/{bundle.name}"
        self.labels: list[str] = json.loads((bundle / answer.labels).read_bytes())
        if set(self.labels) != set(labels):
            raise ValueError(f"{self.name} tells {self.labels} apart, and what is drawn is {list(labels)}")
        self._how, self._output = how, answer.output
        self._session = open_session(bundle / graph.file)

    def __call__(self, pixels: Pixels) -> list[str]:
        """The likeliest class of each image (N, height, width, channels), by way of a PNG."""
        found: list[str] = []
        for some in np.split(pixels, range(_AT_ONCE, len(pixels), _AT_ONCE)):
            rows = np.concatenate([self._read(image) for image in some])
            (scores,) = self._session.run([self._output], {self._how.input: rows})
            found += [self.labels[number] for number in scores.argmax(1)]
        return found

    def _read(self, image: Pixels) -> Floats:
        buffer = BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
        return decode(open_picture(buffer.getvalue(), max_pixels=image.size), self._how)


def measure_agreement(
    engine: GraphEngine,
    classifier: ShippedClassifier,
    *,
    seeds: int,
    caption: str,
    threshold: float,
    truncation: float,
) -> Agreement:
    """Draw the first image of each seed from 0 to `seeds` - 1, and have it classified.

    Args:
        engine: that draws; it has classes.
        classifier: that looks.
        seeds: how many.
        caption: the prompt, with `{label}` where the name goes of the class `seed % classes`. Where no texts are read,
            the class is asked for by its name.
        threshold: a prompt that means a class less surely is refused, and its images agree with nothing.
        truncation: factor of latents.

    """
    asked = [engine.labels[seed % engine.classes] for seed in range(seeds)]
    conditions, understood = _conditions(engine, caption, threshold)
    pixels = np.concatenate(
        [
            engine.paint(
                np.stack([engine.of_seed(seed, truncation) for seed in some]),
                np.stack([conditions[asked[seed]] for seed in some]),
            )
            for some in (range(begin, min(begin + _AT_ONCE, seeds)) for begin in range(0, seeds, _AT_ONCE))
        ]
    )
    return agreement_of(classifier(pixels), [label if understood[label] else None for label in asked], asked)


def agreement_of(found: Sequence[str], drawn: Sequence[str | None], asked: Sequence[str]) -> Agreement:
    """How often a classifier has `found` what was drawn, None where nothing was, of the classes `asked` for."""
    agreed = [one == other for one, other in zip(found, drawn, strict=True)]
    by_class: dict[str, list[bool]] = {}
    for label, agrees in zip(asked, agreed, strict=True):
        by_class.setdefault(label, []).append(agrees)
    return Agreement(
        n=len(agreed),
        share=sum(agreed) / len(agreed),
        by_class={label: sum(several) / len(several) for label, several in by_class.items()},
    )


def _conditions(engine: GraphEngine, caption: str, threshold: float) -> tuple[dict[str, Floats], dict[str, bool]]:
    """What each class's prompt is drawn from, by the class, and whether the prompt is accepted."""
    if not engine.reads:
        return {label: engine.condition(label) for label in engine.labels}, dict.fromkeys(engine.labels, True)
    found = engine.read([caption.replace("{label}", label) for label in engine.labels])
    nearest = [engine.condition(engine.labels[int(number)]) for number in found.conditions.argmax(1)]
    accepted = [bool(meant >= threshold) for meant in found.meant]
    return dict(zip(engine.labels, nearest, strict=True)), dict(zip(engine.labels, accepted, strict=True))
