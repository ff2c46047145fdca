"""The page itself: files of the package, read once, which say themselves what a browser may do with them."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import NotFound

STATIC: Final = "/playground/static/"
"""Where the page's files are; nobody needs a key for them."""

_PAGE: Final = "index.html"

_KINDS: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

_HEADERS: Final[Mapping[str, str]] = {
    # Asked for anew each time, and answered by 304: a page never gets the scripts of another release.
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class _File:
    """A file as it is sent."""

    content: bytes
    compressed: bytes
    headers: Mapping[str, str]

    @classmethod
    def of(cls, name: str, content: bytes) -> _File:
        """The file `name` with its kind, and what tells it from what it was in another release."""
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"content-type": _KINDS[PurePosixPath(name).suffix], "etag": tag, **_HEADERS}
        return cls(content, gzip.compress(content, mtime=0), headers)

    def answer(self, request: Request) -> Response:
        """Send it, unless the browser has it."""
        if self.headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=dict(self.headers))
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, headers={**self.headers, "content-encoding": "gzip"})
        return Response(self.content, headers=dict(self.headers))


def router() -> APIRouter:
    """The routes of the page and its files."""
    routes = APIRouter()
    known = dict(_files(files(__package__) / "static"))

    async def page(request: Request) -> Response:
        """The page."""
        return known[_PAGE].answer(request)

    async def file(request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["file"]
        if name not in known:
            raise NotFound(f"there is nothing at {request.url.path}")
        return known[name].answer(request)

    for path, answer in (("/", page), (STATIC + "{file:path}", file)):
        routes.add_api_route(path, answer, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)
    return routes


def _files(folder: Traversable, before: str = "") -> Iterator[tuple[str, _File]]:
    """The files below a folder by their paths; those of no known kind are none of the page's."""
    for entry in folder.iterdir():
        name = before + entry.name
        if entry.is_dir():
            yield from _files(entry, f"{name}/")
        elif PurePosixPath(name).suffix in _KINDS:
            yield name, _File.of(name, entry.read_bytes())
