from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bundle, slow_graph
from tests.e2e.server import Server, running_server
from tests.e2e.swapping import Client, GrpcClient, call, connect, make_version, wait_until

REQUESTS = 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    make_version(tmp_path, 1)
    with running_server(models=tmp_path, workers=2, model_control="explicit", admin_key="key") as server:
        yield server


def post(server: Server, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Send one request over a connection of its own, which goes to whichever worker takes it."""
    with closing(connect(server)) as connection:
        connection.request("POST", path, json.dumps(body), headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def infer(server: Server, rows: int = 1, name: str = "x") -> int:
    tensor = {"name": name, "datatype": "FP32", "shape": [rows, 1], "data": [0.0] * rows}
    return post(server, "/v2/models/swap/infer", {"inputs": [tensor]})[0]


def pid_of(server: Server, worker: int) -> int:
    """The process that serves, or served last, as `worker`."""
    pattern = rf"worker {worker} \(process (\d+)\) serves"
    server.logged(pattern)
    found = [re.search(pattern, str(line["message"])) for line in server.log]
    return int([one[1] for one in found if one][-1])


def test_metrics_and_statistics_are_those_of_both_workers_together(server: Server) -> None:
    before = server.answered()
    assert [infer(server, rows=2) for _ in range(REQUESTS)] == [200] * REQUESTS
    assert [infer(server, name="unknown") for _ in range(REQUESTS)] == [400] * REQUESTS
    assert all(now > then + 4 for now, then in zip(server.answered(), before, strict=True)), "a worker was not reached"

    assert server.metric("inferd_request_duration_seconds_count") == 2 * REQUESTS
    assert server.metric("inferd_batch_size_sum") == 2 * REQUESTS
    assert server.metric("inferd_request_failures_total", 'reason="invalid"') == REQUESTS
    assert server.metric("inferd_model_ready") == 1
    assert server.metric("inferd_build_info") == 1
    for _ in range(4):  # whichever worker tells it
        (row,) = json.loads(server.get("/v2/models/swap/stats"))["model_stats"]
        assert (row["name"], row["version"]) == ("swap", "1")
        assert row["inference_count"] == 2 * REQUESTS
        assert row["execution_count"] == REQUESTS
        assert row["inference_stats"]["success"]["count"] == REQUESTS
        assert row["inference_stats"]["fail"]["count"] == REQUESTS
        assert [(one["batch_size"], one["compute_infer"]["count"]) for one in row["batch_stats"]] == [(2, REQUESTS)]
        assert time.time() * 1000 - row["last_inference"] < 60_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"authorization": "Bearer key"}, 200)],
    ids=["none", "wrong", "right"],
)
def test_the_admin_key_is_asked_for_by_both_workers(server: Server, headers: dict[str, str], status: int) -> None:
    before = server.answered()
    for action in ("load", "unload"):
        answers = [post(server, f"/v2/repository/models/swap/{action}", {}, headers)[0] for _ in range(8)]
        assert answers == [status] * 8
    assert all(now > then for now, then in zip(server.answered(), before, strict=True)), "a worker was not reached"


def test_the_queue_is_bounded_in_both_workers(tmp_path: Path) -> None:
    make_bundle(tmp_path, graph=slow_graph(), batching={"max_batch_size": 1})
    pixels = {"name": "image", "datatype": "FP32", "shape": [1, 1, 4, 6], "data": [0.5] * 24}
    answers: list[tuple[int, str | None]] = []

    def ask(server: Server) -> None:
        with closing(connect(server)) as connection:
            connection.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [pixels]}))
            response = connection.getresponse()
            response.read()
            answers.append((response.status, response.getheader("retry-after")))

    with running_server(models=tmp_path, workers=2, max_queue_rows=4) as server:
        before = server.answered()
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in answers} == {200, 429}
        assert all((retry is not None) == (status == 429) for status, retry in answers)
        assert all(now > then for now, then in zip(server.answered(), before, strict=True)), "a worker was not reached"


def test_a_worker_that_is_killed_is_replaced_and_no_total_falls(server: Server) -> None:
    for _ in range(REQUESTS):
        assert infer(server) == 200
    counted = server.metric("inferd_batch_size_count")
    victim = pid_of(server, 1)
    os.kill(victim, signal.SIGKILL)
    server.logged(r"worker 1 ended with (SIGKILL)")
    wait_until(lambda: pid_of(server, 1) != victim)
    assert server.metric("inferd_worker_restarts_total") == 1
    assert server.metric("inferd_batch_size_count") == counted
    before = server.answered()
    assert [infer(server) for _ in range(REQUESTS)] == [200] * REQUESTS
    assert all(now > then for now, then in zip(server.answered(), before, strict=True)), "a worker was not reached"
    assert server.metric("inferd_batch_size_count") == counted + REQUESTS


@pytest.mark.parametrize("kind", [Client, GrpcClient], ids=["REST", "gRPC"])
def test_a_worker_that_is_told_to_end_loses_nothing_and_is_replaced(server: Server, kind: type[Client]) -> None:
    clients = [kind(server, 100 * index) for index in range(6)]
    for client in clients:
        client.start()
    victim = pid_of(server, 0)
    os.kill(victim, signal.SIGTERM)
    server.logged(r"worker 0 ended with (exit code 0)")
    wait_until(lambda: pid_of(server, 0) != victim)
    for client in clients:
        client.stopped.set()
    for client in clients:
        client.join()
    assert [failure for client in clients for failure in client.failures] == []


def test_workers_end_when_their_supervisor_is_killed(server: Server) -> None:
    workers = [pid_of(server, worker) for worker in (0, 1)]
    server.process.kill()
    assert server.process.wait(10) == -signal.SIGKILL
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with pytest.raises(ConnectionError):
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=5).connect()


def test_where_no_worker_can_start_the_server_ends_with_1(tmp_path: Path) -> None:
    server = Server(models=tmp_path, workers=2, device="cuda")
    assert server.wait() == 1
    assert any("giving up" in str(line["message"]) for line in server.log)


def test_metrics_on_a_port_of_their_own_are_those_of_both_workers(tmp_path: Path) -> None:
    make_version(tmp_path, 1)
    with running_server(models=tmp_path, workers=2, metrics_port=0) as server:
        with closing(connect(server)) as connection:
            status, _ = call(connection, "/metrics")
        assert status == 404
        port = int(server.logged(r"metrics are served on \S+:(\d+)"))
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        assert 'inferd_model_ready{model="swap",version="1"} 1.0' in text
        assert "inferd_workers 2.0" in text


def test_connections_that_come_at_once_are_shared_also_after_others_have_gone(server: Server) -> None:
    request = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    shared = []
    for _ in range(6):
        before = server.answered()
        with ExitStack() as opened:
            sockets = [
                opened.enter_context(socket.create_connection(("127.0.0.1", server.port), 30)) for _ in range(32)
            ]
            for one in sockets:
                one.sendall(request)
            for one in sockets:
                assert one.recv(1000).startswith(b"HTTP/1.1 200")
            gained = [now - then for now, then in zip(server.answered(), before, strict=True)]
        assert sum(gained) >= 32
        shared.append(min(gained))
    # A worker that the machine gives no time within 20 ms loses its turn.
    assert sum(one >= 10 for one in shared) >= 3, shared
