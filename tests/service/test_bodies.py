from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from service.bodies import Bodies, count
from service.errors import Overloaded
from tests.bundles import make_bundle
from tests.conftest import Serve
from tests.service.requests import BRIGHT, PNG


def test_bodies_are_counted_until_their_requests_are_answered() -> None:
    bodies = Bodies(100)
    one: dict[str, Any] = {}
    other: dict[str, Any] = {}
    bodies.watch(one)
    bodies.watch(other)
    count(one, 40)
    count(one, 20)
    count(other, 40)
    assert bodies.held == 100
    with pytest.raises(Overloaded, match=r"100 bytes may be held \(INFERD_MAX_INFLIGHT_BYTES\)"):
        count(other, 1)
    bodies.release(one)
    count(other, 60)
    bodies.release(other)
    bodies.release(other)
    assert bodies.held == 0


def test_after_many_bytes_what_is_free_is_given_back_once_a_second_at_most() -> None:
    trimmed = threading.Semaphore(0)

    async def main() -> None:
        bodies = Bodies(2**30, trim=trimmed.release)
        bodies.hold(4 * 2**20)
        bodies.let_go(4 * 2**20)
        await asyncio.sleep(1.2)
        assert not trimmed.acquire(blocking=False), "they are not that many"
        for _ in range(10):
            bodies.pass_by(2**20)
        assert not trimmed.acquire(blocking=False)
        assert await asyncio.to_thread(trimmed.acquire, timeout=60)
        await asyncio.sleep(1.2)
        assert not trimmed.acquire(blocking=False)

    asyncio.run(main())


def test_where_nobody_counts_nothing_is_refused() -> None:
    count({}, 10**12)


def test_a_body_too_many_is_refused_with_a_time_to_come_again(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models)
    bodies: Bodies = client.app.state.bodies
    full: dict[str, Any] = {}
    bodies.watch(full)
    count(full, 256 * 2**20 - len(BRIGHT) + 1)
    answer = client.post("/predict/tiny", content=BRIGHT, headers=PNG)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "INFERD_MAX_INFLIGHT_BYTES" in answer.json()["error"]
    client.portal.call(bodies.release, full)
    assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).is_success
    assert bodies.held == 0
