"""Models that end the process which loads or runs them, on real servers: what becomes of them, and of the others."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bare
from tests.e2e.server import Server
from tests.e2e.test_workers import pid_of
from tests.hostile_graphs import as_large_as_asked, endless, endless_at_once, large

PATIENT_S = 120.0


@contextmanager
def started(models: Path, **settings: object) -> Iterator[Server]:
    """Start a server, ready or not."""
    server = Server(models=models, profile="off", **settings)
    try:
        yield server
    finally:
        server.close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.05)


def call(server: Server, path: str, body: object = None, key: str = "key") -> tuple[int, Any]:
    """Call a server; a call without a body is a GET."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"authorization": f"Bearer {key}"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=PATIENT_S) as response:  # noqa: S310
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def ask(server: Server, name: str, number: float = 0.0) -> tuple[int, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [number] * 3}
    return call(server, f"/v2/models/{name}/infer", {"inputs": [tensor]})


def listed(server: Server) -> dict[str, tuple[str, str]]:
    """State and reason of every model, as readiness tells them."""
    _, answer = call(server, "/health/ready")
    return {one["name"]: (one["state"], one["reason"]) for one in answer["models"]}


def everywhere(server: Server, holds: Callable[[dict[str, tuple[str, str]]], bool]) -> bool:
    """Whether every worker lists the models so: one may know, or have loaded, what another doesn't yet."""
    before = server.answered()
    listings = [listed(server) for _ in range(12)]
    # Reading the counts is a request too, one for each worker, before and after.
    asked_all = all(now - then > 2 * len(before) for now, then in zip(server.answered(), before, strict=True))
    return asked_all and all(holds(one) for one in listings)


def settled(server: Server) -> bool:
    return everywhere(server, lambda models: bool(models) and "LOADING" not in [state for state, _ in models.values()])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_whose_loading_never_ends_is_quarantined_and_named_and_the_others_serve(
    tmp_path: Path, workers: int
) -> None:
    make_bare(tmp_path, "good")
    make_bare(tmp_path, "endless", graph=endless_at_once())
    with started(tmp_path, workers=workers, load_timeout_s=15) as server:
        wait_for(lambda: settled(server))
        states = listed(server)
        assert states["good"][0] == "READY"
        assert states["endless"] == ("UNAVAILABLE", "trial: quarantined: loading it took more than 15 s")
        assert call(server, "/health/ready")[0] == 503
        assert ask(server, "good")[0] == 200
        status, answer = ask(server, "endless")
        assert status == 503
        assert "quarantined: loading it took more than 15 s" in answer["error"]
        assert server.metric("inferd_quarantined_models") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_ends_the_process_which_loads_it_is_quarantined_and_named(tmp_path: Path, workers: int) -> None:
    """What native code does where it has a defect, which nobody has on order: the process gets its signal from here."""
    make_bare(tmp_path, "good")
    make_bare(tmp_path, "crash", graph=endless_at_once())
    with started(tmp_path, workers=workers, load_timeout_s=300) as server:
        os.kill(trial_of(server), signal.SIGSEGV)
        wait_for(lambda: settled(server))
        states = listed(server)
        assert states["good"][0] == "READY"
        assert states["crash"] == ("UNAVAILABLE", "trial: quarantined: loading it ended the process (SIGSEGV)")
        assert ask(server, "good")[0] == 200
        assert server.process.poll() is None


def trial_of(server: Server) -> int:
    """The process that tries bundles, once it is busy with one."""
    found: list[int] = []

    def find() -> bool:
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if int(fields[1]) == server.process.pid and b"trial" in command and used_s > 4:
                found.append(int(status.parent.name))
        return bool(found)

    wait_for(find)
    return found[0]


def test_a_model_that_needs_more_memory_than_loading_may_take_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    make_bare(tmp_path, "good")
    make_bare(tmp_path, "large", graph=large(2**30))
    with started(tmp_path, workers=2, load_memory_bytes=2**30) as server:
        wait_for(lambda: settled(server))
        problem = "trial: loading it takes more memory than it may have (INFERD_LOAD_MEMORY_BYTES)"
        assert listed(server) == {"good": ("READY", ""), "large": ("UNAVAILABLE", problem)}
        assert ask(server, "good")[0] == 200
        assert ask(server, "large")[0] == 503
        assert server.metric("inferd_worker_restarts_total") == 0


def test_a_request_that_asks_for_all_memory_fails_and_the_worker_lives(tmp_path: Path) -> None:
    make_bare(tmp_path, "good")
    make_bare(tmp_path, "any", graph=as_large_as_asked())
    with started(tmp_path, workers=2) as server:
        wait_for(lambda: settled(server))
        for elements in (10**11, 10**12, 2**62):
            tensor = {"name": "size", "datatype": "INT64", "shape": [1], "data": [elements]}
            status, _ = call(server, "/v2/models/any/infer", {"inputs": [tensor]})
            assert status == 500
        assert ask(server, "good")[0] == 200
        assert server.metric("inferd_worker_restarts_total") == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_never_ends_is_ended(tmp_path: Path, workers: int) -> None:
    make_bare(tmp_path, "good")
    make_bare(tmp_path, "endless", graph=endless())
    with started(tmp_path, workers=workers, max_run_s=2) as server:
        wait_for(lambda: settled(server))
        assert ask(server, "endless")[0] == 200
        status, answer = ask(server, "endless", 2.0)
        assert (status, answer["error"]) == (500, "model.onnx: the run was ended after 2 s, which is the limit")
        assert ask(server, "endless")[0] == 200
        assert ask(server, "good")[0] == 200


def test_a_model_whose_runs_kill_two_workers_is_quarantined_until_it_is_asked_for(tmp_path: Path) -> None:
    """A run in progress, and the worker dies, twice; the model answers nobody then, and the others everybody."""
    make_bare(tmp_path, "good")
    make_bare(tmp_path, "endless", graph=endless())
    with started(tmp_path, workers=2, model_control="explicit", admin_key="key") as server:
        server.wait_until_ready()
        for death in (1, 2):
            killed = threading.Thread(target=ask_of_the_dead, args=(server,))
            killed.start()
            victim = worker_that_is_busy(server)
            os.kill(victim, signal.SIGSEGV)
            killed.join(PATIENT_S)
            wait_for(lambda death=death: server.metric("inferd_worker_restarts_total") == death)
            assert ask(server, "good")[0] == 200
            wait_for(lambda: server.metric("inferd_workers") == 2)
            if death == 1:
                assert ask(server, "endless")[0] == 200
                assert server.metric("inferd_quarantined_models") == 0
        wait_for(lambda: everywhere(server, lambda models: models["endless"][0] == "UNAVAILABLE"))
        reason = "quarantined: 2 workers died while it ran, or was loaded; the last ended with SIGSEGV. "
        assert listed(server)["endless"][1].startswith(reason)
        assert call(server, "/health/ready")[0] == 200  # it is no reason to send nobody here any more
        index = {one["name"]: one for one in call(server, "/v2/repository/index", {})[1]}
        assert index["endless"]["state"] == "UNAVAILABLE"
        assert index["endless"]["reason"].startswith("quarantined: ")
        assert index["good"]["state"] == "READY"
        assert server.metric("inferd_quarantined_models") == 1
        for _ in range(8):  # whichever worker is asked
            assert ask(server, "endless")[0] == 503
            assert ask(server, "good")[0] == 200

        assert call(server, "/v2/repository/models/endless/load", {})[0] == 200
        for _ in range(8):
            assert ask(server, "endless")[0] == 200
        assert server.metric("inferd_quarantined_models") == 0


def ask_of_the_dead(server: Server) -> None:
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        ask(server, "endless", 2.0)


def worker_that_is_busy(server: Server) -> int:
    """The worker that runs without end: the one that takes up a second of time in the next two."""
    found: list[int] = []

    def find() -> bool:
        pids = [pid_of(server, worker) for worker in (0, 1)]
        before = [seconds_of(pid) for pid in pids]
        time.sleep(1.0)
        found.extend(pid for pid, then in zip(pids, before, strict=True) if seconds_of(pid) - then > 0.3)
        return len(found) == 1 or found.clear() is not None

    wait_for(find)
    return found[0]


def seconds_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
