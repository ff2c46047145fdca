"""Errors to HTTP: one table from the error's class to a status, and each dialect's body.

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

SHORTEST_RETRY_AFTER_S = 1
"""The header counts whole seconds."""

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


def openai_body(error: InferdError) -> dict[str, object]:
    """The body of an error in OpenAI's dialect."""
    return _openai(status_of(error), str(error), error.parameter, error.reason)


def _openai(status: int, message: str, parameter: str | None = None, code: str | None = None) -> dict[str, object]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


def _body(path: str, status: int, message: str, error: InferdError | None = None) -> dict[str, object]:
    """The body of an error in the dialect of the path: OpenAI's, or else `{"error": message}`."""
    if path.startswith("/v1/"):
        return openai_body(error) if error else _openai(status, message)
    return {"error": message}


def _respond(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


async def answer_inferd_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    assert isinstance(error, InferdError)  # noqa: S101 - it is registered for this class alone
    return error_response(request.url.path, error)


def error_response(path: str, error: InferdError) -> Response:
    """The answer to a request to `path`; only errors that are the server's fault are logged."""
    status = status_of(error)
    if status == 500:
        logger.error("a request failed: %s", error, exc_info=error.__cause__)
    headers = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(max(SHORTEST_RETRY_AFTER_S, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return _respond(status, _body(path, status, str(error), error), headers)


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
    message = messages.get(error.status_code, error.detail)
    return _respond(error.status_code, _body(request.url.path, error.status_code, message), headers)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of every route at this path; Starlette's own header names those of the first alone."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in request.app.routes)
    ]


async def answer_unexpected(request: Request, error: Exception) -> Response:
    """Answer a defect of ours without its details; the log has them (the server logs what reaches this)."""
    response = unexpected_response(request.url.path)
    response.headers["x-request-id"] = request_id.get() or ""
    return response


def unexpected_response(path: str) -> Response:
    """The answer to a request to `path` that met a defect of ours."""
    return _respond(500, _body(path, 500, "an unexpected error; the server's log has it under this request's id"))
