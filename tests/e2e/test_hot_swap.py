from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.e2e.server import Server, running_server
from tests.e2e.swapping import (
    Client,
    GrpcClient,
    ask,
    connect,
    listed,
    load,
    make_version,
    versions_of_fresh_connections,
    wait_until,
)

CHANGES = 200
CLIENTS = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for version in (1, 2):
        make_version(tmp_path, version)
    with running_server(models=tmp_path, workers=2, model_control="explicit", admin_key="key") as server:
        yield server


def test_versions_come_and_go_under_load_without_a_request_that_fails_or_is_mixed_up(server: Server) -> None:
    kinds = [Client, GrpcClient]
    clients = [kinds[index % 2](server, 100 * index) for index in range(CLIENTS)]
    for client in clients:
        client.start()
    control = connect(server)
    steps = [[1, 2], [1], [1, 2], [2]]
    try:
        for change in range(CHANGES):
            versions = steps[change % len(steps)]
            load(control, versions)
            assert ask(control, change) == max(versions)
            if change % 20 == 0:
                assert versions_of_fresh_connections(server) == {max(versions)}, "a worker has not switched"
    finally:
        for client in clients:
            client.stopped.set()
        for client in clients:
            client.join()
        control.close()

    assert [failure for client in clients for failure in client.failures] == []
    for version in (1, 2):
        assert all(client.answers.get(version, 0) > 0 for client in clients)
    for worker in (0, 1):
        assert server.metric("inferd_worker_requests_total", f'worker="{worker}"') > 0
        lines = [str(line["message"]) for line in server.log if line.get("worker") == worker]
        # Of every four changes two bring a version that was not there before.
        assert sum("is ready" in line for line in lines) >= CHANGES // 2
    assert server.metric("inferd_worker_restarts_total") == 0
    failed = server.metric("inferd_request_failures_total")
    assert failed == 0


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.5, 0.8, 1.2])
def test_a_worker_killed_in_the_middle_of_a_change_ends_up_in_the_right_state(
    tmp_path: Path, server: Server, after_s: float
) -> None:
    make_version(tmp_path, 3, filler=20_000_000)
    victim = int(server.logged(r"worker 0 \(process (\d+)\) serves"))
    changing = threading.Thread(target=load_unless_killed, args=(server, [3]))
    changing.start()
    wait_until(lambda: state_of(server, 3) != "UNAVAILABLE")
    time.sleep(after_s)  # at several moments of the change: while it is tried, prepared, switched
    os.kill(victim, signal.SIGKILL)
    changing.join()

    server.logged(r"worker 0 ended with (SIGKILL)")
    wait_until(lambda: started(server, worker=0) == 2)
    wait_until(lambda: state_of(server, 3) == "READY")
    assert versions_of_fresh_connections(server, 30) == {3}
    assert server.metric("inferd_workers") == 2
    assert server.metric("inferd_worker_restarts_total") == 1
    assert server.metric("inferd_model_ready", 'version="3"') == 1


def load_unless_killed(server: Server, versions: Sequence[int]) -> None:
    """Load through whichever worker takes the connection: it may be the one that is killed."""
    with closing(connect(server)) as connection, suppress(OSError, http.client.HTTPException):
        load(connection, versions)


def started(server: Server, worker: int) -> int:
    """How often a worker came to serve."""
    return sum(f"worker {worker} (process" in str(line["message"]) for line in server.log)


def state_of(server: Server, version: int) -> str | None:
    row = listed(server, version)
    return row and row["state"]
