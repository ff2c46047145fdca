"""Web pages from elsewhere: nothing for them unless it is said, and then for those origins alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.bundles import make_bundle
from tests.conftest import Serve
from tests.service.requests import BRIGHT, PNG
from tests.service.security.keys import bearer, line, write

PAGE = {"origin": "https://app.example"}
PREFLIGHT = {
    **PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "x-api-key,x-stainless-os",
}
PATHS = ["/predict/tiny", "/v2/models/tiny", "/v1/models", "/health/ready", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_unless_it_is_said_no_answer_is_for_pages_from_elsewhere(client: TestClient, path: str) -> None:
    for answer in (client.get(path, headers=PAGE), client.options(path, headers=PREFLIGHT)):
        assert not [name for name in answer.headers if name.startswith("access-control-") or name == "vary"]
    assert client.options(path, headers=PREFLIGHT).status_code in (404, 405)


def test_pages_of_an_origin_may_call_what_goes_the_short_way_and_what_does_not(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models, cors_origins="https://app.example,http://localhost:3000")
    answers = [
        client.post("/predict/tiny", content=BRIGHT, headers=PNG | PAGE),
        client.get("/predict/tiny", headers=PAGE),
        client.post("/predict/tiny", content=b"none", headers=PNG | PAGE),
        client.get("/nothing", headers=PAGE),
    ]
    assert [one.status_code for one in answers] == [200, 200, 415, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-expose-headers"] == "*"
        assert "x-request-id" in answer.headers
        assert "access-control-allow-credentials" not in answer.headers
    asked = client.options("/predict/tiny", headers=PREFLIGHT)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://app.example"
    assert asked.headers["access-control-allow-headers"] == "x-api-key,x-stainless-os"
    other = client.get("/predict/tiny", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = client.options("/predict/tiny", headers={**PREFLIGHT, "origin": "https://evil.example"})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


def test_any_origin_may_be_let_in(models: Path, serve: Serve) -> None:
    make_bundle(models)
    answer = serve(models=models, cors_origins="*").post("/predict/tiny", content=BRIGHT, headers=PNG | PAGE)
    assert answer.headers["access-control-allow-origin"] == "*"


def test_a_page_is_asked_for_its_key_and_can_read_why_it_was_refused(
    models: Path, serve: Serve, tmp_path: Path
) -> None:
    make_bundle(models)
    keys = write(tmp_path / "keys", line("s", "page"))
    client = serve(models=models, cors_origins="https://app.example", api_keys_file=keys)
    assert client.options("/predict/tiny", headers=PREFLIGHT).status_code == 200  # browsers send no key with it
    refused = client.get("/predict/tiny", headers=PAGE)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    assert client.get("/predict/tiny", headers=PAGE | bearer("s")).status_code == 200
