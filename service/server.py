"""uvicorn, taught to end as an orchestrator expects: readiness off first, nothing lost, exit code 0."""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.settings import Settings

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """A server that drains on SIGTERM or SIGINT; a second signal ends it at once.

    Readiness goes off and answers say `Connection: close` for `drain_delay_s`, while everything is still admitted, so
    that whoever balances the load can look elsewhere. Then the listener closes, and what was accepted is finished
    within `drain_timeout_s`.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
            )
        )
        self._repository = app.state.repository
        self._delay_s = settings.drain_delay_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. The signal is handled here: uvicorn would raise it again at the end, and not exit with 0."""
        if self._repository.is_draining:
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: draining", signal.Signals(sig).name)
        self._repository.begin_drain()
        asyncio.get_running_loop().call_later(self._delay_s, self._close)

    def _close(self) -> None:
        self.should_exit = True
