"""The streams as they are on the wire: by curl, and by httpx while they come."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import httpx
import pytest

from tests.clients.serving import Served
from tests.clients.text.callers import SLOW, TINY

STREAMS = {
    "predict": ("/predict/{model}", {"inputs": "hello", "stream": True}, "max_new_tokens"),
    "openai": ("/v1/completions", {"model": "{model}", "prompt": "hello", "stream": True}, "max_tokens"),
    "generate_stream": ("/v2/models/{model}/generate_stream", {"text_input": "hello"}, "max_tokens"),
}

every_stream = pytest.mark.parametrize("dialect", list(STREAMS))


def asked(served: Served, dialect: str, length: int, model: str = TINY) -> tuple[str, dict[str, Any]]:
    path, body, name = STREAMS[dialect]
    content = {key: model if value == "{model}" else value for key, value in body.items()}
    parameters = {name: length, "seed": 1}
    content |= parameters if dialect == "openai" else {"parameters": parameters}
    return served.server.url + path.format(model=model), content


@every_stream
def test_curl_reads_an_event_a_token(texts: Served, dialect: str) -> None:
    url, body = asked(texts, dialect, 12)
    command = ["curl", "-sS", "-i", "-N", "--json", json.dumps(body), url]
    head, _, content = subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "content-type: text/event-stream" in head
    events = content.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert (events[-1] == "data: [DONE]") == (dialect == "openai")
    assert len(events) == 12 + (dialect == "openai")


@every_stream
def test_the_head_comes_with_the_first_token_and_says_who_answers(texts: Served, dialect: str) -> None:
    url, body = asked(texts, dialect, 4000, SLOW)
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert (response.headers["x-inferd-model"], response.headers["x-inferd-version"]) == (SLOW, "1")
        assert response.headers["x-request-id"]
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")  # and the rest is not waited for


@every_stream
def test_an_error_in_mid_stream_is_its_last_event(texts: Served, dialect: str) -> None:
    url, body = asked(texts, dialect, 4000, SLOW)
    with httpx.stream("POST", url, json=body, headers={"x-request-timeout-ms": "700"}, timeout=60) as response:
        assert response.status_code == 200
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert len(events) > 3
    assert not any("error" in event for event in events[:-1])
    assert "deadline" in str(events[-1]["error"])
