"""OpenAI's call for pictures, `POST /v1/images/generations`, for models that draw them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from service import pictures
from service.errors import BadInput
from service.protocols.drawings import draw, headers_of, parse, put_down
from service.protocols.openai_models import find
from service.protocols.requests import deadline_of, read_json
from service.repository.image_model import ImageModel
from service.repository.repository import Repository
from service.tasks.base import parse_parameters
from service.tasks.image_graphs import TEXT
from service.tasks.image_parameters import Seed
from service.tasks.image_requests import Drawings

_BODY = msgspec.json.Decoder(dict[str, Any])
_EXPECTED = 'JSON {"model": "...", "prompt": "...", ...}'

_MOST_PICTURES = 10
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_NAMES = {"inputs": "prompt", "label": "prompt", "width": "size", "height": "size"}
"""What the task calls a parameter, and what it is called here."""


def _is_size(size: str) -> str:
    if size != "auto" and not _SIZE.fullmatch(size):
        raise ValueError('Input should be "auto", or width and height in pixels, such as "28x28"')
    return size


class Parameters(BaseModel):
    """What a request may ask for besides model and prompt, in OpenAI's names; `seed` and `strict` are ours.

    Of what means nothing here, OpenAI's own defaults may be said. None stands for the default.

    Attributes:
        n: pictures.
        size: WIDTHxHEIGHT; "auto" = as the model draws them.
        output_format: of the files.
        response_format: pictures come in the answer, and are kept nowhere.
        seed: of the latents; None = one that nobody has used.
        strict: whether a prompt is refused that means nothing that can be drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(1, ge=1, le=_MOST_PICTURES)
    size: Annotated[str, AfterValidator(_is_size)] = "auto"
    output_format: Literal["png", "webp", "jpeg"] = "png"
    response_format: Literal["b64_json"] = "b64_json"
    seed: Seed | None = None
    strict: bool = True
    quality: Literal["auto", "standard"] = "auto"
    style: Literal["vivid"] = "vivid"
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    output_compression: Literal[100] = 100
    partial_images: Literal[0] = 0
    stream: Literal[False] = False
    user: str = ""
    safety_identifier: str = ""

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, given: object) -> object:
        if isinstance(given, Mapping):
            return {name: value for name, value in given.items() if value is not None}
        return given


_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "model": {"type": "string"},
                        "prompt": {"type": "string"},
                        **Parameters.model_json_schema()["properties"],
                    },
                }
            }
        },
    },
    "responses": {
        "200": {
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["created", "data", "output_format", "size"],
                        "properties": {
                            "created": {"type": "integer"},
                            "data": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["b64_json"],
                                    "properties": {"b64_json": {"type": "string", "contentEncoding": "base64"}},
                                },
                            },
                            "output_format": {"enum": list(pictures.FORMATS)},
                            "size": {"type": "string"},
                        },
                    }
                }
            }
        }
    },
}


def router(repository: Repository, *, max_body_bytes: int) -> APIRouter:
    """The routes of pictures."""
    routes = APIRouter()

    async def generations(request: Request) -> Response:
        """Draw one picture or several of what a prompt says."""
        deadline = deadline_of(request)
        content = await read_json(request, max_body_bytes, _BODY, _EXPECTED)
        name, prompt = content.pop("model", None), content.pop("prompt", None)
        served = find(repository, name, ImageModel)
        with served.measured(), _in_words_of_openai():
            asked = parse_parameters(Parameters, content)
            wanted = await parse(served, *_told(served, prompt, asked))
            drawings, done = await draw(request, served, wanted, deadline)
            body = await put_down(served, drawings, partial(_answer, asked.output_format))
            return Response(body, headers=headers_of(served, drawings, done), media_type="application/json")

    routes.add_api_route(
        "/images/generations", generations, methods=["POST"], response_model=None, openapi_extra=_OPENAPI
    )
    return routes


def _told(model: ImageModel, prompt: object, asked: Parameters) -> tuple[object, dict[str, object]]:
    """Say in the task's words what is asked for. A model that reads no texts is told a label."""
    if prompt is not None and not isinstance(prompt, str):
        raise BadInput("prompt must be a text", parameter="prompt")
    told: dict[str, object] = {"num_images": asked.n, "seed": asked.seed, "strict": asked.strict}
    if size := _SIZE.fullmatch(asked.size):
        told["width"], told["height"] = map(int, size.groups())
    if prompt and model.task.labels and TEXT not in model.task.graphs:
        return None, {**told, "label": prompt}
    return prompt, told


def _answer(format: str, drawings: Drawings) -> bytes:
    _, height, width, _ = drawings.pixels.shape
    return msgspec.json.encode(
        {
            "created": int(time.time()),
            "data": [{"b64_json": pictures.write(one, format)} for one in drawings.pixels],  # bytes become base64
            "output_format": format,
            "size": f"{width}x{height}",
        }
    )


@contextmanager
def _in_words_of_openai() -> Iterator[None]:
    """Have errors name the parameter that the caller knows."""
    try:
        yield
    except BadInput as error:
        error.parameter = _NAMES.get(error.parameter or "", error.parameter)
        raise
