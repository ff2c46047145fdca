"""What becomes of a request for pictures: what they are drawn from, as it gets known, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from service.latents import Floats
from service.pictures import Pixels


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
