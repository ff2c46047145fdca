"""A supervisor in this process, with real workers; `tests/e2e` has those that are seen through the server's port."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.settings import Settings
from service.workers.supervisor import Supervisor


@asynccontextmanager
async def running(models: Path, *, hung_after_s: float) -> AsyncIterator[None]:
    settings = Settings(models=models, port=0, grpc_port=0, workers=2)
    serving = asyncio.create_task(Supervisor(settings, hung_after_s=hung_after_s).run())
    try:
        async with asyncio.timeout(60):
            yield
            os.kill(os.getpid(), signal.SIGTERM)
            assert await serving == 0
    finally:
        serving.cancel()


async def logged(caplog: pytest.LogCaptureFixture, pattern: str, *, times: int = 1) -> list[str]:
    """Wait until so many messages have `pattern`, and return the first group of each."""
    while len(found := re.findall(pattern, "\n".join(caplog.messages))) < times:  # noqa: ASYNC110 - other processes log
        await asyncio.sleep(0.01)
    return found


def test_a_worker_that_hangs_is_replaced(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with running(models, hung_after_s=0.4):
            (hangs,) = await logged(caplog, r"worker 0 \(process (\d+)\) serves")
            await logged(caplog, r"worker (1) \(process \d+\) serves")
            os.kill(int(hangs), signal.SIGSTOP)
            await logged(caplog, r"(worker 0 has not answered for 0\.4 s)")
            await logged(caplog, r"worker 0 ended with (SIGKILL); it is replaced")
            assert (await logged(caplog, r"worker 0 \(process (\d+)\) serves", times=2))[1] != hangs

    asyncio.run(scenario())
    assert "worker 1 has not answered" not in caplog.text
