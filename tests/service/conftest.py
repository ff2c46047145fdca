from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    """Let a test configure logging for the whole process, and undo it."""
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, level, disabled = root.handlers[:], root.level, access.disabled
    root.handlers = []
    yield
    logging.captureWarnings(False)
    root.handlers, access.disabled = handlers, disabled
    root.setLevel(level)
