from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from starlette.testclient import TestClient

from service import errors
from service.connections.protocol import Refusal
from service.errors import InferdError, Overloaded
from service.metrics import FAILURES
from service.protocols.errors import STATUS, status_of
from service.repository.repository import Repository
from tests.conftest import Serve

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
ERRORS = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, InferdError)]

MEANT = {
    "BadInput": 400,
    "Invalid": 422,
    "TooLarge": 413,
    "UnsupportedMediaType": 415,
    "Unsupported": 501,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "NotReady": 503,
    "Overloaded": 429,
    "LimitReached": 429,
    "DeadlineExceeded": 504,
    "Cancelled": 499,
    "RuntimeFailure": 500,
    "OutOfMemory": 500,
    "InferdError": 500,
    "BundleRefused": 400,
    "Quarantined": 400,
}


def error_of(kind: type[InferdError]) -> InferdError:
    if issubclass(kind, errors.BundleRefused):
        return kind("file", "problem")
    return kind("text", retry_after_s=1.0) if issubclass(kind, Overloaded) else kind("text")


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_status_and_a_reason_for_the_metrics(kind: type[InferdError]) -> None:
    assert status_of(error_of(kind)) == MEANT[kind.__name__]
    assert kind.reason in FAILURES


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert errors.__doc__
    drawn = re.findall(r"^([│├└─ ]*)([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    parents: dict[int, str] = {}
    found = {}
    for branch, name in drawn:
        if name in MEANT:
            depth = len(branch) // 4
            parents[depth] = name
            found[name] = parents.get(depth - 1, "Exception")
    assert found == {kind.__name__: kind.__base__.__name__ for kind in ERRORS if kind.__base__}


def test_an_error_that_is_not_in_the_table_answers_as_its_nearest_ancestor() -> None:
    class StillTooLarge(errors.TooLarge):
        """One that nobody has thought of."""

    assert status_of(StillTooLarge("text")) == 413


def test_every_status_is_in_the_documentation() -> None:
    documented = set(re.findall(r"^\| (\d{3}) \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE))
    assert documented == {str(status) for status in (*STATUS.values(), *get_args(Refusal))}


@pytest.mark.parametrize("path", ["/nothing", "/predict", "/predict/", "/predict/tiny/versions", "/v2/models", "/v3"])
def test_a_path_where_there_is_nothing_is_answered_in_json(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].startswith("there is nothing at /")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/tiny/infer", "POST"),
        ("PUT", "/predict/tiny", "GET, POST"),
        ("PATCH", "/predict/tiny/versions/1", "GET, POST"),
        ("POST", "/health/live", "GET, HEAD"),
        ("DELETE", "/v2/models/tiny", "GET"),
        ("TRACE", "/docs", "GET"),
    ],
)
def test_a_wrong_method_is_answered_with_the_right_one(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert answer.json() == {"error": f"{method} is not allowed at {path}; allowed: {allowed}"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models", lambda message: {"message": message, "type": "server_error", "param": None, "code": None}),
        ("/v2/models/tiny/ready", lambda message: message),
    ],
)
def test_a_defect_of_ours_is_told_in_the_dialect_of_the_path_and_without_its_details(
    models: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str, body: Callable[[str], object]
) -> None:
    client = serve(models=models)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    for name in ("entries", "get"):
        monkeypatch.setattr(Repository, name, broken)
    answer = client.get(path, headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    message = "an unexpected error; the server's log has it under this request's id"
    assert answer.json() == {"error": body(message)}
