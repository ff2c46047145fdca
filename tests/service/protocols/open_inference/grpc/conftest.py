from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from tests.bundles import (
    ONNX_TYPES,
    identity_graph,
    lookup_graph,
    make_bare,
    make_bundle,
    slow_graph,
    sum_graph,
)
from tests.service.protocols.open_inference.grpc.serving import Serving, serving

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """A server that many tests use, and the event loop that it runs in whenever one of them waits for something."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    serving: Serving

    def ask(self, method: str, request: Message | None = None, **options: Any) -> Any:
        return self.run(self.serving.client.ask(method, request, **options))

    def refused(self, method: str, request: Message | None = None, **options: Any) -> grpc.aio.AioRpcError:
        error: grpc.aio.AioRpcError = self.run(self.serving.client.refused(method, request, **options))
        return error


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Give a server of the models `tiny`, `slow`, `sum`, `lookup`, and an identity of any shape for each datatype."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "tiny", 1)
    make_bundle(models, "tiny", 3)
    make_bundle(models, "slow", graph=slow_graph())
    make_bare(models, "sum", graph=sum_graph())
    make_bare(models, "lookup", graph=lookup_graph())
    make_bare(models, "rows", graph=identity_graph("FP32", ("batch", "length")))
    for datatype in ONNX_TYPES:
        make_bare(models, datatype.lower(), graph=identity_graph(datatype, None))
    with asyncio.Runner() as runner:
        context = serving(models, max_queue_s=60)  # a machine that is busy takes long
        running = runner.run(context.__aenter__())
        yield Shared(runner.run, running)
        runner.run(context.__aexit__(None, None, None))
