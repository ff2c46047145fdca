"""Texts over real sockets: who goes away in mid-stream, and a server that is told to stop."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, running_server
from tests.e2e.swapping import connect, wait_until
from tests.text_bundles import make_text_bundle

LONG = 4000
"""Tokens of a minute."""
STREAMS = {
    "predict": ("/predict/slow-text", {"inputs": "a", "stream": True}, "max_new_tokens"),
    "openai": ("/v1/completions", {"model": "slow-text", "prompt": "a", "stream": True}, "max_tokens"),
    "generate": ("/v2/models/slow-text/generate_stream", {"text_input": "a"}, "max_tokens"),
}

TOLD = {
    "predict": lambda event: event["token"]["text"],
    "openai": lambda event: event["choices"][0]["text"],
    "generate": lambda event: event["text_output"],
}
"""What is new in an event."""

every_dialect = pytest.mark.parametrize("dialect", list(STREAMS))
with_any_workers = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])


class Stream:
    """A text that comes in events, over a connection of its own; its first event is there."""

    def __init__(self, server: Server, dialect: str, length: int) -> None:
        path, body, name = STREAMS[dialect]
        parameters = {name: length, "seed": 1}
        content = body | (parameters if dialect == "openai" else {"parameters": parameters})
        self.connection = connect(server)
        self.connection.request("POST", path, json.dumps(content), {"content-type": "application/json"})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.readline().startswith(b"data: ")

    def rest(self) -> list[Any]:
        """All events after the first."""
        found = events(self.response)
        self.connection.close()
        return found

    def close(self, *, abruptly: bool = False) -> None:
        """Go away; `abruptly`: with a reset in place of an orderly end."""
        if abruptly:
            linger = struct.pack("ii", 1, 0)
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.response.close()
        self.connection.close()


def events(response: http.client.HTTPResponse) -> list[Any]:
    """What is left of a stream."""
    lines = [line.removeprefix("data: ") for line in response.read().decode().split("\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(server: Server, length: int) -> str:
    """The whole text, in one answer."""
    connection = connect(server)
    body = {"inputs": "a", "parameters": {"max_new_tokens": length, "seed": 1}}
    connection.request("POST", "/predict/slow-text", json.dumps(body), {"content-type": "application/json"})
    (answer,) = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["generated_text"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_text_bundle(folder, "slow-text", idle_steps=100)  # about 14 ms a token
    return folder


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two workers"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[Server]:
    with running_server(models=models, workers=request.param) as server:
        yield server


@every_dialect
@pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_away_in_mid_stream_frees_its_slot(server: Server, dialect: str, abruptly: bool) -> None:
    def cancelled() -> float:
        return server.metric("inferd_request_failures_total", 'reason="cancelled"')

    before = cancelled()
    streams = [Stream(server, dialect, LONG) for _ in range(4)]
    assert server.metric("inferd_live_slots") == 4
    for stream in streams:
        stream.close(abruptly=abruptly)
    wait_until(lambda: server.metric("inferd_live_slots") == 0)
    wait_until(lambda: cancelled() == before + 4)
    assert server.metric("inferd_inflight") == 0
    assert len(text_of(server, 3)) == 3


def test_a_connection_goes_on_after_its_stream(server: Server) -> None:
    connection = connect(server)
    for _ in range(3):
        body = {"inputs": "a", "parameters": {"max_new_tokens": 5, "seed": 1}, "stream": True}
        connection.request("POST", "/predict/slow-text", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert events(response)[-1]["generated_text"] == text_of(server, 5)
    connection.close()


@with_any_workers
def test_streams_that_are_on_their_way_at_sigterm_end_whole(models: Path, workers: int) -> None:
    length = 60
    with running_server(models=models, workers=workers) as server:
        whole = text_of(server, length)
        streams = [(dialect, Stream(server, dialect, length)) for dialect in STREAMS]
        server.terminate()
        for dialect, stream in streams:
            rest = stream.rest()
            assert len(rest) == length - 1
            assert "".join(map(TOLD[dialect], rest)) == whole[1:]
        assert server.wait() == 0


@with_any_workers
def test_a_stream_that_takes_longer_than_draining_may_ends_with_the_server(models: Path, workers: int) -> None:
    with running_server(models=models, workers=workers, drain_timeout_s=0.5) as server:
        stream = Stream(server, "predict", LONG)
        server.terminate()
        with pytest.raises(http.client.IncompleteRead):
            stream.rest()
        stream.close()
        assert server.wait() == 0
