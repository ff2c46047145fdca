from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.observability import JsonFormatter, configure_logging, request_id
from tests.bundles import make_bundle
from tests.conftest import Serve
from tests.service.requests import BRIGHT, PNG, gained, metrics

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Give a function that reads the log since the test began, as an operator gets it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def defective(models: Path, serve: Serve) -> TestClient:
    """Serve the real app with one more route, that has a defect."""
    make_bundle(models)
    client = serve(models=models)

    async def defect() -> None:
        raise LookupError("a secret of the server")

    client.app.add_api_route("/predict/defect/now", defect)
    return client


# Requests have names


@pytest.mark.parametrize("identity", ["42", "a-b_c.d:e/f+g=", "x" * 128])
def test_the_id_that_a_client_gave_comes_back(client: TestClient, identity: str) -> None:
    for path in ("/health/live", "/nothing", "/v2/models/nobody"):
        assert client.get(path, headers={"x-request-id": identity}).headers["x-request-id"] == identity


@pytest.mark.parametrize("identity", ["", " ", "a b", "x" * 129, "a\tb", '{"a": 1}', "\u00e9", "a;b"])
def test_an_id_that_a_log_can_not_carry_is_replaced(client: TestClient, identity: str) -> None:
    found = client.get("/health/live", headers={"x-request-id": identity.encode("latin-1")}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", found)


def test_every_request_without_an_id_gets_one_of_its_own(client: TestClient) -> None:
    found = {client.get("/health/live").headers["x-request-id"] for _ in range(20)}
    assert len(found) == 20
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in found)


# Defects of ours


def test_a_defect_is_answered_with_the_id_and_without_its_details(defective: TestClient, lines: Lines) -> None:
    answer = defective.get("/predict/defect/now", headers={"x-request-id": "my-request"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "my-request"
    assert answer.json() == {"error": "an unexpected error; the server's log has it under this request's id"}
    (line,) = (line for line in lines() if line["logger"] == "inferd.access")
    assert line["level"] == "error"
    assert line["request_id"] == "my-request"
    assert line["status"] == 500


def test_a_defect_is_counted_as_the_servers_fault(defective: TestClient) -> None:
    before = metrics(defective)
    defective.get("/predict/defect/now")
    assert gained(before, metrics(defective), "inferd_requests_total", protocol="predict", code="500") == 1


def test_the_server_goes_on_after_a_defect(defective: TestClient) -> None:
    defective.get("/predict/defect/now")
    assert defective.post("/predict/tiny", content=BRIGHT, headers=PNG).status_code == 200


# Log lines


def test_a_clients_mistakes_are_not_logged(client: TestClient, lines: Lines) -> None:
    client.post("/predict/tiny", content=b"broken", headers=PNG)
    client.post("/predict/nobody")
    client.get("/nothing")
    client.post("/predict/tiny", content=BRIGHT, headers={**PNG, "x-request-timeout-ms": "0.0001"})
    assert [line for line in lines() if line["logger"].startswith(("service", "inferd"))] == []


def test_the_access_log_has_a_line_for_every_request_if_it_is_asked_for(
    models: Path, serve: Serve, lines: Lines
) -> None:
    make_bundle(models)
    client = serve(models=models, access_log=True)
    before = len(lines())
    client.post("/predict/tiny", content=BRIGHT, headers={**PNG, "x-request-id": "one"})
    client.get("/nothing", headers={"x-request-id": "two"})
    first, second = (line for line in lines()[before:] if line["logger"] == "inferd.access")
    assert first["request_id"] == "one"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/predict/tiny", 200)
    assert first["message"] == "POST /predict/tiny 200"
    assert first["level"] == "info"
    assert first["duration_ms"] > 0
    assert (second["request_id"], second["status"]) == ("two", 404)


def record_of(message: str, *arguments: object, level: int = logging.INFO, **others: Any) -> logging.LogRecord:
    record = logging.LogRecord("some.logger", level, "file.py", 1, message, arguments, others.pop("exc_info", None))
    for name, value in others.items():
        setattr(record, name, value)
    return record


def test_a_log_line_is_one_json_object() -> None:
    record = record_of("%s and\nmore \u00fc", "this", fields={"status": 200, "path": Path("x")})
    record.created, record.msecs = 1_800_000_000.25, 250.0
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "some.logger",
        "message": "this and\nmore \u00fc",
        "status": 200,
        "path": "x",
    }


def test_a_log_line_within_a_request_carries_its_id() -> None:
    token = request_id.set("seven")
    try:
        assert json.loads(JsonFormatter().format(record_of("text")))["request_id"] == "seven"
    finally:
        request_id.reset(token)
    assert "request_id" not in json.loads(JsonFormatter().format(record_of("text")))


def test_a_log_line_of_an_exception_has_its_traceback_in_the_one_object() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = record_of("text", level=logging.ERROR, exc_info=(type(error), error, error.__traceback__))
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["exception"]


@pytest.mark.usefixtures("_logging_as_it_was")
def test_what_is_severe_enough_goes_to_standard_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    logging.getLogger("any").info("not this")
    logging.getLogger("any").warning("but this")
    logging.getLogger("uvicorn.access").error("nor this")
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert json.loads(line)["message"] == "but this"


@pytest.mark.usefixtures("_logging_as_it_was")
def test_warnings_of_libraries_are_log_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging("info")
        warnings.warn("something is odd", UserWarning, stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "warning"
    assert "something is odd" in json.loads(line)["message"]
