"""Text by the Open Inference Protocol's generate extension: `generate` and `generate_stream`, a prompt at a time.

What Triton and KServe say of it: parameters stand in `parameters` or beside `text_input`, and input that can't be
continued is answered with 422. Each event of a stream has the text of one token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.batching.sequences import Finish
from service.errors import BadInput, Invalid
from service.protocols.paths import path_parameters
from service.protocols.requests import (
    addressed,
    answer_headers,
    deadline_of,
    json_response,
    model_headers,
    read_json,
    while_connected,
)
from service.protocols.streams import EventStream, event
from service.repository.generation import Generation, Part
from service.repository.repository import Repository
from service.repository.text_model import TEXT_INPUT, TEXT_OUTPUT, TextModel, answer_of
from service.tasks.text_generation import GenerateParameters, TextRequest

_BODY = msgspec.json.Decoder(dict[str, Any])
_EXPECTED = 'JSON {"text_input": "...", "parameters": {...}}'

_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": [TEXT_INPUT],
                    "properties": {
                        "id": {"type": "string"},
                        TEXT_INPUT: {"type": "string"},
                        "parameters": {
                            "type": "object",
                            "properties": GenerateParameters.model_json_schema()["properties"],
                        },
                    },
                }
            }
        },
    }
}


class _Asked(msgspec.Struct, frozen=True):
    """A request that was read, and what comes back in its answer."""

    request: TextRequest
    id: str

    @property
    def details(self) -> bool:
        return self.request.top_scores is not None


def router(repository: Repository, *, max_body_bytes: int) -> APIRouter:
    """The routes of the extension."""
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])

    async def generate(request: Request) -> Response:
        """Continue a text, and answer when it has ended."""
        served = _text_model(repository, request)
        with served.measured():
            deadline = deadline_of(request)
            asked = await _read(request, served, max_body_bytes, stream=False)
            generation = served.generate(asked.request, deadline=deadline)
            ((choice,),) = await while_connected(request, generation.answer())
            content: dict[str, object] = {TEXT_OUTPUT: choice.text, **_model_of(served)}
            if asked.id:
                content["id"] = asked.id
            if asked.details:
                content["details"] = {"finish_reason": _finish(choice.finish), "logprobs": _tokens(choice)}
            return json_response(content, answer_headers(served, answer_of(served.count(generation), {})))

    async def generate_stream(request: Request) -> Response:
        """Continue a text, an event a token as it comes."""
        served = _text_model(repository, request)
        with ExitStack() as measured:
            measured.enter_context(served.measured())
            deadline = deadline_of(request)
            asked = await _read(request, served, max_body_bytes, stream=True)
            generation = served.generate(asked.request, deadline=deadline, streamed=True)
            return EventStream(
                _events(served, generation, asked),
                measured=measured.pop_all(),
                failure=lambda error: event({"error": str(error)}),
                headers=model_headers(served),
            )

    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        for name, answer in (("generate", generate), ("generate_stream", generate_stream)):
            described = {**_OPENAPI, "parameters": path_parameters(path)}
            routes.add_api_route(
                f"{path}/{name}", answer, methods=["POST"], response_model=None, openapi_extra=described
            )
    return routes


def _text_model(repository: Repository, request: Request) -> TextModel:
    served = addressed(repository, request)
    if not isinstance(served, TextModel):
        raise BadInput(f"model {served.name!r} generates no text: it is asked by infer")
    return served


async def _read(request: Request, served: TextModel, limit: int, *, stream: bool) -> _Asked:
    """Read a request; what can't be continued is `Invalid`, what is no request at all `BadInput`."""
    content = await read_json(request, limit, _BODY, _EXPECTED)
    prompt, given = content.pop(TEXT_INPUT, None), content.pop("parameters", None)
    identity = content.pop("id", None)
    if not isinstance(prompt, str):
        raise Invalid(f"{TEXT_INPUT} must be a text")
    if not isinstance(given, dict | None):
        raise Invalid("parameters must be an object")
    # Triton takes parameters beside the text as well.
    parameters = {**content, **(given or {})}
    # So do clients that say of a call what its name says already.
    if parameters.pop("stream", None) not in (None, stream):
        raise Invalid("stream: generate answers as a whole (false), generate_stream in events (true)")
    parse = partial(served.task.parse_text, prompt, parameters)
    try:
        wanted = await served.offload(parse) if served.is_large(prompt) else parse()
    except BadInput as error:
        if type(error) is not BadInput:  # what passes a limit has a status of its own
            raise
        raise Invalid(str(error)) from error
    return _Asked(wanted, identity if isinstance(identity, str) else "")


class _Written(dict[str, bytes]):
    """The events of a stream by their texts, each written once: there are few different ones.

    Args:
        same: what all of them have.
    """

    def __init__(self, same: Mapping[str, object]) -> None:
        super().__init__()
        self._begin, self._end = b'data: {"text_output":', b"," + msgspec.json.encode(same)[1:] + b"\n\n"

    def __missing__(self, text: str) -> bytes:
        event = self[text] = self._begin + msgspec.json.encode(text) + self._end
        return event


async def _events(served: TextModel, generation: Generation, asked: _Asked) -> AsyncGenerator[bytes, None]:
    """An event a token. What is the same in all of them is written once: there are many, and little is in each."""
    same = {**_model_of(served), **({"id": asked.id} if asked.id else {})}
    written = _Written(same)
    silent = True
    async with aclosing(generation.parts()) as news:
        async for (part,) in news:
            if asked.details:
                yield _events_with_details(part, same)
            elif part.texts:
                silent = False
                yield b"".join([written[text] for text in part.texts])
            elif silent and part.finish:  # the stop string took all of it, and nobody has been told who answers
                yield written[""]
            if part.finish:
                served.count(generation)


def _events_with_details(part: Part, same: dict[str, object]) -> bytes:
    tokens = _tokens(part)
    texts = part.texts
    if part.finish and not tokens:  # the stop string took all that was left
        tokens, texts = [{}], [""]
    events: list[dict[str, object]] = []
    for place, (text, token) in enumerate(zip(texts, tokens, strict=True), start=1):
        finish = _finish(part.finish) if place == len(tokens) else None
        details = {"finish_reason": finish, "logprobs": [token] if token else []}
        events.append({TEXT_OUTPUT: text, **same, "details": details})
    return b"".join(map(event, events))


def _model_of(served: TextModel) -> dict[str, object]:
    return {"model_name": served.name, "model_version": str(served.version)}


def _tokens(part: Part) -> list[dict[str, object]]:
    return [
        {"id": token, "text": text, "logprob": scores.logprob, "special": False}
        for token, text, scores in zip(part.tokens, part.texts, part.scores, strict=True)
    ]


def _finish(finish: Finish | None) -> str | None:
    return "stop_sequence" if finish == "stop" else finish
