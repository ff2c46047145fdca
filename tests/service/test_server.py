from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import pytest

from service.app import create_app
from service.server import DrainingServer
from service.settings import Settings
from tests import virtual_clock


def server_of(models: Path, **changes: float) -> DrainingServer:
    settings = Settings(models=models, port=0, **changes)
    return DrainingServer(create_app(settings), settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_readiness_at_once_and_closes_the_listener_after_the_delay(
    models: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        server = server_of(models, drain_delay_s=5.0)
        repository = server.config.app.state.repository
        assert not repository.is_draining
        server.handle_exit(number, None)
        assert repository.is_draining
        await asyncio.sleep(4.9)
        assert not server.should_exit
        await asyncio.sleep(0.2)
        assert server.should_exit
        assert not server.force_exit

    virtual_clock.run(main())
    assert f"{number.name}: draining" in caplog.text


def test_without_a_delay_the_listener_closes_at_once(models: Path) -> None:
    async def main() -> None:
        server = server_of(models)
        server.handle_exit(signal.SIGTERM, None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert server.should_exit
        assert not server.force_exit

    virtual_clock.run(main())


def test_a_second_signal_waits_for_nothing(models: Path) -> None:
    async def main() -> None:
        server = server_of(models, drain_delay_s=5.0)
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit
        assert server.force_exit

    virtual_clock.run(main())


@pytest.mark.parametrize(("given", "whole"), [(30.0, 30), (2.4, 2), (0.0, 1)])
def test_accepted_requests_have_the_drain_timeout_to_be_finished(models: Path, given: float, whole: int) -> None:
    assert server_of(models, drain_timeout_s=given).config.timeout_graceful_shutdown == whole


def test_connections_rest_for_longer_than_proxies_keep_them(models: Path) -> None:
    assert server_of(models).config.timeout_keep_alive > 60
