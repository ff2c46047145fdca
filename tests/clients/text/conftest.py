from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.clients.serving import Served
from tests.clients.text.callers import Caller


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest, texts: Served, runner: asyncio.Runner) -> Iterator[Caller]:
    """One of OpenAI's clients."""
    caller = Caller(request.param, texts, runner)
    yield caller
    caller.close()


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
def visitor(request: pytest.FixtureRequest, crowded: Served, runner: asyncio.Runner) -> Iterator[Caller]:
    """One of OpenAI's clients, of the server that can do little at once."""
    caller = Caller(request.param, crowded, runner)
    yield caller
    caller.close()
