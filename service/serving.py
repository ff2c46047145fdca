"""What `inferd serve` runs: one process that does everything, or a supervisor with workers."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence

from uvicorn.loops.auto import auto_loop_factory

from service.app import create_app
from service.machine import keep_memory
from service.runtime.runs import Runs
from service.security.usage import Usage
from service.server import DrainingServer
from service.settings import Settings
from service.workers.channel import Channel
from service.workers.counts import Counts
from service.workers.remote import RemoteControl
from service.workers.worker import handlers

logger = logging.getLogger(__name__)

_LINGER_S = 0.2

_SWITCH_S = 0.0002
"""How long a thread waits before it asks another for the interpreter's lock (5 ms by default): one whose run has ended
should not wait for an event loop that has much to do, nor the loop for it."""

_LARGE_BYTES = 2 * 2**20
"""Of a block of memory, such as a large request's body, that goes back to the system as soon as it is free."""
_KEPT_BYTES = 32 * 2**20
"""Of smaller ones, that may be kept for the next request."""


def _prepare() -> None:
    """Set what concerns the process as a whole."""
    gc.freeze()  # of modules and what is in them nothing is ever let go, so nobody need look through it again
    sys.setswitchinterval(_SWITCH_S)
    keep_memory(blocks_below=_LARGE_BYTES, at_most=_KEPT_BYTES)


def serve_alone(settings: Settings) -> int:
    """Serve with this process; the exit code is 0 once it drained, 1 if it could not begin."""
    _prepare()
    server = DrainingServer(create_app(settings, tries_at_start=True), settings)
    server.run()
    return _end(server)


def serve_as_worker(
    settings: Settings,
    control: socket.socket,
    listeners: Sequence[socket.socket],
    counts: Counts,
    usage: Usage,
    runs: Runs,
) -> int:
    """Serve as one worker of several, until the supervisor says to end or is gone.

    Args:
        settings: of the server.
        control: the end of the control channel.
        listeners: shared with the other workers.
        counts: likewise: how many connections each has.
        usage: likewise: what keys have used.
        runs: of this process, told in memory that the supervisor sees.
    """
    _prepare()
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        server = runner.run(_work(settings, control, listeners, counts, usage, runs))
    return _end(server)


async def _work(
    settings: Settings,
    control: socket.socket,
    listeners: Sequence[socket.socket],
    counts: Counts,
    usage: Usage,
    runs: Runs,
) -> DrainingServer:
    channel = await Channel.over(control)
    control_of = RemoteControl(channel, load_timeout_s=settings.load_timeout_s)
    app = create_app(settings, control=control_of, usage=usage, runs=runs)
    server = DrainingServer(app, settings, shared=listeners, counts=counts)

    async def obey() -> None:
        await server.is_up.wait()
        methods = handlers(app.state.repository, app.state.metrics, accept=server.accept, stop=server.stop)
        await channel.serve(methods)
        if not server.should_exit:
            logger.error("the supervisor is gone: draining")
            server.stop()

    obeying = asyncio.create_task(obey())
    try:
        await server.serve()
    finally:
        obeying.cancel()
        channel.close()
    return server


def _end(server: DrainingServer) -> int:
    """The exit code; where threads work on for callers who were given up, the process ends without them."""
    if server.started and _threads_linger():
        logging.shutdown()
        os._exit(0)
    return 0 if server.started else 1


def _threads_linger() -> bool:
    """Whether threads still work that Python would wait for at exit; idle ones get a moment to end."""
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in threads:
        thread.join(_LINGER_S)
    return any(thread.is_alive() for thread in threads)
