"""OpenAI's dialect: its completions, for models that generate text.

`openai_answers` writes what goes back; `openai_images` is the call for pictures, and `openai_models` tells of models.
The chat calls are not here: a model that only continues texts has no turns.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadInput
from service.observability import request_id
from service.protocols import openai_images, openai_models
from service.protocols.errors import openai_body
from service.protocols.openai_answers import Completion, chunks, completion
from service.protocols.openai_models import find
from service.protocols.requests import (
    TEXTS,
    answer_headers,
    deadline_of,
    json_response,
    model_headers,
    parse_json,
    read_body,
    while_connected,
)
from service.protocols.streams import EventStream, event
from service.repository.repository import Repository
from service.repository.text_model import TextModel, answer_of
from service.tasks.base import parse_parameters
from service.tasks.text_generation import MOST_BEST_OF, SamplingParameters, TextGeneration, TextRequest, seed_or_new

_BODY = msgspec.json.Decoder(dict[str, Any])
_EXPECTED = 'JSON {"model": "...", "prompt": "...", ...}'

_MOST_CHOICES = 128
_MOST_LOGPROBS = 5
_MOST_STOPS = 4


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: bool = False


class Parameters(SamplingParameters):
    """What a completion may ask for besides model and prompt, in OpenAI's names.

    `top_k` and `repetition_penalty` are ours.

    Attributes:
        max_tokens: that are generated at most; 0 for the prompt's own scores, with `echo` and `logprobs`.
        n: choices for each prompt.
        best_of: that are made for each prompt; the `n` that the model held likeliest come back.
        logprobs: so many of the likeliest tokens in each place, and the score of the one that is there.
        echo: whether each choice begins with its prompt.
        stream: whether the answer comes in events.
        user: means nothing here.
    """

    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(16, ge=0)
    n: int = Field(1, ge=1, le=_MOST_CHOICES)
    best_of: int | None = Field(None, ge=1, le=MOST_BEST_OF)
    logprobs: int | None = Field(None, ge=0, le=_MOST_LOGPROBS)
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str = ""


_UNSUPPORTED = ("suffix", "logit_bias")
"""What OpenAI has and a request may have only where it means nothing."""

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
                        "prompt": {
                            "anyOf": [
                                {"type": "string"},
                                {"type": "array", "items": {"type": "string"}},
                                {"type": "array", "items": {"type": "integer"}},
                                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
                            ]
                        },
                        **{
                            name: described
                            for name, described in Parameters.model_json_schema()["properties"].items()
                            if name != "stream_options"
                        },
                        "stream_options": StreamOptions.model_json_schema(),
                    },
                }
            }
        },
    }
}


def router(repository: Repository, *, max_body_bytes: int) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    async def completions(request: Request) -> Response:
        """Continue one prompt or several, each in one way or several; as a whole or in events."""
        deadline = deadline_of(request)
        body = await read_body(request, max_body_bytes, TEXTS)
        content = parse_json(_BODY, body, _EXPECTED, bounds=None)
        name, prompt = content.pop("model", None), content.pop("prompt", None)
        served = find(repository, name, TextModel)
        with ExitStack() as measured:
            measured.enter_context(served.measured())
            parse = partial(_parse, served.task, prompt, content)
            wanted, asked = await served.offload(parse) if served.is_large(body) else parse()
            written = Completion(
                id=f"cmpl-{request_id.get()}",
                created=int(time.time()),
                model=served.name,
                pieces=served.task.characters.pieces,
                echo=asked.echo,
                logprobs=asked.logprobs,
                include_usage=asked.stream_options.include_usage,
            )
            generation = served.generate(wanted, deadline=deadline, streamed=asked.stream)
            if asked.stream:
                return EventStream(
                    chunks(served, generation, written),
                    measured=measured.pop_all(),
                    failure=lambda error: event(openai_body(error)),
                    headers=model_headers(served),
                )
            answer = await while_connected(request, generation.answer())
            timings = served.count(generation)
            return json_response(
                completion(generation, written, answer), answer_headers(served, answer_of(timings, {}))
            )

    routes.add_api_route("/completions", completions, methods=["POST"], response_model=None, openapi_extra=_OPENAPI)
    routes.include_router(openai_images.router(repository, max_body_bytes=max_body_bytes))
    routes.include_router(openai_models.router(repository))
    return routes


def _parse(task: TextGeneration, prompt: object, given: dict[str, Any]) -> tuple[TextRequest, Parameters]:
    """Check what a completion asks for.

    Raises:
        BadInput: it can't be had; its `parameter` says what can't.
    """
    for name in _UNSUPPORTED:
        if given.pop(name, None):
            raise BadInput(f"{name} is not supported by this model", parameter=name)
    asked = parse_parameters(Parameters, given)
    best_of = _check(asked)
    request = TextRequest(
        prompts=_prompts(task, prompt),
        sampling=asked.sampling(),
        max_tokens=task.length(asked, "max_tokens"),
        seed=seed_or_new(asked.seed),
        stops=asked.stop,
        choices=asked.n,
        best_of=best_of,
        top_scores=asked.logprobs,
        scores_prompt=asked.echo and asked.logprobs is not None,
    )
    return request, asked


def _check(asked: Parameters) -> int:
    """See whether what is asked for goes together; return how many choices are made for each prompt."""
    best_of = asked.n if asked.best_of is None else asked.best_of
    if len(asked.stop) > _MOST_STOPS:
        raise BadInput(f"stop may have at most {_MOST_STOPS} texts, not {len(asked.stop)}", parameter="stop")
    if best_of < asked.n:
        raise BadInput(f"best_of must be at least n, which is {asked.n}, not {best_of}", parameter="best_of")
    if best_of > asked.n and asked.stream:
        raise BadInput("best_of needs whole answers to choose from, and stream gives none", parameter="best_of")
    if "stream_options" in asked.model_fields_set and not asked.stream:
        raise BadInput("stream_options needs stream", parameter="stream_options")
    return best_of


def _prompts(task: TextGeneration, prompt: object) -> list[list[int]]:
    """The prompts as tokens: one or several, texts or tokens; none is the start of a text."""
    if prompt is None:
        prompt = ""
    several: list[Any] = prompt if isinstance(prompt, list) and not _are_tokens(prompt) else [prompt]
    try:
        if several and all(isinstance(one, str) for one in several):
            return [task.tokens_of(one) for one in several]
        if several and all(map(_are_tokens, several)):
            return [task.checked(one) for one in several]
    except BadInput as error:
        error.parameter = "prompt"
        raise
    raise BadInput(
        "prompt must be a text, a list of texts, a list of token ids, or a list of lists of those", parameter="prompt"
    )


def _are_tokens(prompt: object) -> bool:
    return isinstance(prompt, list) and all(type(token) is int for token in prompt)
