"""All of the playground's routes."""

from __future__ import annotations

from fastapi import APIRouter

from service.protocols.web import about, page
from service.repository.repository import Repository


def router(repository: Repository, *, max_body_bytes: int) -> APIRouter:
    """The page, and what it asks that no dialect tells."""
    routes = APIRouter()
    routes.include_router(page.router())
    routes.include_router(about.router(repository, max_body_bytes=max_body_bytes))
    return routes
