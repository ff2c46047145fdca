from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.clients.models import (
    grow,
    identity,
    slow,
    write,
    write_classifier,
    write_image_model,
    write_models,
    write_text_model,
    write_translation_model,
)
from tests.clients.serving import KEY, Served, serving


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Served]]:
    """Give a function from a number of workers to a server with so many, started once."""
    with ExitStack() as running:

        @cache
        def started(workers: int) -> Served:
            folder = tmp_path_factory.mktemp("models")
            write_models(folder)
            return running.enter_context(serving(folder, workers=workers, admin_key=KEY))

        yield started


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest, servers: Callable[[int], Served]) -> Served:
    """A server that can be controlled with the key. It has two workers, unless the test says how many (`alone`)."""
    return servers(getattr(request, "param", 2))


@pytest.fixture(scope="session")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that nobody can control, which takes small bodies, and one request that waits."""
    folder = tmp_path_factory.mktemp("bounded")
    for name, graph in (("fixed", identity("FP32", [2, 3])), ("slow", slow()), ("grow", grow())):
        write(folder, name, graph)
    with serving(folder, workers=1, max_body_bytes=2**20, max_queue_rows=1) as served:
        yield served


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two workers of two models that continue texts, one of them slowly, and one that doesn't."""
    folder = tmp_path_factory.mktemp("texts")
    write_text_model(folder, "tiny-text")
    write_text_model(folder, "slow-text", idle_steps=100)
    write(folder, "fixed", identity("FP32", [2, 3]))
    with serving(folder, workers=2) as served:
        yield served


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on which one text grows at a time, and two may wait, however long."""
    folder = tmp_path_factory.mktemp("crowded")
    write_text_model(folder, "slow-text", idle_steps=100)
    with serving(folder, workers=1, max_batch_rows=1, max_queue_rows=2, max_queue_s=1000) as served:
        yield served


@pytest.fixture(scope="session")
def translations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two workers of two models that translate word by word, there and back."""
    folder = tmp_path_factory.mktemp("translations")
    write_translation_model(folder, "tiny-en-de")
    write_translation_model(folder, "tiny-de-en", source="de", target="en")
    with serving(folder, workers=2, max_text_characters=2000) as served:
        yield served


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two workers of two models that draw, grey or in colours, one that sees, and one that writes."""
    folder = tmp_path_factory.mktemp("pictures")
    write_image_model(folder, "tiny-painter")
    write_image_model(folder, "tiny-colours", channels=3)
    write_classifier(folder, "tiny")
    write_text_model(folder, "tiny-text")
    with serving(folder, workers=2) as served:
        yield served
