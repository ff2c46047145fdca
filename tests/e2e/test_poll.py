from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.server import Server, running_server
from tests.e2e.swapping import Client, connect, listed, make_version, versions_of_fresh_connections, wait_until


@pytest.fixture(params=["all", "latest"])
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(policy: str, tmp_path: Path) -> Iterator[Server]:
    models = tmp_path / "models"
    make_version(models, 1)
    settings = {"model_control": "poll", "poll_s": 0.2, "version_policy": policy}
    with running_server(models=models, workers=2, **settings) as server:
        yield server


@contextmanager
def under_load(server: Server) -> Iterator[None]:
    """Clients that call all the while; afterwards none of them has seen a failure."""
    clients = [Client(server, 100 * index) for index in range(4)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.stopped.set()
        for client in clients:
            client.join()
    assert [failure for client in clients for failure in client.failures] == []
    assert all(sum(client.answers.values()) > 0 for client in clients)


def put(models: Path, version: int, *, content: bytes | None = None) -> None:
    """Copy a version into the folder as a deployment does: beside it first, then by one rename."""
    staging = models / ".staging"
    make_version(staging, version)
    made = staging / "swap" / f"{version}"
    if content is not None:
        (made / "model.onnx").write_bytes(content)
    target = models / "swap" / f"{version}"
    if target.exists():
        target.rename(staging / "old")
    made.rename(target)
    shutil.rmtree(staging)


def test_the_folder_is_followed_and_no_request_fails(policy: str, server: Server, tmp_path: Path) -> None:
    models = tmp_path / "models"
    with under_load(server):
        put(models, 2)
        wait_until(lambda: versions_of_fresh_connections(server) == {2})

        put(models, 3, content=b"no model")
        wait_until(lambda: (listed(server, 3) or {"state": ""})["state"] == "UNAVAILABLE")
        row = listed(server, 3)
        assert row
        assert "model.onnx" in row["reason"]
        assert versions_of_fresh_connections(server) == {2}, "a broken version takes nothing away"
        assert "ready" in server.get("/health/ready"), "nor readiness"

        if policy == "all":  # of the others nobody looks whether they changed
            put(models, 2, content=b"broken")
            wait_until(lambda: "has changed and is refused" in (listed(server, 2) or {"reason": ""})["reason"])
            assert versions_of_fresh_connections(server) == {2}, "what was loaded before serves on"

            put(models, 2)
            wait_until(lambda: (listed(server, 2) or {"reason": "?"})["reason"] == "")
        put(models, 3)
        wait_until(lambda: versions_of_fresh_connections(server) == {3})
        for version in (1, 2):
            shutil.rmtree(models / "swap" / f"{version}")
        wait_until(lambda: listed(server, 1) is None and listed(server, 2) is None)
        assert versions_of_fresh_connections(server) == {3}
    for worker in (0, 1):
        assert server.metric("inferd_worker_requests_total", f'worker="{worker}"') > 0


def test_calls_to_load_are_closed_where_the_folder_is_followed(server: Server) -> None:
    connection = connect(server)
    connection.request("POST", "/v2/repository/models/swap/load", "{}")
    response = connection.getresponse()
    assert (response.status, b"INFERD_ADMIN_KEY" in response.read()) == (403, True)
    connection.close()
