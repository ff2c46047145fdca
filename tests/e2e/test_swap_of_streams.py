"""A stream that is on its way when its version is replaced ends on that version, and within a bound."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, running_server
from tests.e2e.swapping import call, connect
from tests.text_bundles import make_text_bundle

STREAMS = 6
SEEDS = {1: 3, 2: 4}
"""Of each version's weights: they say different things."""


@pytest.fixture
def server(bound_s: float, tmp_path: Path) -> Iterator[Server]:
    for version, seed in SEEDS.items():
        make_text_bundle(tmp_path, version=version, seed=seed, idle_steps=100)  # about 14 ms a token
    settings = {"model_control": "explicit", "admin_key": "key", "let_go_timeout_s": bound_s}
    with running_server(models=tmp_path, workers=2, **settings) as server:
        load(server, 1)
        yield server


def load(server: Server, version: int) -> None:
    policy = {"version_policy": {"specific": {"versions": [version]}}}
    with closing(connect(server)) as connection:
        body = {"parameters": {"config": json.dumps(policy)}}
        assert call(connection, "/v2/repository/models/tiny-text/load", body)[0] == 200


class Stream:
    """A text that comes in events, over a connection of its own."""

    def __init__(self, server: Server, tokens: int) -> None:
        self._connection = connect(server)
        parameters = {"max_new_tokens": tokens, "do_sample": False}
        body = json.dumps({"inputs": "a", "parameters": parameters, "stream": True})
        self._connection.request("POST", "/predict/tiny-text", body, {"content-type": "application/json"})
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        self.version = self._response.getheader("x-inferd-version")
        self.first = self._next()

    def rest(self) -> list[dict[str, Any]]:
        events = [self.first]
        while (event := self._next()) is not None:
            events.append(event)
        self._response.close()
        self._connection.close()
        return events

    def _next(self) -> Any:
        while line := self._response.readline():
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
        return None


def text_of(server: Server, tokens: int) -> str:
    """What the version that serves says."""
    with closing(connect(server)) as connection:
        parameters = {"max_new_tokens": tokens, "do_sample": False}
        status, answer = call(connection, "/predict/tiny-text", {"inputs": "a", "parameters": parameters})
        assert status == 200, answer
        text: str = answer[0]["generated_text"]
        return text


@pytest.mark.parametrize("bound_s", [60.0])
def test_a_stream_ends_on_the_version_on_which_it_began(server: Server) -> None:
    tokens = 40
    expected = text_of(server, tokens)
    streams = [Stream(server, tokens) for _ in range(STREAMS)]
    load(server, 2)
    assert {stream.version for stream in streams} == {"1"}
    assert {stream.rest()[-1]["generated_text"] for stream in streams} == {expected}
    after = [Stream(server, tokens) for _ in range(STREAMS)]
    assert {stream.version for stream in after} == {"2"}
    assert expected not in {stream.rest()[-1]["generated_text"] for stream in after}


@pytest.mark.parametrize("bound_s", [0.5])
def test_a_stream_that_takes_too_long_ends_with_an_error_and_others_go_on(server: Server, bound_s: float) -> None:
    streams = [Stream(server, 4000) for _ in range(STREAMS)]  # a minute
    load(server, 2)
    began = time.monotonic()
    for stream in streams:
        last = stream.rest()[-1]
        assert last["error_type"] == "not_ready"
        assert "version 1 serves no longer" in last["error"]
    assert time.monotonic() - began < bound_s + 5
    after = Stream(server, 5)
    assert (after.version, len(after.rest())) == ("2", 5)
