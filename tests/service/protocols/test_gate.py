"""Keys on HTTP: every route of the app, whichever way it is answered, and what each dialect says."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route
from starlette.testclient import TestClient

from service.observability import JsonFormatter
from service.protocols.gate import scope_of
from tests.bundles import make_bundle
from tests.conftest import Serve, running, start
from tests.service.requests import BRIGHT, PNG, metrics
from tests.service.security.keys import bearer, line, write
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import make_translation_bundle

KEYS = {"predict": "p-key", "metrics": "m-key", "admin": "a-key"}
HELD = {"predict": {"predict", "admin"}, "metrics": {"metrics", "admin"}, "admin": {"admin"}}
"""The keys that open a scope."""

ROUTES: dict[str, str | None] = {
    "/docs": None,
    "/docs/oauth2-redirect": None,
    "/openapi.json": None,
    "/static-offline-docs": None,
    "/health/live": None,
    "/health/ready": None,
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/v2/models/{model}/ready": None,
    "/v2/models/{model}/versions/{version}/ready": None,
    "/languages": None,
    "/": None,
    "/playground/static/{file:path}": None,
    "/playground/models/{model}/versions/{version}/manifest": "predict",
    "/playground/models/{model}/versions/{version}/files/{file:path}": "predict",
    "/playground/models/{model}/versions/{version}/seen": "predict",
    "/metrics": "metrics",
    "/v2/repository/models/{model}/load": "admin",
    "/v2/repository/models/{model}/unload": "admin",
    "/v2": "predict",
    "/v2/models/stats": "predict",
    "/v2/models/{model}": "predict",
    "/v2/models/{model}/config": "predict",
    "/v2/models/{model}/stats": "predict",
    "/v2/models/{model}/infer": "predict",
    "/v2/models/{model}/generate": "predict",
    "/v2/models/{model}/generate_stream": "predict",
    "/v2/models/{model}/versions/{version}": "predict",
    "/v2/models/{model}/versions/{version}/config": "predict",
    "/v2/models/{model}/versions/{version}/stats": "predict",
    "/v2/models/{model}/versions/{version}/infer": "predict",
    "/v2/models/{model}/versions/{version}/generate": "predict",
    "/v2/models/{model}/versions/{version}/generate_stream": "predict",
    "/v2/repository/index": "predict",
    "/predict/{model}": "predict",
    "/predict/{model}/versions/{version}": "predict",
    "/v1/models": "predict",
    "/v1/models/{model}": "predict",
    "/v1/completions": "predict",
    "/v1/images/generations": "predict",
    "/translate": "predict",
    "/detect": "predict",
}
"""Every route and what opens it: who adds one decides here, or a test fails."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [line(secret, scope, scope) for scope, secret in KEYS.items()]
    return write(tmp_path_factory.mktemp("keys") / "keys.jsonl", *lines)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[TestClient]:
    """Give a client of an app with keys, that serves models of several kinds."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder)
    make_text_bundle(folder)
    make_translation_bundle(folder, source="en", target="de")
    with start(models=folder, api_keys_file=keys, model_control="explicit") as client:
        yield client


def walked(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every path of an app with every method that it has."""
    for route in routes:
        if isinstance(route, Route | APIRoute):
            for method in route.methods or ():
                yield method, prefix + route.path
        elif isinstance(route, Mount):
            yield "GET", prefix + route.path
            yield from walked(list(route.routes), prefix + route.path)
        elif (router := getattr(route, "original_router", None)) is not None:  # FastAPI's own, of included routers
            yield from walked(list(router.routes), prefix + route.include_context.prefix)  # type: ignore[attr-defined]
        else:
            raise AssertionError(f"what is a {type(route).__name__}, and who may call it?")


def calls_of(client: TestClient) -> list[tuple[str, str]]:
    assert isinstance(client.app, FastAPI)
    return sorted(set(walked(list(client.app.routes))))


def test_every_route_is_in_the_table_and_nothing_else_is(closed: TestClient) -> None:
    assert {path for _, path in calls_of(closed)} == set(ROUTES)
    described = closed.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, calls in described.items() for method in calls} < set(calls_of(closed))


def filled(path: str) -> str:
    if path == "/static-offline-docs":
        return f"{path}/swagger-ui.css"
    if path == "/playground/static/{file:path}":
        return "/playground/static/main.js"
    return path.replace(":path}", "}").format(model="tiny", version="1", file="README.md")


def test_without_a_key_only_what_is_open_answers(closed: TestClient) -> None:
    for method, path in calls_of(closed):
        answer = closed.request(method, filled(path))
        if ROUTES[path] is None:
            assert answer.status_code == 200, (method, path)
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}], ids=["bearer", "own"])
def test_with_a_wrong_key_only_what_is_open_answers(closed: TestClient, headers: dict[str, str]) -> None:
    for method, path in calls_of(closed):
        answer = closed.request(method, filled(path), headers=headers)
        assert (answer.status_code == 401) == (ROUTES[path] is not None), (method, path)
        assert "wrong" not in answer.text.replace("is wrong", "")


@pytest.mark.parametrize("own", [False, True], ids=["bearer", "own"])
def test_every_route_needs_its_scope(closed: TestClient, *, own: bool) -> None:
    for method, path in calls_of(closed):
        if (scope := ROUTES[path]) is None:
            continue
        for name, secret in KEYS.items():
            headers = {"x-api-key": secret} if own else bearer(secret)
            # A body that no call can read: who gets in is told so, or is answered, and nothing changes.
            answer = closed.request(method, filled(path), headers=headers, content=b"{" if method == "POST" else None)
            if name in HELD[scope]:
                assert answer.status_code in (200, 400, 404, 415, 422), (method, path, name, answer.text)
            else:
                assert answer.status_code == 403, (method, path, name)
                assert f"the key {name!r} has the scope {name}; this call needs {scope}" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/models/tiny/load/",
        "/v2/repository/models/tiny/unload?x=1",
        "/v2/repository/models//load",
        "/v2/repository/models/tiny%2Fload",
        "//v2/repository/models/tiny/load",
        "/V2/repository/models/tiny/load",
        "/v2/./repository/models/tiny/load",
        "/predict/tiny/",
        "/predict//tiny",
        "/translate/",
        "/metrics/",
        "/health/live/../../metrics",
        "/docs/../predict/tiny",
        "/static-offline-docs",
        "/v2/models/tiny/ready/",
        "/v2/models/a/b/ready",
        "/nothing",
        "/playground/",
        "/playground/static",
        "/playground//static/main.js",
        "/playground/models/tiny/versions/1/manifest",
    ],
)
def test_no_other_way_to_write_a_path_leads_past_the_gate(closed: TestClient, path: str) -> None:
    async def main() -> int:
        transport = httpx.ASGITransport(closed.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            request = client.build_request("POST", "http://test/")
            request.url = request.url.copy_with(raw_path=path.encode())
            return (await client.send(request)).status_code

    assert asyncio.run(main()) == 401


def test_behind_a_proxy_paths_need_what_they_need() -> None:
    assert scope_of("/v2/repository/models/tiny/load") == "admin"
    with TestClient(start(admin_key="k").app, root_path="/ml") as client:
        assert client.post("/ml/v2/repository/models/tiny/load").status_code == 401
        assert client.post("/ml/v2/repository/index").status_code == 200


# What each dialect says


def test_each_dialect_has_its_own_words(closed: TestClient) -> None:
    told = "this call needs a key with the scope predict: Authorization: Bearer <key>, or x-api-key: <key>"
    assert closed.post("/v1/completions").json() == {
        "error": {"message": told, "type": "authentication_error", "param": None, "code": "invalid"}
    }
    for path in ("/predict/tiny", "/v2/models/tiny/infer", "/translate"):
        assert closed.post(path, json={}).json() == {"error": told}
    denied = closed.get("/v1/models", headers=bearer("m-key"))
    assert (denied.status_code, denied.json()["error"]["type"]) == (403, "permission_error")
    assert "x-request-id" in closed.post("/predict/tiny").headers


ASKED = {"q": "the cat", "source": "en", "target": "de"}


@pytest.mark.parametrize("path", ["/translate", "/detect"])
@pytest.mark.parametrize("form", [False, True], ids=["JSON", "form"])
def test_libretranslates_key_may_be_in_the_body(closed: TestClient, path: str, *, form: bool) -> None:
    def ask(headers: dict[str, str] | None = None, **more: object) -> tuple[int, Any]:
        body = {**ASKED, **more}
        answer = closed.post(path, headers=headers, **({"data": body} if form else {"json": body}))  # type: ignore[arg-type]
        return answer.status_code, answer.json()

    assert ask(api_key="p-key")[0] == 200
    assert ask(api_key="a-key")[0] == 200
    assert ask(headers={"x-api-key": "p-key"}, api_key="wrong")[0] == 200
    assert ask(api_key="wrong") == (401, {"error": "this key is not known here"})
    assert ask(api_key="m-key")[0] == 403
    for more in ({}, {"api_key": ""}):
        assert ask(**more)[0] == 401
    if not form:
        assert ask(api_key=7)[0] == 401
        escaped = json.dumps({**ASKED, "api_key": "\ud800"})
        answer = closed.post(path, content=escaped, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 401)
    assert ask(headers={"x-api-key": "wrong"}, api_key="p-key")[0] == 401


def test_a_form_may_have_its_key_in_the_query(closed: TestClient) -> None:
    assert closed.post("/translate?api_key=p-key", data=ASKED).json() == {"translatedText": "die Katze"}


def test_without_keys_whatever_clients_bring_is_ignored(client: TestClient) -> None:
    for headers in (bearer("anything"), {"x-api-key": "x"}, {"authorization": "Basic abc"}):
        assert client.post("/predict/tiny", content=BRIGHT, headers={**PNG, **headers}).status_code == 200
        assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.get("/metrics").status_code == 200


def test_where_others_can_connect_metrics_are_closed_until_it_is_said(models: Path, serve: Serve) -> None:
    answer = serve(models=models, host="0.0.0.0").get("/metrics")
    assert answer.status_code == 403
    assert "INFERD_METRICS_ACCESS=open opens them, INFERD_METRICS_PORT moves them" in answer.json()["error"]
    assert serve(models=models, host="0.0.0.0", metrics_access="open").get("/metrics").status_code == 200


# Limits


def test_a_rate_is_answered_with_429_and_when_to_come_again(models: Path, serve: Serve, tmp_path: Path) -> None:
    make_bundle(models)
    keys = write(tmp_path / "keys", line("s", "shop", rate=0.01, burst=2), line("m", "prometheus", "metrics"))
    client = serve(models=models, api_keys_file=keys)
    answers = [client.post("/predict/tiny", content=BRIGHT, headers=PNG | bearer("s")) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 429, 429]
    assert answers[2].json() == {"error": "the key 'shop' may make 0.01 requests a second, 2 at once"}
    assert 95 <= int(answers[2].headers["retry-after"]) <= 100
    openai = client.get("/v1/models", headers=bearer("s"))
    assert (openai.status_code, openai.json()["error"]["type"]) == (429, "rate_limit_error")
    client.headers.update(bearer("m"))
    counted = metrics(client)
    assert counted['inferd_key_requests_total{key="shop",outcome="admitted"}'] == 2
    assert counted['inferd_key_requests_total{key="shop",outcome="limited"}'] == 3


def test_a_request_is_in_work_until_its_answer_is_whole(models: Path, tmp_path: Path) -> None:
    make_text_bundle(models)
    keys = write(tmp_path / "keys", line("s", "shop", concurrency=1))
    app = start(models=models, api_keys_file=keys).app
    assert isinstance(app, FastAPI)
    asked = {"inputs": "a", "parameters": {"max_new_tokens": 4000, "seed": 1}, "stream": True}

    async def main() -> None:
        started = asyncio.Event()
        statuses = []

        async def receive() -> dict[str, Any]:
            if not started.is_set():
                started.set()
                return {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}
            return await asyncio.Future()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async with running(app) as client:
            headers = [(b"content-type", b"application/json"), (b"x-api-key", b"s")]
            scope = {"type": "http", "method": "POST", "path": "/predict/tiny-text", "query_string": b""}
            scope["headers"] = headers
            stream = asyncio.create_task(app(scope, receive, send))
            await started.wait()
            answer = await client.get("/v1/models", headers=bearer("s"))
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "1"
            stream.cancel()
            await asyncio.wait([stream])
            assert (await client.get("/v1/models", headers=bearer("s"))).status_code == 200

    asyncio.run(main())


# Logs and descriptions


def test_logs_have_the_name_of_a_key_and_never_the_key(
    models: Path, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(models)
    caplog.set_level(logging.DEBUG)
    keys = write(tmp_path / "keys", line("s3cr3t-key", "shop"), line("m0re", "prometheus", "metrics"))
    client = serve(models=models, api_keys_file=keys, access_log=True, admin_key="r00t-key")
    client.post("/predict/tiny", content=BRIGHT, headers=PNG | bearer("s3cr3t-key"))
    client.post("/predict/tiny", headers={"x-api-key": "unkn0wn-key"})
    client.get("/metrics", headers=bearer("r00t-key"))
    written = "".join(JsonFormatter().format(one) for one in caplog.records)
    assert '"key": "shop"' in written
    assert '"key": "INFERD_ADMIN_KEY"' in written
    shown = written + client.get("/metrics", headers=bearer("m0re")).text
    assert not any(secret in shown for secret in ("s3cr3t", "unkn0wn", "r00t-key", "m0re"))


def test_the_description_says_which_calls_need_a_key(closed: TestClient, client: TestClient) -> None:
    document = closed.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    both: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
    for path, calls in document["paths"].items():
        for call in calls.values():
            if ROUTES[path] is None:
                assert "security" not in call
            else:
                assert call["security"] == both + ([{}] if path in ("/translate", "/detect") else [])
    opened = client.get("/openapi.json").json()["paths"]
    assert opened["/predict/{model}"]["post"]["security"] == [*both, {}]
    assert opened["/v2/repository/models/{model}/load"]["post"]["security"] == both
