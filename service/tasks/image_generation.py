"""Image generation: a text, a class or nothing in, pictures out that a generator draws from latents.

A picture is drawn from a latent and, where there are classes, a weight for each of them. A request says where both
come from, once or, for pictures between two others and for sums, several times.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from service.errors import BadInput, BundleRefused, RuntimeFailure, TooLarge
from service.latents import LARGEST_SEED, between, latents_of, total
from service.manifest import MANIFEST_FILE, Graph, ImagesPostprocessing, Manifest, NgramPreprocessing, Variant
from service.ngrams import ngram_ids
from service.pictures import Pixels, enlarged
from service.tasks.base import TaskLimits, check_names, parse_parameters
from service.tasks.graphs import by_name, expect
from service.tasks.labels import read_labels
from service.tensors import Arrays

MOST_IMAGES: Final = 64
"""Of a request."""
MOST_TERMS: Final = 8
"""Of a sum."""
LARGEST_NUMBER: Final = 10.0
"""Of a latent, either side of zero; none of a standard normal distribution is ever found so far out."""
FACTORS: Final = (1, 2, 4, 8, 16)
"""How many pixels wide and high a pixel of the generator's may be."""

TEXT, GENERATOR = "text", "generator"

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
_MANY_DIGITS = 10**15
_NAMES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a number of many digits",
    str: "a text",
    type(None): "null",
    dict: "an object",
    list: "a list",
}

Floats = NDArray[np.float32]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
_Numbers: dict[str, Any] = {
    "type": "array",
    "items": {"type": "number", "minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER},
}
Latent = Annotated[Any, WithJsonSchema(_Numbers)]
Latents = Annotated[Any, WithJsonSchema({"anyOf": [_Numbers, {"type": "array", "items": _Numbers}]})]


class _Said(BaseModel):
    """A part of a request; None stands for what is the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, given: object) -> object:
        if isinstance(given, Mapping):
            check_names(given)
            return {name: value for name, value in given.items() if value is not None}
        return given


class Point(_Said):
    """What a picture is drawn from; what is not said is the request's own.

    Attributes:
        inputs: a text that says what is drawn.
        label: a class that is drawn, in place of a text.
        seed: of the latent.
        latent: its numbers, in place of a seed.
    """

    inputs: str | None = None
    label: str | None = None
    seed: Seed | None = None
    latent: Latent = None


class Interpolation(_Said):
    """Pictures on the way from what the request says to another point.

    Attributes:
        to: where the way ends.
        steps: pictures, those of both ends among them.
    """

    to: Point
    steps: int = Field(ge=2, le=MOST_IMAGES)


class Term(Point):
    """A term of a sum of latents, and of classes; `weight` is how much it counts."""

    weight: float = Field(1.0, ge=-10, le=10)


def _few(terms: object) -> object:
    """Refuse a long list before any of it is looked at."""
    if isinstance(terms, list) and not 2 <= len(terms) <= MOST_TERMS:
        raise ValueError(f"a sum has 2 to {MOST_TERMS} terms, not {len(terms)}")
    return terms


class Parameters(_Said):
    """What a request may ask for.

    Attributes:
        label: a class that is drawn, in place of a text.
        seed: of the latents; None = one that nobody has used.
        num_images: that are drawn.
        latent: the numbers of one latent, or a list of several, in place of a seed.
        truncation: what latents are multiplied by. None = those of seeds as the manifest says, others by nothing.
        strict: whether a text is refused that means none of the classes; else it is taken for what comes nearest.
        interpolate: see `Interpolation`.
        arithmetic: terms that are added up.
        width: of a picture, one of those that are offered; None = what belongs to the height, or the smallest.
        height: likewise.
    """

    label: str | None = None
    seed: Seed | None = None
    num_images: int | None = Field(None, ge=1, le=MOST_IMAGES)
    latent: Latents = None
    truncation: float | None = Field(None, gt=0, le=1)
    strict: bool = True
    interpolate: Interpolation | None = None
    arithmetic: Annotated[tuple[Term, ...] | None, BeforeValidator(_few)] = Field(
        None, min_length=2, max_length=MOST_TERMS
    )
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Origin:
    """What pictures are drawn from, in a request that was checked.

    Attributes:
        what: the index of a class, or a text that is still to be read; None where there are no classes.
        seed: of the latents, if they have one.
        latents: their numbers, if they have none: one for all pictures, or one for each, (1 or pictures, numbers).
        scale: what they are multiplied by.
        weight: how much all of it counts.
    """

    what: int | str | None
    seed: int | None
    latents: Floats | None
    scale: float
    weight: float = 1.0


@dataclass(frozen=True)
class ImageRequest:
    """What every dialect asks for in its own words.

    Attributes:
        origins: one; two, where pictures on the way between them are drawn; or the terms of a sum.
        count: pictures.
        interpolated: whether they are on the way.
        strict: whether a text is refused that means none of the classes.
        factor: pixels for each of the generator's, each way.
        seed: what was asked for, or was drawn because nothing was said; None where no seed was needed.
    """

    origins: Sequence[Origin]
    count: int
    interpolated: bool
    strict: bool
    factor: int
    seed: int | None

    @cached_property
    def texts(self) -> Sequence[str]:
        """The texts that have to be read, each once."""
        return tuple(dict.fromkeys(one.what for one in self.origins if isinstance(one.what, str)))


@dataclass(frozen=True)
class Reading:
    """What was read of a text: the likeliest class, by its index, and how surely it means any, 0..1."""

    likeliest: int
    meant: float


@dataclass(frozen=True)
class Sketch:
    """What the pictures of a request are drawn from.

    Attributes:
        latents: (pictures, numbers).
        conditions: weights of the classes (pictures, classes), if there are any.
        scores: how surely the texts behind each picture mean a class, 0..1; a label does so by 1. None if there are no
            texts.
    """

    latents: Floats
    conditions: Floats | None
    scores: Floats | None


@dataclass(frozen=True)
class Drawings:
    """What became of a request.

    Attributes:
        pixels: pictures (N, height, width, channels), as large as was asked for.
        latents: what each was drawn from (N, numbers); given again, each is drawn again.
        conditions: weights of the classes for each (N, classes), if there are any.
        scores: see `Sketch`.
        seed: see `ImageRequest`.
    """

    pixels: Pixels
    latents: Floats
    conditions: Floats | None
    scores: Floats | None
    seed: int | None


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
        self.labels = () if drawing.labels is None else read_labels(folder, drawing.labels)
        self._numbers = {label.casefold(): number for number, label in enumerate(self.labels)}
        if len(self._numbers) < len(self.labels):
            raise BundleRefused(drawing.labels or "", "must be different texts, also without regard to case")
        kinds = {_check_graphs(variant, reading, drawing, len(self.labels)) for variant in manifest.variants.values()}
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
        text = _text_of(inputs)
        asked = parse_parameters(Parameters, parameters)
        _check_together(asked)
        own = None if asked.latent is None else self._latents(asked.latent, "latent", MOST_IMAGES)
        seed = secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed
        count = _count(asked, None if own is None else len(own))
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
                means = "a text, as inputs, or one of the labels" if self._reading else "a label"
                raise BadInput(f"nothing says what to draw; give {means}: {self._told()}", parameter="inputs")
            if point.latent is not None and point.seed is not None:
                raise BadInput(f"{place}latent and {place}seed say the same; give one", parameter=f"{place}latent")
            given = own if point.seed is None else None
            if point.latent is not None:
                given = self._latents(point.latent, f"{place}latent", 1)
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
        if text is not None and len(text) > (most := self._limits.max_text_characters):
            raise TooLarge(
                f"a text may have at most {most} characters (INFERD_MAX_TEXT_CHARACTERS); this one has {len(text)}",
                parameter=f"{place}inputs",
            )
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

    def _latents(self, given: object, place: str, most: int) -> Floats:
        """The numbers of a latent, or of `most` at most, that a request has at `place`: (latents, numbers)."""
        size = self.latent_size
        bound = f"{LARGEST_NUMBER:g}"
        wanted = f"{place} must be a list of {size} numbers from -{bound} to {bound}"
        if most > 1:
            wanted += f", or a list of 1 to {most} such lists"

        def refused(problem: str) -> BadInput:
            return BadInput(f"{wanted}; {problem}", parameter=place)

        if not isinstance(given, list):
            raise refused(f"it is {_shown(given)}")
        several = most > 1 and bool(given) and isinstance(given[0], list)
        if not several and any(isinstance(one, list) for one in given[:1]):
            raise refused("it is a list of lists")
        rows = given if several else [given]
        if len(rows) > most:
            raise refused(f"there are {len(rows)}")
        for number, row in enumerate(rows):
            which = f"list {number} " if several else "it "
            if not isinstance(row, list):
                raise refused(f"{which}is {_shown(row)}")
            if len(row) != size:
                raise refused(f"{which}has {len(row)}")
            for one in row:
                # bool is an int to Python, but no number in JSON; NaN is in no order.
                if type(one) not in (int, float) or not -LARGEST_NUMBER <= one <= LARGEST_NUMBER:
                    raise refused(f"{which}has {_shown(one)}")
        return np.array(rows, np.float32)

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
        wanted = "x".join("?" if side is None else _shown(side) for side in (asked.width, asked.height))
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


def _shown(given: object) -> str:
    """What a message says of something that is not what was wanted."""
    if isinstance(given, float) or (type(given) is int and abs(given) < _MANY_DIGITS):
        return f"{given:g}"
    return _NAMES.get(type(given), "something else")


def _text_of(inputs: object) -> str | None:
    if isinstance(inputs, bytes):
        try:
            return inputs.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"the text is no UTF-8 ({error})", parameter="inputs") from error
    if inputs is not None and not isinstance(inputs, str):
        raise BadInput("inputs must be a text", parameter="inputs")
    return inputs


def _check_together(asked: Parameters) -> None:
    """Refuse parameters that say the same or can't both be meant."""
    for one, other in (
        ("latent", "seed"),
        ("interpolate", "arithmetic"),
        ("interpolate", "num_images"),
    ):
        if getattr(asked, one) is not None and getattr(asked, other) is not None:
            raise BadInput(f"{one} and {other} can't be asked for together", parameter=one)


def _count(asked: Parameters, latents: int | None) -> int:
    """How many pictures are asked for, where so many latents are given."""
    if asked.interpolate:
        if latents is not None and latents > 1:
            raise BadInput(f"a way begins at one latent, not at {latents}", parameter="latent")
        return asked.interpolate.steps
    if asked.num_images is None:
        return latents or 1
    if latents is not None and latents not in (1, asked.num_images):
        raise BadInput(
            f"num_images must be as many as there are latents, {latents}, or be left out; it is {asked.num_images}",
            parameter="num_images",
        )
    return asked.num_images


def _check_graphs(
    variant: Variant, reading: NgramPreprocessing | None, drawing: ImagesPostprocessing, classes: int
) -> tuple[int, int, int, int]:
    """Refuse graphs that don't go together; return the numbers of a latent, and height, width and channels."""
    if GENERATOR not in variant.graphs or (TEXT in variant.graphs) != (reading is not None):
        wanted = f"the graph {GENERATOR!r}" if reading is None else f"the graphs {TEXT!r} and {GENERATOR!r}"
        raise BundleRefused(MANIFEST_FILE, f"images are drawn by {wanted}, not by {sorted(variant.graphs)}")
    generator = variant.graphs[GENERATOR]
    given = by_name(generator.inputs)
    wanted_inputs = [drawing.latent] if drawing.condition is None else [drawing.latent, drawing.condition]
    _named(generator, "inputs", sorted(given), wanted_inputs)
    _named(generator, "outputs", [one.name for one in generator.outputs], [drawing.output])
    (image,) = generator.outputs
    sizes = image.shape or ()
    if drawing.condition is not None:
        expect(generator, given[drawing.condition], "FP32", ("batch", classes))
    if reading is not None:
        _check_text_graph(variant.graphs[TEXT], reading, classes)
    latent = (given[drawing.latent].shape or ())[-1:]
    expect(generator, given[drawing.latent], "FP32", ("batch", *latent))
    whole = [size for size in (*latent, *sizes[1:]) if isinstance(size, int)]
    if image.datatype != "UINT8" or len(whole) != 4 or len(sizes) != 4 or whole[3] not in (1, 3):
        raise BundleRefused(
            MANIFEST_FILE,
            f"{generator.file}: {image.name!r} must be UINT8 of batch, height, width, and 1 or 3 channels, and "
            f"{drawing.latent!r} FP32 of batch and numbers, all but the batch of one size",
        )
    numbers, height, width, channels = whole
    return numbers, height, width, channels


def _check_text_graph(graph: Graph, reading: NgramPreprocessing, classes: int) -> None:
    given, answered = by_name(graph.inputs), by_name(graph.outputs)
    _named(graph, "inputs", sorted(given), [reading.input])
    _named(graph, "outputs", sorted(answered), [reading.conditions, reading.meant])
    expect(graph, given[reading.input], "INT64", ("batch", None))
    expect(graph, answered[reading.conditions], "FP32", ("batch", classes))
    expect(graph, answered[reading.meant], "FP32", ("batch",))


def _named(graph: Graph, kind: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    if sorted(found) != sorted(wanted):
        raise BundleRefused(MANIFEST_FILE, f"{graph.file} must have the {kind} {sorted(wanted)}, not {sorted(found)}")
