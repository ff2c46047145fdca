"""The API, asked without a browser: what the page shows must be what it says."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def ask(url: str, path: str, content: Any = None, *, kind: str = "application/json", **headers: str) -> Any:
    """The answer as JSON; `content` is bytes, or goes as JSON."""
    return json.loads(fetch(url, path, content, kind=kind, **headers))


def fetch(url: str, path: str, content: Any = None, *, kind: str = "application/json", **headers: str) -> bytes:
    """The answer as it comes."""
    body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{url}/{path}", body, {"content-type": kind, **given})
    with urllib.request.urlopen(request, timeout=60) as response:
        found: bytes = response.read()
        return found


def picture(url: str, label: str = "Coat", seed: int = 3) -> bytes:
    """A picture that the server's own generator draws."""
    return fetch(url, "predict/fashion-gan", {"parameters": {"label": label, "seed": seed}}, accept="image/png")
