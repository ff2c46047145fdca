"""The gate of HTTP: which calls need a key, and of which scope. What is in no table here needs one with `predict`."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import InferdError
from service.observability import KEY_NAME
from service.protocols.errors import answer_inferd_error
from service.security.access import Access, Grant, presented
from service.security.keys import Scope as KeyScope

_OPEN = frozenset(
    {
        # Probes have no keys,
        "/health/live",
        "/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
        # the description of the API is the same everywhere,
        "/docs",
        "/docs/oauth2-redirect",
        "/openapi.json",
        # LibreTranslate's clients ask for languages without theirs,
        "/languages",
        # and the playground asks for a key itself.
        "/",
    }
)
_OPEN_BELOW = ("/static-offline-docs/", "/playground/static/")
_MODEL_READY = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready")
_CONTROL = "/v2/repository/models/"
_METRICS = "/metrics"

_IN_BODY = frozenset({"/translate", "/detect"})
"""Whose key may be in the body: where no header has one, who reads the body asks for it, by `admit_by`."""


GRANT = "inferd.grant"
"""Where an ASGI scope has the grant of a request that was let in before it came here."""


def scope_of(path: str) -> KeyScope | None:
    """The scope that a key needs for the calls at `path`; None = they need no key."""
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return None
    if path == _METRICS:
        return "metrics"
    if path.startswith(_CONTROL):
        return "admin"
    if path.endswith("/ready") and _MODEL_READY.fullmatch(path):
        return None
    return "predict"


class Gate:
    """An ASGI middleware that lets through who may pass. It stands before all routes; `express` asks for itself.

    Args:
        app: what answers.
        access: who may do what.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        needed = scope_of(path)
        if needed is None or self._access.is_open(needed):
            await self._app(scope, receive, send)
            return
        if (grant := scope.get(GRANT)) is not None:
            await self._answer(scope, receive, send, grant)
            return
        secret = _key_in(scope)
        if secret is None and path in _IN_BODY:
            await self._app(scope, receive, send)
            return
        try:
            grant = self._access.admit(needed, secret)
        except InferdError as error:
            response = await answer_inferd_error(Request(scope), error)
            await response(scope, receive, send)
            return
        await self._answer(scope, receive, send, grant)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, grant: Grant) -> None:
        with grant:
            scope[KEY_NAME] = grant.name
            await self._app(scope, receive, send)


def admit_by(request: Request, access: Access, given: object) -> Grant:
    """Let a request in whose key may be in its body; the gate has let it in already where a header has one.

    Args:
        request: its body read.
        access: who may do what.
        given: what the body has for a key.

    Raises:
        InferdError: see `Access.admit`.
    """
    if _key_in(request.scope) is not None:
        return Grant(None)
    grant = access.admit("predict", given.encode(errors="surrogatepass") if isinstance(given, str) else None)
    request.scope[KEY_NAME] = grant.name
    return grant


def describe_keys(document: dict[str, Any], access: Access) -> None:
    """Say in an OpenAPI document which calls need a key, and how it is brought."""
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    for path, calls in document["paths"].items():
        needed = scope_of(path)
        for call in calls.values():
            if needed:
                unneeded: list[dict[str, list[str]]] = [{}] if access.is_open(needed) or path in _IN_BODY else []
                call["security"] = [{"bearer": []}, {"apiKey": []}, *unneeded]


def _key_in(scope: Scope) -> bytes | None:
    """The key that the headers bring."""
    authorization = api_key = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"x-api-key":
            api_key = value
    return presented(authorization, api_key)
