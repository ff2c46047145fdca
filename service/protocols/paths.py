"""Paths of which parts vary. Their calls read those themselves: FastAPI takes longer over two than small models run."""

from __future__ import annotations

from typing import Any


def path_parameters(path: str) -> list[dict[str, Any]]:
    """What varies in a path, as OpenAPI describes it: of calls that read it themselves FastAPI does not know it."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
