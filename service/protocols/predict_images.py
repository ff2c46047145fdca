"""The task dialect for pictures: one as it is, as Hugging Face's text-to-image has it; several in JSON, or as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from service import pictures
from service.errors import BadInput
from service.protocols.accept import preferred
from service.protocols.drawings import draw, headers_of, parse, put_down
from service.protocols.predict_text import Asked
from service.repository.image_model import ImageModel
from service.tasks import image_parameters
from service.tasks.base import parse_parameters
from service.tasks.image_generation import ImageGeneration
from service.tasks.image_parameters import MOST_IMAGES
from service.tasks.image_requests import Drawings

_JSON = "application/json"
_NUMBER = re.compile("[0-9]{1,9}")
_PICTURES = {media_type: format for format, media_type in pictures.FORMATS.items()}


class AskedPictures(Asked):
    """A request of this dialect; parameters alone may say what to draw."""

    inputs: Any = None


def _columns(given: object) -> object:
    """Whether there is a grid, or its columns; a query has texts alone."""
    if isinstance(given, str):
        given = {"true": True, "false": False}.get(given.lower(), int(given) if _NUMBER.fullmatch(given) else given)
    if isinstance(given, bool) or (isinstance(given, int) and 1 <= given <= MOST_IMAGES):
        return given
    raise ValueError(f"Input should be true, false, or a number of columns from 1 to {MOST_IMAGES}")


_COLUMNS = {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": MOST_IMAGES}]}


class Parameters(image_parameters.Parameters):
    """What a request may ask for: what the task draws, and what the answer is.

    Attributes:
        format: of the files; None = what the client's Accept likes best, else PNG.
        grid: whether all pictures come as one, or in how many columns they do.
    """

    format: Literal["png", "webp", "jpeg"] | None = None
    grid: Annotated[bool | int, BeforeValidator(_columns), WithJsonSchema(_COLUMNS)] = False


async def answer(request: Request, model: ImageModel, asked: Asked, deadline: float | None) -> Response:
    """Draw one picture or several.

    Args:
        request: its body was read.
        model: what draws.
        asked: what the body held.
        deadline: on the clock of `time.monotonic`.

    Raises:
        InferdError: as the task and the model raise.
    """
    if asked.stream:
        raise BadInput("stream: a picture comes as a whole")
    given = asked.parameters or {}
    how = parse_parameters(Parameters, given)
    wanted = await parse(
        model, asked.inputs, {name: value for name, value in given.items() if name not in ("format", "grid")}
    )
    kind, format = _kind_of(", ".join(request.headers.getlist("accept")), how, wanted.count)
    drawings, done = await draw(request, model, wanted, deadline)
    write = partial(_entries, model.task, format) if kind == _JSON else partial(_picture, format, how.grid)
    return Response(await put_down(model, drawings, write), headers=headers_of(model, drawings, done), media_type=kind)


def describe() -> dict[str, object]:
    """What a request may ask for, in place of what the task says of it."""
    schema = Parameters.model_json_schema()
    return {"parameters": schema["properties"], "$defs": schema["$defs"]}


def _kind_of(accept: str, how: Parameters, count: int) -> tuple[str, str]:
    """The media type of an answer, and the format of its pictures.

    Raises:
        BadInput: the client can't read what it asks for.
    """
    offered = [*_PICTURES, _JSON]
    readable = preferred(accept, offered)
    told = f"Accept is {accept!r:.80}"
    if not readable:
        raise BadInput(f"{told}; what can be had: {', '.join(offered)}")
    named = next((_PICTURES[one] for one in readable if one in _PICTURES), "png")
    format = how.format or named
    if how.grid is not False:
        if readable == [_JSON]:
            raise BadInput(f"grid is a picture, and {told}: without grid, pictures come in JSON", parameter="grid")
        return pictures.FORMATS[format], format
    if count > 1:
        if _JSON not in readable:
            raise BadInput(
                f"{count} pictures come in JSON, and {told}: accept {_JSON}, or ask for a grid", parameter="num_images"
            )
        return _JSON, format
    return (_JSON if readable[0] == _JSON else pictures.FORMATS[format]), format


def _picture(format: str, grid: bool | int, drawings: Drawings) -> bytes:
    """A file: of the only picture, or of all of them in a grid."""
    pixels = drawings.pixels
    if grid is False:
        return pictures.write(pixels[0], format)
    return pictures.write(pictures.grid(pixels, None if grid is True else grid), format)


def _entries(task: ImageGeneration, format: str, drawings: Drawings) -> bytes:
    """The pictures in JSON, each with all that draws it again."""
    return msgspec.json.encode([_entry(task, format, drawings, number) for number in range(len(drawings.pixels))])


def _entry(task: ImageGeneration, format: str, drawings: Drawings, number: int) -> dict[str, object]:
    entry: dict[str, object] = {
        "image": pictures.write(drawings.pixels[number], format),  # in JSON, bytes are base64
        "content_type": pictures.FORMATS[format],
        "latent": drawings.latents[number].tolist(),
    }
    if drawings.seed is not None:
        entry["seed"] = drawings.seed
    if drawings.conditions is not None:
        weights = drawings.conditions[number]
        if (label := task.class_of(weights)) is not None:
            entry["label"] = label
        entry["conditions"] = _weights(task.labels, weights.tolist())
    if drawings.scores is not None:
        entry["score"] = float(drawings.scores[number])
    return entry


def _weights(labels: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    """The classes that count, and how much."""
    return {label: weight for label, weight in zip(labels, weights, strict=True) if weight}
