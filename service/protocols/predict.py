"""The task dialect: `POST /predict/{model}`, after the Hugging Face inference conventions.

A body is either the input itself (an image's bytes, a text, or a form with a `file`) with parameters in the query, or
JSON `{"inputs": ..., "parameters": {...}}`. What inputs and parameters mean is the task's business. An answer is JSON,
events, or a picture.
"""

from __future__ import annotations

from contextlib import ExitStack
from fnmatch import fnmatchcase

import msgspec
from fastapi import APIRouter
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadInput, UnsupportedMediaType
from service.pictures import FORMATS
from service.protocols import predict_images, predict_text, predict_translation
from service.protocols.drawings import SEED_HEADER
from service.protocols.predict_images import AskedPictures
from service.protocols.predict_text import Asked
from service.protocols.requests import (
    AnswerResponse,
    addressed,
    deadline_of,
    form_of,
    json_response,
    parse_json,
    read_body,
    run,
    while_connected,
)
from service.protocols.shortcuts import path_parameters
from service.repository.batched_model import BatchedModel
from service.repository.image_model import ImageModel
from service.repository.repository import Repository
from service.repository.text_model import TextModel
from service.repository.translation_model import TranslationModel

_BODY = msgspec.json.Decoder(Asked)
_BODY_OF_PICTURES: msgspec.json.Decoder[Asked] = msgspec.json.Decoder(AskedPictures)

_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")

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


def router(repository: Repository, *, max_body_bytes: int) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(tags=["predict"])

    async def predict(request: Request) -> Response:
        """Answer one input of the model's task; a text also as a stream of server-sent events."""
        served = addressed(repository, request)
        with ExitStack() as measured:
            measured.enter_context(served.measured())
            deadline = deadline_of(request)
            if isinstance(served, TextModel):
                asked = await _read(request, max_body_bytes, "text/plain")
                return await predict_text.answer(request, served, asked, deadline, measured)
            if isinstance(served, TranslationModel):
                asked = await _read(request, max_body_bytes, "text/plain")
                return await predict_translation.answer(request, served, asked, deadline)
            if isinstance(served, ImageModel):
                asked = await _read(request, max_body_bytes, "text/plain", _BODY_OF_PICTURES)
                return await predict_images.answer(request, served, asked, deadline)
            asked = await _read(request, max_body_bytes, "image/*")
            assert isinstance(served, BatchedModel)  # noqa: S101 - there are no others
            if asked.stream:
                raise BadInput("stream: this model gives its answer as a whole")
            preparing = served.prepare(asked.inputs, asked.parameters or {})
            prepared = await (while_connected(request, preparing) if served.is_large(asked.inputs) else preparing)
            answer = await run(request, served, prepared.arrays, deadline)
            content = msgspec.json.encode(served.finish(prepared, answer))
            return AnswerResponse(content, b"application/json", served, answer)

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

    for path in ("/predict/{model}", "/predict/{model}/versions/{version}"):
        varying = {"parameters": path_parameters(path)}
        routes.add_api_route(
            path, predict, methods=["POST"], response_model=None, openapi_extra={**_OPENAPI, **varying}
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
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        expected = 'JSON {"inputs": ..., "parameters": {...}, "stream": true or false}'
        content = parse_json(decoder, await read_body(request, limit), expected)
        return Asked(content.inputs, {**request.query_params, **(content.parameters or {})}, content.stream)
    if media_type == "multipart/form-data":
        return Asked(await _read_form(request, limit), dict(request.query_params))
    if media_type in _RAW or fnmatchcase(media_type, raw):
        # curl --data-binary says x-www-form-urlencoded unless told otherwise; the bytes decide what it is.
        return Asked(await read_body(request, limit), dict(request.query_params))
    raise UnsupportedMediaType(
        f"content type {media_type!r} is not taken; allowed: {raw}, application/octet-stream, multipart/form-data, "
        "application/json"
    )


async def _read_form(request: Request, limit: int) -> bytes:
    """Read the form's `file`."""
    async with form_of(request, limit, max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BadInput("the form must have one file, in a field called 'file'")
        return await file.read()
