"""What a client does with texts in any dialect: it reads events, scores, and goes away when it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.conftest import loaded
from tests.service.requests import parsed
from tests.text_bundles import Reference, decode, encode, make_text_bundle

PATIENCE_S = 30
LONG = 4000
"""So many tokens are not there before a test has done something about them."""


def likeliest(prompt: str, length: int, seed: int = 3) -> str:
    """The likeliest continuation, by the network in float64; `seed` is of its weights."""
    tokens = encode(prompt)
    for _ in range(length):
        *_, logits = Reference(seed).logits(tokens)
        tokens.append(int(logits.argmax()))
    return decode(tokens[len(prompt) :])


def scores_of(text: str) -> list[float]:
    """The log-probability of each character but the first, by the network in float64."""
    tokens = encode(text)
    places = Reference().logprobs(tokens)
    return [float(place[token]) for place, token in zip(places, tokens[1:], strict=False)]


def best_after(text: str, count: int) -> list[dict[str, float]]:
    """After each character of `text`, the `count` likeliest with their log-probabilities, by the same network."""
    places = Reference().logprobs(encode(text))
    return [{decode([int(token)]): float(place[token]) for token in (-place).argsort()[:count]} for place in places]


def events_of(answer: httpx.Response) -> list[Any]:
    """What each event of a whole stream holds."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    return events_in(answer.content)


def events_in(content: bytes) -> list[Any]:
    """What each event holds; the last of OpenAI's is a word, and stays one."""
    *events, rest = content.decode().split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    contents = [event.removeprefix("data: ") for event in events]
    return [content if content == "[DONE]" else json.loads(content) for content in contents]


class Visit:
    """A client in ASGI's own words: what has come, whenever it is looked at.

    Attributes:
        status: of the answer, once it has one.
        headers: of the answer.
        content: so far.
    """

    def __init__(self, body: object) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.content = b""
        self._body = json.dumps(body).encode()
        self._sent = False
        self._left = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended = False

    def leave(self) -> None:
        """Go away."""
        self._left.set()

    async def read(self, events: int) -> list[Any]:
        """Wait for so many events, and return all that are there."""
        while self.content.count(b"\n\n") < events:
            assert not self._ended, self.content
            self._changed.clear()
            await self._changed.wait()
        return events_in(self.content)

    async def read_all(self) -> list[Any]:
        """Wait for the end, and return every event."""
        while not self._ended:
            self._changed.clear()
            await self._changed.wait()
        return events_in(self.content)

    async def receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.content += message["body"]
            self._ended = not message.get("more_body", False)
        self._changed.set()


@asynccontextmanager
async def visiting(app: FastAPI, path: str, body: object, **headers: str) -> AsyncIterator[Visit]:
    """Ask something, and go away at the end if not before; the server is then done with it."""
    visit = Visit(body)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")]
        + [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    answering = asyncio.create_task(app(scope, visit.receive, visit.send))
    try:
        yield visit
    finally:
        visit.leave()
        await answering


class Slowly:
    """A running app with a model that takes about 14 ms a token, and no more texts at once than it is told."""

    name = "slow-text"

    def __init__(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client

    async def series(self) -> dict[str, float]:
        return parsed((await self.client.get("/metrics")).text)

    async def metric(self, name: str, **labels: str) -> float:
        """One series of the model, whose other labels are these."""
        wanted = {"model": self.name, "version": "1", **labels}
        inside = ",".join(f'{label}="{wanted[label]}"' for label in sorted(wanted))
        return (await self.series())[f"{name}{{{inside}}}"]

    async def until(self, name: str, value: float) -> None:
        """Wait until a series of the model has this value."""
        while await self.metric(name) != value:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.002)


@asynccontextmanager
async def slowly(models: Path, **changes: Any) -> AsyncIterator[Slowly]:
    """Serve the slow model out of `models`; `changes` are settings."""
    make_text_bundle(models, Slowly.name, idle_steps=100)
    app = create_app(Settings(**{"models": models, "threads": 1, "grpc_port": None, **changes}))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        asyncio.timeout(PATIENCE_S),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await loaded(app)
        yield Slowly(app, client)
