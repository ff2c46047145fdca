"""What the page tells of a model that no dialect tells: its manifest, its card, its pictures, what its network sees."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service import pictures
from service.errors import BadInput, BundleRefused, NotFound
from service.manifest import read_file
from service.protocols.paths import path_parameters
from service.protocols.requests import addressed, read_body, while_connected
from service.repository.bundle import Bundle
from service.repository.repository import Repository
from service.tasks.image_classification import ImageClassification

_VERSION: Final = "/playground/models/{model}/versions/{version}"

_KINDS: Final[Mapping[str, str]] = {
    ".md": "text/markdown; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}
"""What is told of a bundle: its card and the pictures in there. Weights and vocabularies stay where they are."""

_MOST_BYTES: Final = 8 * 2**20

_NO_SNIFFING: Final = {"x-content-type-options": "nosniff"}


def router(repository: Repository, *, max_body_bytes: int) -> APIRouter:
    """The routes that tell of one version of a model."""
    routes = APIRouter(tags=["playground"])

    async def manifest(request: Request) -> Response:
        """The manifest: of a bundle what it was made with, of a bare graph what was read from it."""
        bundle = addressed(repository, request).bundle
        content = bundle.manifest.model_dump_json(exclude_unset=True, indent=2)
        name = f"{bundle.folder.name}-{bundle.folder.version}-manifest.json"
        headers = {"content-disposition": f'attachment; filename="{name}"', **_NO_SNIFFING}
        return Response(content, media_type="application/json", headers=headers)

    async def file(request: Request) -> Response:
        """The card (README.md) or a picture of a bundle, as its manifest lists them."""
        served = addressed(repository, request)
        name = request.path_params["file"]
        kind = _KINDS.get(PurePosixPath(name).suffix)
        if kind is None or name not in served.bundle.manifest.files:
            raise NotFound(f"model {served.name!r} version {served.version} shows no file of this name")
        content = await served.offload(partial(_read, served.bundle, name))
        return Response(content, headers={"content-type": kind, **_NO_SNIFFING})

    async def seen(request: Request) -> Response:
        """A picture as the network is given it, before its numbers are normalised; parameters are those of predict."""
        served = addressed(repository, request)
        task = served.bundle.task
        if not isinstance(task, ImageClassification):
            raise BadInput(f"model {served.name!r} is given no pictures")
        given = await read_body(request, max_body_bytes)
        work = partial(_seen, task, given, dict(request.query_params))
        content = await while_connected(request, served.offload(work))
        return Response(content, media_type="image/png", headers=_NO_SNIFFING)

    described = {"parameters": path_parameters(_VERSION)}
    routes.add_api_route(f"{_VERSION}/manifest", manifest, response_model=None, openapi_extra=described)
    routes.add_api_route(
        f"{_VERSION}/seen",
        seen,
        methods=["POST"],
        response_model=None,
        openapi_extra={
            **described,
            "requestBody": {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        },
    )
    path = f"{_VERSION}/files/{{file:path}}"
    routes.add_api_route(path, file, response_model=None, include_in_schema=False)
    return routes


def _read(bundle: Bundle, name: str) -> bytes:
    """Read a file of a bundle, as it was when the bundle was loaded.

    Raises:
        NotFound: it is not there any more, or another one.
    """
    try:
        return read_file(bundle.folder.path, name, most=_MOST_BYTES, entry=bundle.manifest.files[name])
    except BundleRefused as error:
        raise NotFound(str(error)) from error


def _seen(task: ImageClassification, given: bytes, parameters: Mapping[str, str]) -> bytes:
    return pictures.write(task.seen(task.parse(given, parameters)), "png")
