"""Image generation: a text, a class or nothing in, pictures out that a generator draws from latents.

A picture is drawn from a latent and, where there are classes, a weight for each of them. A request says where both
come from, once or, for pictures between two others and for sums, several times.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import BadInput, BundleRefused, RuntimeFailure, TooLarge
from service.latents import Floats, between, latents_of, total
from service.manifest import MANIFEST_FILE, ImagesPostprocessing, Manifest, NgramPreprocessing
from service.ngrams import ngram_ids
from service.pictures import enlarged
from service.tasks.base import TaskLimits, parse_parameters
from service.tasks.image_graphs import GENERATOR, TEXT, check_graphs
from service.tasks.image_parameters import (
    LARGEST_NUMBER,
    MOST_IMAGES,
    Parameters,
    Point,
    Term,
    check_together,
    count_of,
    read_latents,
    shown,
    text_of,
)
from service.tasks.image_requests import Drawings, ImageRequest, Origin, Reading, Sketch
from service.tasks.labels import read_labels
from service.tensors import Arrays

FACTORS: Final = (1, 2, 4, 8, 16)
"""How many pixels wide and high a pixel of the generator's may be."""

_INLINE_CHARACTERS = 500
"""Texts of so many together are made n-grams of in a third of a millisecond."""
_INLINE_LATENTS = MOST_IMAGES
"""So many are drawn at random, or summed up, in two thirds of a millisecond."""
_INLINE_BYTES = 256 * 1024
"""Of enlarged pictures, likewise."""
_SEED_BITS = 53
"""Of seeds that we make: such numbers survive in every client's JSON."""
_MOST_TOLD = 100
"""Labels that an error lists."""


class ImageGeneration:
    """The task of one model.

    Args:
        folder: the bundle's folder.
        manifest: its manifest.
        limits: of a request.

    Attributes:
        graphs: roles of its graphs; one reads texts only where there is one.
        labels: what its classes are called; none where there are none.
        sizes: widths and heights that are offered, the smallest first.
        latent_size: numbers of a latent.

    Raises:
        BundleRefused: the manifest does not say how to draw, or its graphs or its labels don't go together.
    """

    slots_a_row = 1

    def __init__(self, folder: Path, manifest: Manifest, limits: TaskLimits) -> None:
        reading, drawing = manifest.preprocessing, manifest.postprocessing
        if not isinstance(drawing, ImagesPostprocessing):
            raise BundleRefused(MANIFEST_FILE, f"task {manifest.task!r} needs a postprocessing of images")
        if reading is not None and not isinstance(reading, NgramPreprocessing):
            raise BundleRefused(MANIFEST_FILE, f"task {manifest.task!r} reads texts as n-grams, or none")
        if reading is not None and drawing.condition is None:
            raise BundleRefused(MANIFEST_FILE, "what is read in a text is a class, and there are no classes")
        self.graphs: tuple[str, ...] = (GENERATOR,) if reading is None else (TEXT, GENERATOR)
        named = drawing.labels
        self.labels = () if named is None else read_labels(folder, named, manifest.files[named])
        self._numbers = {label.casefold(): number for number, label in enumerate(self.labels)}
        if len(self._numbers) < len(self.labels):
            raise BundleRefused(drawing.labels or "", "must be different texts, also without regard to case")
        kinds = {check_graphs(variant, reading, drawing, len(self.labels)) for variant in manifest.variants.values()}
        if len(kinds) > 1:
            raise BundleRefused(MANIFEST_FILE, "variants must take the same latents, and draw images of the same size")
        ((self.latent_size, height, width, self._channels),) = kinds
        self.sizes = tuple((width * factor, height * factor) for factor in FACTORS)
        self._reading, self._drawing = reading, drawing
        self._limits = limits

    def parse(self, inputs: object, parameters: Mapping[str, object]) -> ImageRequest:
        """Check a request; its texts are not read yet, so what they mean is not known.

        Args:
            inputs: a text that says what is drawn; None or an empty one says nothing.
            parameters: see `Parameters`.

        Raises:
            BadInput: either is wrong, or (as TooLarge) there is too much.
        """
        text = text_of(inputs)
        asked = parse_parameters(Parameters, parameters)
        check_together(asked)
        size, own = self.latent_size, None
        if asked.latent is not None:
            own = read_latents(asked.latent, "latent", size=size, most=MOST_IMAGES)
        seed = secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed
        count = count_of(asked, None if own is None else len(own))
        factor = self._factor(asked, count)

        points: Sequence[tuple[str, Point]] = [("", Point())]
        if asked.interpolate:
            points = [*points, ("interpolate.to.", asked.interpolate.to)]
        elif asked.arithmetic:
            points = [(f"arithmetic.{number}.", term) for number, term in enumerate(asked.arithmetic)]
        usually = self._what(text, asked.label, "")
        origins = []
        for place, point in points:
            what = self._what(point.inputs, point.label, place)
            what = usually if what is None else what
            if what is None and self.labels:
                means = "a text or one of the labels" if self._reading else "a label"
                raise BadInput(f"nothing says what to draw; give {means}: {self._told()}", parameter="inputs")
            if point.latent is not None and point.seed is not None:
                raise BadInput(f"{place}latent and {place}seed say the same; give one", parameter=f"{place}latent")
            given = own if point.seed is None else None
            if point.latent is not None:
                given = read_latents(point.latent, f"{place}latent", size=size, most=1)
            drawn = self._drawing.truncation if asked.truncation is None else asked.truncation
            origins.append(
                Origin(
                    what=what,
                    seed=None if given is not None else seed if point.seed is None else point.seed,
                    latents=given,
                    scale=drawn if given is None else asked.truncation or 1.0,
                    weight=point.weight if isinstance(point, Term) else 1.0,
                )
            )
        needed = asked.seed is not None or any(one.seed == seed for one in origins)
        return ImageRequest(
            origins=origins,
            count=count,
            interpolated=asked.interpolate is not None,
            strict=asked.strict,
            factor=factor,
            seed=seed if needed else None,
        )

    def is_heavy(self, request: ImageRequest) -> bool:
        """Whether `encode` and `sketch` may take over a millisecond, and so belong in a thread."""
        count = 1 if request.interpolated else request.count
        made = count * sum(one.seed is not None for one in request.origins)
        summed = request.count * (len(request.origins) > 2)
        return made + summed > _INLINE_LATENTS or sum(map(len, request.texts)) > _INLINE_CHARACTERS

    def encode(self, text: str) -> Arrays:
        """Make the text encoder's input of a text: numbers of n-grams (1, length)."""
        how = self._reading
        assert how is not None  # noqa: S101 - else `parse` has taken no texts
        numbers = ngram_ids(text, buckets=how.buckets, shortest=how.shortest, longest=how.longest, most=how.most)
        return {how.input: np.array([numbers], np.int64)}

    def read(self, outputs: Arrays) -> Reading:
        """What the text encoder answered to one text.

        Raises:
            RuntimeFailure: it answered with no numbers.
        """
        how = self._reading
        assert how is not None  # noqa: S101 - as above
        weights, meant = outputs[how.conditions][0], float(outputs[how.meant][0])
        if not (np.isfinite(weights).all() and np.isfinite(meant)):
            raise RuntimeFailure("the model answered with numbers that are not finite")
        return Reading(int(weights.argmax()), meant)

    def sketch(self, request: ImageRequest, readings: Mapping[str, Reading]) -> Sketch:
        """Say what the pictures of a request are drawn from.

        Args:
            request: checked by `parse`.
            readings: of each of its texts.

        Raises:
            BadInput: a text means none of the classes, and must.
        """
        for text, reading in readings.items():
            self._check_meaning(text, reading, strict=request.strict)
        latents = [self._latents_of(one, 1 if request.interpolated else request.count) for one in request.origins]
        weights = [one.weight for one in request.origins]
        classes = [_class_of(one, readings) for one in request.origins]
        known = [one for one in classes if one is not None]
        corners = _one_hot(known, len(self.labels)) if self.labels else None
        sure = [readings[one.what].meant if isinstance(one.what, str) else 1.0 for one in request.origins]
        if request.interpolated:
            drawn = between(latents[0][0], latents[1][0], request.count)
            shares = np.linspace(0.0, 1.0, request.count)[:, None]
            conditions = None if corners is None else (1 - shares) * corners[0] + shares * corners[1]
            scores = np.full(request.count, min(sure))
            scores[0], scores[-1] = sure
        else:
            drawn = latents[0]
            if len(latents) > 1:
                drawn = np.stack([total(np.stack(several), weights) for several in zip(*latents, strict=True)])
            # Summed once: the same numbers for every picture, however many there are.
            conditions = None if corners is None else (np.array(weights) @ corners)[None].repeat(request.count, 0)
            scores = np.full(request.count, min(sure))
        return Sketch(
            latents=np.clip(drawn, -LARGEST_NUMBER, LARGEST_NUMBER),
            conditions=None if conditions is None else conditions.astype(np.float32),
            scores=scores.astype(np.float32) if readings else None,
        )

    def inputs(self, sketch: Sketch) -> Arrays:
        """The generator's inputs, a row for each picture."""
        arrays = {self._drawing.latent: sketch.latents}
        if self._drawing.condition is not None and sketch.conditions is not None:
            arrays[self._drawing.condition] = sketch.conditions
        return arrays

    def is_large(self, request: ImageRequest) -> bool:
        """Whether `finish` may take over a millisecond, and so belongs in a thread."""
        width, height = self._size(request.factor)
        return request.factor > 1 and request.count * width * height * self._channels > _INLINE_BYTES

    def finish(self, request: ImageRequest, sketch: Sketch, outputs: Arrays) -> Drawings:
        """Make the answer from the generator's outputs for this request."""
        pixels = enlarged(outputs[self._drawing.output], request.factor)
        return Drawings(pixels, sketch.latents, sketch.conditions, sketch.scores, request.seed)

    def class_of(self, conditions: Floats) -> str | None:
        """The label of the class that is drawn by these weights (classes,), if they are of one class alone."""
        best = int(conditions.argmax())
        alone = conditions[best] == 1 and np.count_nonzero(conditions) == 1
        return self.labels[best] if alone else None

    def describe(self) -> dict[str, object]:
        """What the model takes and draws."""
        schema = Parameters.model_json_schema()
        return {
            "input": {
                "reads_texts": self._reading is not None,
                "max_text_characters": self._limits.max_text_characters,
                "threshold": self._reading.threshold if self._reading else None,
            },
            "parameters": schema["properties"],
            "$defs": schema["$defs"],
            "labels": list(self.labels),
            "latent": {"size": self.latent_size, "largest": LARGEST_NUMBER, "truncation": self._drawing.truncation},
            "sizes": [f"{width}x{height}" for width, height in self.sizes],
            "channels": self._channels,
            "max_images": MOST_IMAGES,
        }

    def _what(self, text: str | None, label: str | None, place: str) -> int | str | None:
        """What a text or a label says, if either says anything; `place` is where they stand in the request."""
        for name, said in (("inputs", text), ("label", label)):
            if said and len(said) > (most := self._limits.max_text_characters):
                raise TooLarge(
                    f"a text may have at most {most} characters (INFERD_MAX_TEXT_CHARACTERS); this one has {len(said)}",
                    parameter=f"{place}{name}",
                )
        text = text if text and not text.isspace() else None
        if text is None and label is None:
            return None
        if not self.labels:
            name = "label" if text is None else "inputs"
            raise BadInput(
                "this model draws whatever comes: it knows no classes, and reads no texts", parameter=f"{place}{name}"
            )
        if text is not None and label is not None:
            raise BadInput(f"{place}inputs and {place}label say the same; give one", parameter=f"{place}label")
        if label is not None:
            number = self._numbers.get(label.casefold())
            if number is None:
                raise BadInput(f"there is no label {label[:60]!r}; labels: {self._told()}", parameter=f"{place}label")
            return number
        if self._reading is None:
            raise BadInput(f"this model reads no texts; give a label: {self._told()}", parameter=f"{place}inputs")
        return text

    def _told(self) -> str:
        """The labels, as many as a message has room for."""
        more = len(self.labels) - _MOST_TOLD
        return ", ".join(self.labels[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")

    def _check_meaning(self, text: str, reading: Reading, *, strict: bool) -> None:
        assert self._reading is not None  # noqa: S101 - as above
        threshold = self._reading.threshold
        if strict and reading.meant < threshold:
            raise BadInput(
                f"the text {text[:60]!r} means nothing that can be drawn (by {reading.meant:.2f}, and {threshold:.2f} "
                f"is needed; strict = false draws what comes nearest); what can be drawn: {self._told()}",
                parameter="inputs",
            )

    def _factor(self, asked: Parameters, count: int) -> int:
        """How far pictures are enlarged."""
        for factor, (width, height) in zip(FACTORS, self.sizes, strict=True):
            if asked.width in (None, width) and asked.height in (None, height):
                if (pixels := count * width * height) > self._limits.max_pixels:
                    raise TooLarge(
                        f"{count} pictures of {width}x{height} have {pixels} pixels; the limit of a request is "
                        f"{self._limits.max_pixels} (INFERD_MAX_PIXELS)"
                    )
                return factor
        offered = ", ".join(f"{width}x{height}" for width, height in self.sizes)
        wanted = "x".join("?" if side is None else shown(side) for side in (asked.width, asked.height))
        raise BadInput(
            f"pictures of {wanted} are not offered; sizes, as width x height: {offered}",
            parameter="width" if asked.width is not None else "height",
        )

    def _size(self, factor: int) -> tuple[int, int]:
        return self.sizes[FACTORS.index(factor)]

    def _latents_of(self, origin: Origin, count: int) -> Floats:
        if origin.latents is not None:
            latents = np.broadcast_to(origin.latents, (count, self.latent_size))
        else:
            assert origin.seed is not None  # noqa: S101 - it has either
            latents = latents_of(origin.seed, count, self.latent_size)
        return latents * np.float32(origin.scale)


def _class_of(origin: Origin, readings: Mapping[str, Reading]) -> int | None:
    return readings[origin.what].likeliest if isinstance(origin.what, str) else origin.what


def _one_hot(numbers: Sequence[int], classes: int) -> NDArray[np.float64]:
    rows = np.zeros((len(numbers), classes))
    rows[np.arange(len(numbers)), numbers] = 1.0
    return rows
