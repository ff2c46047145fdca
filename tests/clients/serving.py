"""The server that the clients call: a process of its own, in the environment of `make serve`.

Messages of the server and of each client have the same names, so no two of them fit into one process; and the clients
need an older protobuf than the server. Nothing here imports the service.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.clients.models import SERVE_PYTHON
from tests.e2e.server import Server, running_server

KEY: Final = "key"
MOST_CONNECTIONS: Final = 120
AT_A_TIME: Final = 4

alone = pytest.mark.parametrize("served", [1], indirect=True, ids=["alone"])
alone_and_with_two_workers = pytest.mark.parametrize("served", [1, 2], indirect=True, ids=["alone", "two workers"])


@dataclass(frozen=True)
class Served:
    """A running server, its models folder, and how many workers it has."""

    server: Server
    models: Path
    workers: int

    @property
    def http(self) -> str:
        """Host and port of REST."""
        return self.server.url.removeprefix("http://")

    @property
    def grpc(self) -> str:
        """Host and port of gRPC."""
        return self.server.grpc

    def reach_every_worker(self, call: Callable[[], object]) -> None:
        """Do `call`, which makes a connection of its own, until every worker has answered one.

        Connections go to the worker that has fewest: others are opened in between and kept, so that this changes.
        """
        if self.workers == 1:
            call()
            return
        before = self._answered()
        host, _, port = self.http.partition(":")
        with ExitStack() as kept:
            for _ in range(MOST_CONNECTIONS // AT_A_TIME):
                for _ in range(AT_A_TIME):
                    kept.enter_context(socket.create_connection((host, int(port))))
                    call()
                # The reading of the counts is a request too: one of those that a worker has answered since.
                if all(now - then >= 2 for now, then in zip(self._answered(), before, strict=True)):
                    return
        raise AssertionError(f"after {MOST_CONNECTIONS} connections not every worker was reached")

    def _answered(self) -> list[float]:
        lines = self.server.get("/metrics").splitlines()
        counts = [line.rpartition(" ")[2] for line in lines if line.startswith("inferd_worker_requests_total{")]
        assert len(counts) == self.workers, lines
        return [float(count) for count in counts]


@contextmanager
def serving(models: Path, *, workers: int, **settings: object) -> Iterator[Served]:
    """Serve a folder of models, which only calls change."""
    with running_server(
        python=SERVE_PYTHON, models=models, workers=workers, model_control="explicit", **settings
    ) as server:
        yield Served(server, models, workers)
