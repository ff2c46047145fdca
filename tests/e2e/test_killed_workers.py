from __future__ import annotations

import os
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from tests.bundles import identity_graph, make_bare
from tests.e2e.server import Server, running_server
from tests.e2e.test_workers import pid_of

BODY = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.5]}]}'


class Client(threading.Thread):
    """Asks again and again until it is told to stop, and remembers what was wrong."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.stopped = threading.Event()
        self.answered = 0
        self.lost = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            request = urllib.request.Request(f"{self.server.url}/v2/models/rows/infer", BODY)  # noqa: S310 - our own server
            try:
                with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                    body = response.read()
            except urllib.error.HTTPError as error:
                self.wrong.append(f"{error.code}: {error.read()!r}")
            except (OSError, urllib.error.URLError):
                self.lost += 1
            else:
                self.answered += 1
                if b"[1.5,-2.5]" not in body:
                    self.wrong.append(repr(body))


def test_workers_that_are_killed_under_load_lose_what_was_in_flight_and_no_model_is_blamed(tmp_path: Path) -> None:
    make_bare(tmp_path, "rows", graph=identity_graph("FP32", ("batch", 2)))
    with running_server(models=tmp_path, workers=2) as server:
        clients = [Client(server) for _ in range(4)]
        for client in clients:
            client.start()
        rounds = np.random.default_rng(0).permutation([0, 1, 0, 1, 0, 1]).tolist()
        for death, which in enumerate(rounds, start=1):
            before = sum(client.answered for client in clients)
            while sum(client.answered for client in clients) < before + 50:
                clients[0].join(0.01)
            os.kill(pid_of(server, which), signal.SIGKILL)
            while server.metric("inferd_worker_restarts_total") < death or server.metric("inferd_workers") < 2:
                clients[0].join(0.05)
        for client in clients:
            client.stopped.set()
            client.join()
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert sum(client.lost for client in clients) <= len(rounds) * len(clients)
        assert server.metric("inferd_quarantined_models") == 0
