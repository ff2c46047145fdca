"""Keys as tests have them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path


def line(secret: str, name: str, *scopes: str, **limits: object) -> str:
    """The line of a file that lets `secret` in."""
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    return json.dumps({"name": name, "sha256": sha256, "scopes": scopes or ["predict"], **limits})


def write(path: Path, *lines: str) -> Path:
    """Put such lines in the place of what a file had, at once."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    new.chmod(0o600)
    os.replace(new, path)
    return path


def bearer(secret: str) -> Mapping[str, str]:
    """The header that brings a key."""
    return {"authorization": f"Bearer {secret}"}
