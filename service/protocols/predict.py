"""The task dialect: `POST /predict/{model}`, after the Hugging Face inference conventions.

A body is either the input itself (an image's bytes, a text, or a form with a `file`) with parameters in the query, or
JSON `{"inputs": ..., "parameters": {...}}`. What inputs and parameters mean is the task's business. An answer is JSON,
events, or a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial

import msgspec
from fastapi import APIRouter
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from service.batching.records import Answer
from service.errors import BadInput, UnsupportedMediaType
from service.pictures import FORMATS
from service.protocols import predict_images, predict_text, predict_translation
from service.protocols.drawings import SEED_HEADER
from service.protocols.express import Sent, Work
from service.protocols.paths import path_parameters
from service.protocols.predict_images import AskedPictures
from service.protocols.predict_text import Asked
from service.protocols.requests import (
    TENSORS,
    TEXTS,
    TIMEOUT_HEADER,
    AnswerResponse,
    addressed,
    deadline_in,
    deadline_of,
    form_of,
    json_response,
    parse_json,
    read_body,
    read_json,
    run,
    while_connected,
)
from service.repository.batched_model import BatchedModel, Prepared
from service.repository.image_model import ImageModel
from service.repository.model import Model
from service.repository.repository import Repository
from service.repository.text_model import TextModel
from service.repository.translation_model import TranslationModel

_BODY = msgspec.json.Decoder(Asked)
_BODY_OF_PICTURES: msgspec.json.Decoder[Asked] = msgspec.json.Decoder(AskedPictures)

_EXPECTED = 'JSON {"inputs": ..., "parameters": {...}, "stream": true or false}'
_JSON, _TEXT, _FORM = "application/json", "text/plain", "multipart/form-data"
_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")

_SMALL_BODY = 64 * 1024
"""Bytes up to which a body that does not come with its head may still go the short way."""

_OPENAPI = {
    "requestBody": {
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "inputs": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                        "parameters": {"type": "object"},
                        "stream": {"type": "boolean"},
                    },
                }
            },
        },
    },
    "responses": {
        "200": {
            "description": "The answer. Pictures come as they are, or in JSON where there are several.",
            "content": {
                "application/json": {"schema": {}},
                "text/event-stream": {"schema": {"type": "string"}},
                **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS.values()},
            },
            "headers": {
                SEED_HEADER: {
                    "description": "Of pictures: the seed that draws them again.",
                    "schema": {"type": "integer"},
                }
            },
        }
    },
}


class Predict:
    """The call; of pictures and tensors that are small, it may go the short way. See `express.Call`.

    Args:
        repository: the models that answer.
        max_body_bytes: of a request.
    """

    paths: Sequence[str] = ("/predict/{model}", "/predict/{model}/versions/{version}")

    def __init__(self, repository: Repository, *, max_body_bytes: int) -> None:
        self._repository = repository
        self._max_body_bytes = max_body_bytes

    def waits_for(self, headers: Mapping[bytes, bytes], size: int) -> bool:
        """See `express.Call`."""
        return size <= min(_SMALL_BODY, self._max_body_bytes)

    def prepare(self, model: Model, sent: Sent) -> Work | None:
        """See `express.Call`."""
        headers = sent.headers
        media_type = _media_type(headers.get(b"content-type", b"").decode("latin-1"))
        if not isinstance(model, BatchedModel) or media_type == _FORM or sent.size > self._max_body_bytes:
            return None
        body = sent.body
        timeout = headers.get(TIMEOUT_HEADER.encode())
        deadline = None if timeout is None else deadline_in(timeout.decode("latin-1"), sent.now)
        asked = (
            _of_json(parse_json(_BODY, body, _EXPECTED), sent.query)
            if _is_json(media_type, "image/*")
            else Asked(body, dict(sent.query))
        )
        if model.is_large(asked.inputs):
            return None
        _refuse_stream(asked)
        prepared = model.prepare_now(asked.inputs, asked.parameters or {})
        if prepared is None:
            return None
        return Work(prepared.arrays, partial(_respond, model, prepared), _never, deadline)

    async def answer(self, request: Request) -> Response:
        """Answer one input of the model's task; a text also as a stream of server-sent events."""
        limit = self._max_body_bytes
        served = addressed(self._repository, request)
        with ExitStack() as measured:
            measured.enter_context(served.measured())
            deadline = deadline_of(request)
            if isinstance(served, TextModel):
                asked = await _read(request, limit, _TEXT)
                return await predict_text.answer(request, served, asked, deadline, measured)
            if isinstance(served, TranslationModel):
                asked = await _read(request, limit, _TEXT)
                return await predict_translation.answer(request, served, asked, deadline)
            if isinstance(served, ImageModel):
                asked = await _read(request, limit, _TEXT, _BODY_OF_PICTURES)
                return await predict_images.answer(request, served, asked, deadline)
            asked = await _read(request, limit, "image/*")
            assert isinstance(served, BatchedModel)  # noqa: S101 - there are no others
            _refuse_stream(asked)
            preparing = served.prepare(asked.inputs, asked.parameters or {})
            prepared = await (while_connected(request, preparing) if served.is_large(asked.inputs) else preparing)
            answer = await run(request, served, prepared.arrays, deadline)
            return _respond(served, prepared, answer)


def router(repository: Repository, predict: Predict, *, max_body_bytes: int) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(tags=["predict"])

    async def describe(request: Request) -> Response:
        """Say what the model takes, what it answers, how good it is and where it comes from."""
        served = addressed(repository, request)
        bundle = served.bundle
        manifest = bundle.manifest
        return json_response(
            {
                "model": served.name,
                "version": served.version,
                "versions": repository.versions(served.name),
                "task": manifest.task,
                "title": manifest.title,
                "description": manifest.description,
                "variant": bundle.variant,
                **bundle.task.describe(),
                **(predict_images.describe() if isinstance(served, ImageModel) else {}),
                "limits": {"max_body_bytes": max_body_bytes, "max_batch_size": bundle.max_batch_rows},
                "quality": [figure.model_dump() for figure in manifest.quality if figure.variant == bundle.variant],
                "parameters_count": manifest.parameters,
                "licence": manifest.provenance.data.licence if manifest.provenance else manifest.licence,
            }
        )

    for path in predict.paths:
        varying = {"parameters": path_parameters(path)}
        routes.add_api_route(
            path, predict.answer, methods=["POST"], response_model=None, openapi_extra={**_OPENAPI, **varying}
        )
        routes.add_api_route(path, describe, methods=["GET"], response_model=None, openapi_extra=varying)
    return routes


async def _read(
    request: Request,
    limit: int,
    raw: str,
    decoder: msgspec.json.Decoder[Asked] = _BODY,
) -> Asked:
    """Take inputs and parameters out of whichever kind of body came.

    Args:
        request: its body not read yet.
        limit: of the body, in bytes.
        raw: what the input itself is called as a media type.
        decoder: of JSON.

    Raises:
        BadInput: it is none of these kinds, or broken, or (as TooLarge) too long.
    """
    media_type = _media_type(request.headers.get("content-type", ""))
    if media_type == _FORM:
        return Asked(await _read_form(request, limit), dict(request.query_params))
    if not _is_json(media_type, raw):
        return Asked(await read_body(request, limit), dict(request.query_params))
    bounds = TEXTS if raw == _TEXT else TENSORS
    return _of_json(await read_json(request, limit, decoder, _EXPECTED, bounds), request.query_params)


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _is_json(media_type: str, raw: str) -> bool:
    """Whether a body is JSON; else it is the input itself.

    Raises:
        UnsupportedMediaType: it is neither.
    """
    if media_type == _JSON:
        return True
    # curl --data-binary says x-www-form-urlencoded unless told otherwise; the bytes decide what it is.
    if media_type in _RAW or fnmatchcase(media_type, raw):
        return False
    raise UnsupportedMediaType(
        f"content type {media_type!r} is not taken; allowed: {raw}, application/octet-stream, {_FORM}, {_JSON}"
    )


def _of_json(content: Asked, query: Mapping[str, str]) -> Asked:
    """What is asked by a body, and by the query for what the body does not say."""
    return Asked(content.inputs, {**query, **(content.parameters or {})}, content.stream)


def _refuse_stream(asked: Asked) -> None:
    if asked.stream:
        raise BadInput("stream: this model gives its answer as a whole")


def _respond(model: BatchedModel, prepared: Prepared, answer: Answer) -> Response:
    content = msgspec.json.encode(model.finish(prepared, answer))
    return AnswerResponse(content, b"application/json", model, answer)


def _never(_: Answer) -> bool:
    return False


async def _read_form(request: Request, limit: int) -> bytes:
    """Read the form's `file`."""
    async with form_of(request, limit, max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BadInput("the form must have one file, in a field called 'file'")
        return await file.read()
