"""Liveness, readiness and metrics, for whoever runs the server."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from service.protocols.requests import json_response
from service.repository.control import Control
from service.repository.repository import Repository


def router(repository: Repository, control: Control, *, with_metrics: bool) -> APIRouter:
    """The routes; `with_metrics` where `/metrics` has no port of its own."""
    routes = APIRouter(tags=["health"])

    async def live() -> Response:
        """Answer 200 while the process lives."""
        return json_response({"live": True})

    async def ready() -> Response:
        """Answer 200 when every model is loaded, replayed and warm, and the process is not ending; else 503."""
        response = json_response(
            {
                "ready": repository.is_ready,
                "draining": repository.is_draining,
                "models": [msgspec.structs.asdict(entry) for entry in repository.entries()],
            }
        )
        response.status_code = 200 if repository.is_ready else 503
        return response

    async def scrape() -> Response:
        """Every metric of all workers, in Prometheus's text format."""
        return Response(await control.render_metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    for path, answer in (("/health/live", live), ("/health/ready", ready)):
        routes.add_api_route(path, answer, response_model=None)
        routes.add_api_route(path, answer, methods=["HEAD"], response_model=None, include_in_schema=False)
    if with_metrics:
        routes.add_api_route("/metrics", scrape, response_model=None)
    return routes
