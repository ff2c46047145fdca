"""The application of one worker process: the one place that constructs its collaborators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version as package_version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import start_http_server
from starlette.exceptions import HTTPException

from service.errors import InferdError
from service.metrics import Metrics
from service.observability import Observability
from service.protocols import health, open_inference, predict
from service.protocols.errors import answer_http_exception, answer_inferd_error, answer_unexpected
from service.repository.bundle import LoadOptions
from service.repository.repository import QueueLimits, Repository
from service.runtime.devices import choose_providers, cpu_quota
from service.settings import Settings
from service.tasks.base import TaskLimits
from service.threads import BoundedThreads

logger = logging.getLogger(__name__)

_MOST_THREADS = 8
_DECODINGS_PER_THREAD = 32


def load_options(settings: Settings) -> LoadOptions:
    """How `settings` ask for bundles to be loaded.

    Raises:
        ValueError: the device asked for is not to be had.
    """
    return LoadOptions(
        providers=choose_providers(settings.device, tensorrt=settings.tensorrt),
        insist=settings.device == "cuda",
        threads=settings.threads or min(cpu_quota(), _MOST_THREADS),
        max_batch_rows=settings.max_batch_rows,
        limits=TaskLimits(max_pixels=settings.max_pixels),
    )


def create_app(settings: Settings) -> FastAPI:
    """Make the application; models are loaded in the background once it starts.

    Args:
        settings: all of them; nothing else is read from the environment.

    Returns:
        The application; `app.state.repository` is what a server tells to drain.

    Raises:
        ValueError: the device asked for is not to be had.
    """
    version = package_version("inferd")
    metrics = Metrics(version)
    decoders = cpu_quota()
    repository = Repository(
        settings.models,
        options=load_options(settings),
        queue=QueueLimits(max_s=settings.max_queue_s, max_rows=settings.max_queue_rows),
        metrics=metrics,
        decoding=BoundedThreads(decoders, max_pending=decoders * _DECODINGS_PER_THREAD, name="decode"),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        exporter = None
        if settings.metrics_port is not None:
            exporter, _thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
        try:
            repository.discover()
            async with asyncio.TaskGroup() as background:
                loading = background.create_task(repository.load())
                yield
                loading.cancel()
                await repository.close()
        finally:
            if exporter:
                exporter.shutdown()
                exporter.server_close()

    # FastAPI as it is, but the page at /docs comes from here and not from somebody's network.
    app = FastAPIOffline(title="inferd", version=version, lifespan=lifespan, redoc_url=None)
    app.state.repository = repository
    app.include_router(health.router(repository, metrics, with_metrics=settings.metrics_port is None))
    app.include_router(predict.router(repository, max_body_bytes=settings.max_body_bytes))
    app.include_router(open_inference.router(repository, version=version, max_body_bytes=settings.max_body_bytes))
    app.add_exception_handler(InferdError, answer_inferd_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(Exception, answer_unexpected)
    app.add_middleware(
        Observability,
        metrics=metrics,
        is_draining=lambda: repository.is_draining,
        access_log=settings.access_log,
    )
    return app
