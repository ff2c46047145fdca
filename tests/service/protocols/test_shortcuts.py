"""The short way to the busiest calls answers what FastAPI's routing answers, and leaves everything else to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.testclient import TestClient

from service.errors import InferdError, NotFound, Overloaded
from service.protocols.errors import answer_http_exception, answer_inferd_error, answer_unexpected
from service.protocols.shortcuts import Shortcuts, path_parameters

LONG_WAY = "/behind/a/proxy"
"""With a root path FastAPI routes."""


async def _halves(error: Exception) -> AsyncGenerator[bytes, None]:
    yield b"one half"
    raise error


def routes() -> APIRouter:
    router = APIRouter(prefix="/things")

    async def told(request: Request) -> Response:
        return JSONResponse([request.path_params, (await request.body()).decode(), dict(request.query_params)])

    async def refuses(request: Request) -> Response:
        raise Overloaded("so full", retry_after_s=3)

    async def knows_nothing(request: Request) -> Response:
        raise HTTPException(418, "a teapot")

    async def breaks(request: Request) -> Response:
        raise LookupError("a secret")

    async def breaks_off(request: Request) -> Response:
        return StreamingResponse(_halves(NotFound("the other half is gone")))

    async def documented(request: Request, name: str) -> Response:
        return JSONResponse(name)

    for path in ("/{name}", "/{name}/parts/{part}"):
        described = {"parameters": path_parameters(path)}
        router.add_api_route(path, told, methods=["POST"], response_model=None, openapi_extra=described)
    for name, call in (("refuses", refuses), ("teapot", knows_nothing), ("breaks", breaks), ("breaks-off", breaks_off)):
        router.add_api_route(f"/{{name}}/{name}", call, methods=["POST"], response_model=None)
    router.add_api_route("/{name}/by-fastapi", documented, methods=["POST"], response_model=None)
    router.add_api_route("/{name}", told, methods=["GET"], response_model=None)
    return router


def client(*, root_path: str = "") -> TestClient:
    app = FastAPI()
    router = routes()
    app.include_router(router)
    app.add_exception_handler(InferdError, answer_inferd_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(Exception, answer_unexpected)
    app.add_middleware(Shortcuts, routers=[router])
    return TestClient(app, root_path=root_path, raise_server_exceptions=False)


CALLS = [
    ("POST", "/things/a"),
    ("POST", "/things/a%20b%2Fc?x=1&y=%C3%BC"),
    ("POST", "/things/a/parts/7"),
    ("POST", "/things/%F0%9F%91%9F"),
    ("POST", "/things/a/refuses"),
    ("POST", "/things/a/teapot"),
    ("POST", "/things/a/breaks"),
    ("POST", "/things/a/by-fastapi"),
    ("GET", "/things/a"),
    ("PUT", "/things/a"),
    ("POST", "/things/a/nothing"),
    ("POST", "/things/"),
    ("POST", "/things/a/parts/"),
    ("POST", "/other/a"),
    ("POST", "/"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_both_ways_answer_alike(method: str, path: str) -> None:
    short = client().request(method, path, content=b"a body", follow_redirects=False)
    long = client(root_path=LONG_WAY).request(method, f"{LONG_WAY}{path}", content=b"a body", follow_redirects=False)
    assert short.status_code == long.status_code
    assert short.text.replace(LONG_WAY, "") == long.text.replace(LONG_WAY, "")
    others = ("location", "content-length")  # which tell of the root path
    assert {name: value for name, value in short.headers.items() if name not in others} == {
        name: value for name, value in long.headers.items() if name not in others
    }


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/things/a", {"name": "a"}),
        ("/things/a/parts/7", {"name": "a", "part": "7"}),
        ("/things/%C3%BC", {"name": "ü"}),
    ],
)
def test_what_varies_in_a_path_is_told(path: str, params: dict[str, str]) -> None:
    assert client().post(path, content="text").json() == [params, "text", {}]


def routed(method: str, path: str) -> bool:
    """Whether a call goes on to what lies behind the shortcuts."""
    gone_on = []

    async def behind(scope: object, receive: object, send: object) -> None:
        gone_on.append(scope)
        await Response("behind")(scope, receive, send)  # type: ignore[arg-type]

    asking = TestClient(Shortcuts(behind, routers=[routes()]), raise_server_exceptions=False)  # type: ignore[arg-type]
    asking.request(method, path)
    return bool(gone_on)


def test_only_calls_that_take_nothing_but_the_request_go_the_short_way() -> None:
    assert not routed("POST", "/things/a")
    assert not routed("POST", "/things/a/parts/7")
    assert not routed("POST", "/things/a/refuses")
    assert routed("POST", "/things/a/by-fastapi")
    assert routed("GET", "/things/a")
    assert routed("POST", "/things/")
    assert routed("POST", "/things/a/b/c")


def test_an_error_in_the_middle_of_an_answer_is_not_answered_again() -> None:
    with pytest.raises(NotFound, match="the other half is gone"):
        TestClient(client().app).post("/things/a/breaks-off")


def test_paths_are_documented_as_they_vary() -> None:
    document = client().get("/openapi.json").json()["paths"]
    described = document["/things/{name}/parts/{part}"]["post"]["parameters"]
    assert [(one["name"], one["in"], one["required"]) for one in described] == [
        ("name", "path", True),
        ("part", "path", True),
    ]
