from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.clients.serving import Served
from tests.clients.triton.callers import KINDS, Caller, Loop


def pytest_configure(config: pytest.Config) -> None:
    # What Triton's client of asyncio does with aiohttp: large bodies are handed to it as they are, and the bodies of
    # answers that are told by their status alone are left unread.
    for message in ("Sending a large body directly with raw bytes", "Unclosed connection"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    with closing(Loop()) as loop:
        yield loop


@pytest.fixture(scope="session", params=KINDS)
def caller(request: pytest.FixtureRequest, served: Served, loop: Loop) -> Iterator[Caller]:
    """One client for all requests of a kind."""
    caller = Caller(request.param, served, loop)
    yield caller
    caller.close()


@pytest.fixture(params=KINDS)
def visitor(request: pytest.FixtureRequest, bounded: Served, loop: Loop) -> Iterator[Caller]:
    """A client of the server that takes little and is closed to control."""
    caller = Caller(request.param, bounded, loop)
    yield caller
    caller.close()
