"""What a request for pictures may say, and what goes together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from service.errors import BadInput
from service.latents import LARGEST_SEED, Floats
from service.tasks.base import check_names

MOST_IMAGES: Final = 64
"""Of a request."""
MOST_TERMS: Final = 8
"""Of a sum."""
LARGEST_NUMBER: Final = 10.0
"""Of a latent, either side of zero; none of a standard normal distribution is ever found so far out."""

_MANY_DIGITS = 10**15
_NAMES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a number of many digits",
    str: "a text",
    type(None): "null",
    dict: "an object",
    list: "a list",
}

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


def text_of(inputs: object) -> str | None:
    """The text of a request's input, or of its body.

    Raises:
        BadInput: it is something else.
    """
    if isinstance(inputs, bytes):
        try:
            return inputs.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"the text is no UTF-8 ({error})", parameter="inputs") from error
    if inputs is not None and not isinstance(inputs, str):
        raise BadInput("inputs must be a text", parameter="inputs")
    return inputs


def check_together(asked: Parameters) -> None:
    """Refuse parameters that say the same or can't both be meant.

    Raises:
        BadInput: there are two such.
    """
    for one, other in (
        ("latent", "seed"),
        ("interpolate", "arithmetic"),
        ("interpolate", "num_images"),
    ):
        if getattr(asked, one) is not None and getattr(asked, other) is not None:
            raise BadInput(f"{one} and {other} can't be asked for together", parameter=one)


def count_of(asked: Parameters, latents: int | None) -> int:
    """How many pictures are asked for, where so many latents are given.

    Raises:
        BadInput: there are too many latents, or not as many as pictures.
    """
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


def read_latents(given: object, place: str, *, size: int, most: int) -> Floats:
    """The numbers of a latent, or of several, that a request has at `place`: (latents, size).

    Args:
        given: as it came.
        place: what it is called there.
        size: numbers of a latent.
        most: latents that there may be.

    Raises:
        BadInput: it is no such list, too long or too short, or a number is none or out of bounds.
    """
    bound = f"{LARGEST_NUMBER:g}"
    wanted = f"{place} must be a list of {size} numbers from -{bound} to {bound}"
    if most > 1:
        wanted += f", or a list of 1 to {most} such lists"

    def refused(problem: str) -> BadInput:
        return BadInput(f"{wanted}; {problem}", parameter=place)

    if not isinstance(given, list):
        raise refused(f"it is {shown(given)}")
    several = most > 1 and bool(given) and isinstance(given[0], list)
    if not several and any(isinstance(one, list) for one in given[:1]):
        raise refused("it is a list of lists")
    rows = given if several else [given]
    if len(rows) > most:
        raise refused(f"there are {len(rows)}")
    for number, row in enumerate(rows):
        which = f"list {number} " if several else "it "
        if not isinstance(row, list):
            raise refused(f"{which}is {shown(row)}")
        if len(row) != size:
            raise refused(f"{which}has {len(row)}")
        for one in row:
            # bool is an int to Python, but no number in JSON; NaN is in no order.
            if type(one) not in (int, float) or not -LARGEST_NUMBER <= one <= LARGEST_NUMBER:
                raise refused(f"{which}has {shown(one)}")
    return np.array(rows, np.float32)


def shown(given: object) -> str:
    """What a message says of something that is not what was wanted."""
    if isinstance(given, float) or (type(given) is int and abs(given) < _MANY_DIGITS):
        return f"{given:g}"
    return _NAMES.get(type(given), "something else")
