"""The short way to the busiest calls: past FastAPI's routing, which takes longer than small models run.

FastAPI still has these routes, documents them, and answers all other requests to their paths. A call that can go the
short way takes nothing but the request, and reads what varies in its path from `path_params`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InferdError
from service.observability import ROUTE
from service.protocols.errors import answer_http_exception, answer_inferd_error

Endpoint = Callable[[Request], Awaitable[Response]]


class Shortcuts:
    """An ASGI middleware, inside of what catches defects, that answers calls by POST.

    Args:
        app: what answers everything else.
        routers: whose calls are looked for: those by POST that take nothing but the request.
    """

    def __init__(self, app: ASGIApp, *, routers: Sequence[APIRouter]) -> None:
        self._app = app
        # By the number of parts of their paths.
        self._calls: dict[int, list[tuple[str, Sequence[str], Endpoint]]] = {}
        for path, endpoint in _calls_of(routers):
            parts = path.split("/")
            self._calls.setdefault(len(parts), []).append((path, parts, endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = self._find(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if call is None:
            await self._app(scope, receive, send)
            return
        started = False

        def sending(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        request = Request(scope, receive)
        try:
            response = await call(request)
            await response(scope, receive, sending)
        except (InferdError, HTTPException) as error:
            if started:
                raise
            answer = answer_inferd_error if isinstance(error, InferdError) else answer_http_exception
            response = await answer(request, error)
            await response(scope, receive, send)

    def _find(self, scope: Scope) -> Endpoint | None:
        """The call at the path of `scope`, whose `path_params` and route are set then."""
        if scope.get("root_path"):
            return None
        parts = scope["path"].split("/")
        for path, expected, endpoint in self._calls.get(len(parts), ()):
            values = {}
            for one, other in zip(parts, expected, strict=True):
                if other.startswith("{") and one:
                    values[other[1:-1]] = one
                elif one != other:
                    break
            else:
                scope["path_params"] = values
                scope[ROUTE] = path
                return endpoint
        return None


def path_parameters(path: str) -> list[dict[str, Any]]:
    """What varies in a path, as OpenAPI describes it: of calls that read it themselves FastAPI does not know it."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _calls_of(routers: Iterable[APIRouter]) -> Iterator[tuple[str, Endpoint]]:
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    for route in routes:
        if route.methods == {"POST"} and list(inspect.signature(route.endpoint).parameters) == ["request"]:
            yield route.path, route.endpoint
