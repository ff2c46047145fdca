"""The application of one worker process: the one place that constructs its collaborators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.metadata import version as package_version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import start_http_server
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from service.bodies import Bodies
from service.connections.polling import BusyPolling
from service.errors import InferdError
from service.machine import cpu_quota
from service.metrics import Metrics
from service.observability import Observability
from service.protocols import health, libretranslate, openai, predict
from service.protocols.detection import Detector
from service.protocols.errors import answer_http_exception, answer_inferd_error, answer_unexpected
from service.protocols.express import Express
from service.protocols.gate import Gate, describe_keys
from service.protocols.open_inference import generate, rest
from service.protocols.open_inference.grpc.server import GrpcServer
from service.protocols.open_inference.infer import Infer
from service.protocols.web import playground
from service.repository.bundle import LoadOptions
from service.repository.control import Control
from service.repository.controller import Controller, ControlOptions
from service.repository.local_control import LocalControl
from service.repository.profiles import Profiling
from service.repository.repository import QueueLimits, Repository
from service.runtime.runs import Runs
from service.security.access import Access
from service.security.tls import Tls
from service.security.usage import Usage
from service.security.watching import watch
from service.settings import Settings
from service.threads import BoundedThreads
from service.tracing import Tracing
from service.workers.children import python
from service.workers.trial import TrialProcess

logger = logging.getLogger(__name__)

_DECODINGS_PER_THREAD = 128


def create_app(
    settings: Settings,
    *,
    control: Control | None = None,
    usage: Usage | None = None,
    runs: Runs | None = None,
    tries_at_start: bool = False,
) -> FastAPI:
    """Make the application; models are loaded in the background once it starts.

    Args:
        settings: all of them; nothing else is read from the environment.
        control: the server as a whole, where this process is one worker of several and is told what to serve; None
            where it is the whole server and decides itself.
        usage: likewise, what keys have used in all workers together.
        runs: likewise, where this worker tells what it runs.
        tries_at_start: whether what is there at the start goes through a process of its own too, as a model that ends
            it would end this one.

    Returns:
        The application. Its `state` has what a server needs to drive it: `repository`, to tell that it drains and what
        to serve, `grpc`, to start it beside HTTP, `tls`, for connections of both, `quick`, which is shown requests
        before the application is, and `metrics`.

    Raises:
        ValueError: the device asked for is not to be had, a file of profiles, keys or certificates says none, or what
            traces need is not installed.
        OSError: such a file can't be read.
    """
    version = package_version("inferd")
    metrics = Metrics(version)
    runs = runs or Runs(longest_s=settings.max_run_s)
    decoders = max(1, cpu_quota() // settings.processes)
    repository = Repository(
        options=replace(LoadOptions.of(settings), runs=runs),
        profiling=Profiling.of(settings),
        queue=QueueLimits(max_s=settings.max_queue_s, max_rows=max(1, settings.max_queue_rows // settings.processes)),
        metrics=metrics,
        decoding=BoundedThreads(decoders, max_pending=decoders * _DECODINGS_PER_THREAD, name="decode"),
        let_go_s=settings.let_go_timeout_s,
        has_cores_to_spare=settings.processes < cpu_quota(),
    )
    metrics.watch_readiness(lambda: repository.is_ready)
    controller = None
    if control is None:
        trial = TrialProcess(python("trial"), settings, timeout_s=settings.load_timeout_s)
        controller = Controller(settings.models, ControlOptions.of(settings), trial=trial)
        metrics.watch_quarantine(controller.count_quarantined)
        control = LocalControl(controller, repository, metrics)
    access = Access.of(settings, metrics, usage)
    tls = Tls.of(settings)
    tracing = Tracing.of(settings, version)
    grpc = None
    if settings.grpc_port is not None:
        grpc = GrpcServer(
            repository=repository,
            control=control,
            access=access,
            tls=tls,
            metrics=metrics,
            version=version,
            host=settings.host,
            port=settings.grpc_port,
            max_connections=max(1, settings.max_connections // settings.processes),
            message_timeout_s=settings.body_timeout_s,
            max_body_bytes=settings.max_body_bytes,
            share_port=controller is None,
            access_log=settings.access_log,
            tracing=tracing,
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            if tracing:
                running.push_async_callback(tracing.close)
            running.push_async_callback(repository.close)
            watched = [one for one in (access.watched, tls and tls.watched) if one]
            if watched:
                watching = asyncio.create_task(watch(watched))
                running.callback(watching.cancel)
            if settings.metrics_port is not None and controller:  # else it is the supervisor's
                exporter, _thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
                logger.info("metrics are served on %s:%d", settings.host, exporter.server_port)
                running.callback(exporter.server_close)
                running.callback(exporter.shutdown)
            if grpc:  # the server starts it where it starts to listen
                running.push_async_callback(grpc.stop, settings.drain_timeout_s)
            if controller:
                await controller.join(repository)
                await controller.discover()
                background = await running.enter_async_context(asyncio.TaskGroup())
                loading = background.create_task(controller.start(tried=tries_at_start))
                running.push_async_callback(controller.close)
                running.callback(loading.cancel)
            yield

    # FastAPI as it is, but the page at /docs comes from here and not from somebody's network.
    # Its own telemetry asks the environment at every request whether anybody wants it.
    app = FastAPIOffline(
        title="inferd",
        version=version,
        lifespan=lifespan,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.quick = None
    app.state.repository, app.state.grpc, app.state.tls, app.state.metrics = repository, grpc, tls, metrics
    limit = settings.max_body_bytes
    app.state.bodies = Bodies(max(limit, settings.max_inflight_bytes // settings.processes))
    calls = (predict.Predict(repository, max_body_bytes=limit), Infer(repository, max_body_bytes=limit))
    routers = [
        health.router(repository, control, with_metrics=settings.metrics_port is None),
        predict.router(repository, calls[0], max_body_bytes=limit),
        rest.router(repository, control, calls[1], version=version, max_body_bytes=limit),
        openai.router(repository, max_body_bytes=limit),
        generate.router(repository, max_body_bytes=limit),
        libretranslate.router(
            repository,
            Detector(),
            access=access,
            max_body_bytes=limit,
            max_text_characters=settings.max_text_characters,
        ),
        *([playground.router(repository, max_body_bytes=limit)] if settings.playground == "on" else []),
    ]
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(InferdError, answer_inferd_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(Exception, answer_unexpected)
    # What is added last comes first.
    app.add_middleware(Gate, access=access)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=("*",),
        )
    app.add_middleware(
        Observability,
        metrics=metrics,
        bodies=app.state.bodies,
        is_draining=lambda: repository.is_draining,
        access_log=settings.access_log,
        tracing=tracing,
    )
    _describe_keys(app, access)
    # Logs of accesses and traces are made of what passes the layers above.
    if not (settings.access_log or tracing):
        app.state.quick = Express(
            calls,
            repository=repository,
            access=access,
            metrics=metrics,
            bodies=app.state.bodies,
            polling=BusyPolling(runs.are_none),
        )
    return app


def _describe_keys(app: FastAPI, access: Access) -> None:
    """Have the description of the API say which calls need a key."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        describe_keys(document, access)
        return document

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own way to change it
