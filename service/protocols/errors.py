"""Errors to HTTP: one table from the error's class to a status, and one body.

The classes' own ancestry is the policy: a class that is not in the table answers as its nearest ancestor that is.
"""

from __future__ import annotations

import logging
import math

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service.errors import (
    BadInput,
    BundleRefused,
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    InferdError,
    Invalid,
    NotFound,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
    Unauthenticated,
    Unsupported,
    UnsupportedMediaType,
)
from service.observability import request_id

logger = logging.getLogger(__name__)

STATUS: dict[type[InferdError], int] = {
    BadInput: 400,
    BundleRefused: 400,  # who asked for it to be loaded is told
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    Invalid: 422,
    Overloaded: 429,
    Cancelled: 499,  # nobody reads it; the log does (nginx's number for a client that has gone)
    RuntimeFailure: 500,
    InferdError: 500,
    Unsupported: 501,
    NotReady: 503,
    DeadlineExceeded: 504,
}


def status_of(error: InferdError) -> int:
    """The HTTP status for `error`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The body of every error: `{"error": message}`."""
    return Response(msgspec.json.encode({"error": message}), status, headers, "application/json")


async def answer_inferd_error(_: Request, error: Exception) -> Response:
    """Answer an error of ours; only those that are the server's fault are logged."""
    assert isinstance(error, InferdError)  # noqa: S101 - it is registered for this class alone
    status = status_of(error)
    if status == 500:
        logger.error("a request failed: %s", error, exc_info=error.__cause__)
    headers = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return error_response(status, str(error), headers)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what routing refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = ", ".join(_allowed_methods(request))
    messages = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}; allowed: {headers.get('allow', '')}",
    }
    return error_response(error.status_code, messages.get(error.status_code, error.detail), headers)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of every route at this path; Starlette's own header names those of the first alone."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in request.app.routes)
    ]


async def answer_unexpected(_: Request, error: Exception) -> Response:
    """Answer a defect of ours without its details; the log has them (the server logs what reaches this)."""
    headers = {"x-request-id": request_id.get() or ""}
    return error_response(500, "an unexpected error; the server's log has it under this request's id", headers)
