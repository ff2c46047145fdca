from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.clients.kserve.callers import CALLERS, Caller
from tests.clients.serving import Served


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session", params=CALLERS, ids=lambda kind: kind.__name__.lower())
def caller(request: pytest.FixtureRequest, served: Served, runner: asyncio.Runner) -> Iterator[Caller]:
    """One of KServe's clients."""
    caller: Caller = request.param(served, runner)
    yield caller
    caller.close()
