"""What goes wrong around a server: its disks, its folder, its clock, clients that stop in the middle."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.service import SERVICE
from tests.bundles import identity_graph, make_bare, make_bundle
from tests.e2e.server import ROOT, STOP_TIMEOUT_S, Server, running_server
from tests.hostile_graphs import endless_at_once
from tests.service.security.keys import bearer, line, write

PATIENT_S = 60.0
WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.05)  # processes of their own: there is nothing to wait on but what they say


def post(server: Server, path: str, body: object, **headers: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENT_S)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None


def ask(server: Server, name: str = "bare", **headers: str) -> int:
    """Ask an identity; its answer is looked at."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}
    status, answer = post(server, f"/v2/models/{name}/infer", {"inputs": [tensor]}, **headers)
    if status == 200:
        assert answer["outputs"][0]["data"] == [1.0, 2.0, 3.0]
    return status


# Disks


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own that is full but for a few files."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("a disk can be mounted by root only")
    try:
        (folder / "full").write_bytes(b"x" * 4096)
        with suppress(OSError), (folder / "full").open("ab", buffering=0) as stream:
            while True:
                stream.write(b"x" * 4096)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_where_the_cache_of_measurements_is_on_a_full_disk_they_are_made_anew(tmp_path: Path) -> None:
    make_bare(tmp_path / "models")
    with (
        full_disk(tmp_path / "disk") as disk,
        running_server(models=tmp_path / "models", profile_cache=disk / "profiles", workers=2) as server,
    ):
        assert ask(server) == 200
        assert "No space left on device" in server.logged("(how long bare takes is not kept, .*)")
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["full"]


def test_a_model_is_not_imported_by_halves_onto_a_full_disk(tmp_path: Path) -> None:
    graph = make_bare(tmp_path / "made") / "model.onnx"
    with graph.open("ab") as stream:  # an unknown field of protobuf, so that it needs room
        stream.write(b"\xfa\x7f" + b"\x80\x80\x08" + b"x" * 2**17)
    with full_disk(tmp_path / "disk") as disk:
        command = [sys.executable, "-m", "service.cli", "import", str(graph), "--name", "large"]
        environment = {**os.environ, "INFERD_MODELS": str(disk)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in disk.iterdir()] == ["full"]


@WORKERS
def test_a_log_that_can_not_be_written_keeps_nobody_from_an_answer(tmp_path: Path, workers: int) -> None:
    make_bare(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"port": port, "grpc_port": "", "models": tmp_path, "workers": workers, "access_log": 1}
    environment = {**os.environ, **{f"INFERD_{name.upper()}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=full)
    try:
        url = f"http://127.0.0.1:{port}/health/ready"
        wait_for(lambda: _is_good(url))
        assert all(_is_good(url) for _ in range(50))
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()


def _is_good(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENT_S) as response:  # noqa: S310 - our own server
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


# The models folder


def test_while_the_models_folder_can_not_be_read_what_serves_goes_on(tmp_path: Path) -> None:
    """A link to itself is what even root can't read."""
    models, away = tmp_path / "models", tmp_path / "away"
    make_bare(models)
    settings = {"model_control": "poll", "poll_s": 0.2, "workers": 2}
    with running_server(models=models, **settings) as server:
        models.rename(away)
        models.symlink_to(models)
        server.logged("(looking for changed models failed; what serves goes on)")
        assert [ask(server) for _ in range(8)] == [200] * 8
        assert json.loads(server.get("/health/ready"))["ready"]
        models.unlink()
        away.rename(models)
        make_bare(models, "another")
        wait_for(lambda: ask(server, "another") == 200)
        assert ask(server) == 200


def test_a_call_for_a_folder_that_can_not_be_read_is_told_so(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_bare(models)
    with running_server(models=models, model_control="explicit", admin_key="key", workers=2) as server:
        models.rename(tmp_path / "away")
        models.symlink_to(models)
        for call in ("models/bare/load", "models/bare/unload", "index"):
            status, answer = post(server, f"/v2/repository/{call}", {}, **bearer("key"))
            assert status == 503
            assert "the models folder can't be read: " in answer["error"]
        assert ask(server) == 200


def test_a_version_that_can_not_be_read_is_refused_and_the_others_serve(tmp_path: Path) -> None:
    make_bare(tmp_path)
    folder = make_bundle(tmp_path, "loop")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")
    with closing(Server(models=tmp_path, workers=2)) as server:
        wait_for(lambda: ask(server) == 200)
        reason = server.logged("model loop version 1 is refused: (.*)")
        assert reason.startswith("model.onnx: ")
        assert "can't be read" in reason
        assert ask(server, "loop") == 503


# The end while it begins


@WORKERS
@pytest.mark.parametrize("late", [False, True], ids=["at once", "in the middle"])
def test_sigterm_while_models_are_loaded_ends_everything_at_once(tmp_path: Path, workers: int, late: bool) -> None:
    make_bare(tmp_path)
    make_bare(tmp_path, "endless", graph=endless_at_once())
    server = Server(models=tmp_path, workers=workers)
    try:
        wait_for(lambda: _children(server) or not late)
        if late:
            wait_for(lambda: any(b"trial" in _command(one) for one in _children(server)))
            time.sleep(3)  # it is in the run that has no end by then
        children = _children(server)
        server.terminate()
        began = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - began < 15
        wait_for(lambda: not any(_command(one) for one in children))
    finally:
        server.close()


def _children(server: Server) -> list[int]:
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(one) for one in path.read_text().split()]


def _command(pid: int) -> bytes:
    """The command of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# Clocks


@pytest.mark.skipif(FAKETIME is None, reason="needs Debian's package libfaketime, by which the clock is changed")
def test_a_wall_clock_that_jumps_changes_no_rate_no_time_out_and_no_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day to and fro, while requests with deadlines go on, a rate is used up and a key is about to expire."""
    make_bare(tmp_path / "models")
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    in_an_hour = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    keys = write(
        tmp_path / "keys.jsonl",
        line("free", "free"),
        line("slow", "slow", rate=0.001, burst=1),
        line("brief", "brief", expires=in_an_hour),
    )
    with running_server(models=tmp_path / "models", workers=2, api_keys_file=keys, admin_key="key") as server:
        assert ask(server, **bearer("slow")) == 200
        for jump in ("+86400", "-86400", "+0"):
            offset.write_text(f"{jump}\n")
            for _ in range(20):
                assert ask(server, **bearer("free"), **{"x-request-timeout-ms": "20000"}) == 200
            assert ask(server, **bearer("slow")) == 429
            # What is to be told by the wall clock is, which shows besides that it has jumped.
            assert ask(server, **bearer("brief")) == (401 if jump == "+86400" else 200)
            assert json.loads(server.get("/health/ready"))["ready"]
        time.sleep(2.5)  # the supervisor has measured since, and would have replaced who seems silent
        assert _metric(server, "inferd_worker_restarts_total") == 0
        server.terminate()
        assert server.wait() == 0


def _metric(server: Server, name: str) -> float:
    request = urllib.request.Request(server.url + "/metrics", headers=dict(bearer("key")))  # noqa: S310 - as below
    with urllib.request.urlopen(request, timeout=PATIENT_S) as response:  # noqa: S310 - our own server
        lines = response.read().decode().splitlines()
    return next(float(one.rpartition(" ")[2]) for one in lines if one.startswith(name))


# Clients that stop in the middle


def test_what_was_sent_of_bodies_that_never_end_is_let_go_when_their_clients_go(tmp_path: Path) -> None:
    """Fifty times half of what may be held in all: none of it is held when the last request comes."""
    make_bare(tmp_path)
    body = b"x" * 900_000
    with running_server(models=tmp_path, max_inflight_bytes=2**20, max_body_bytes=2**20) as server:
        head = f"POST /v2/models/bare/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(head + body[: len(body) // 2])
        deadline = time.monotonic() + PATIENT_S
        while True:  # the last of them may not have been seen to go yet
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENT_S)) as connection:
                connection.request("POST", "/v2/models/bare/infer", body)
                status = connection.getresponse().status
            if status != 429 or time.monotonic() > deadline:
                break
        assert status == 400
        assert ask(server) == 200


def test_a_grpc_client_that_takes_no_answers_is_read_no_further_and_others_are_answered(tmp_path: Path) -> None:
    make_bare(tmp_path)
    make_bare(tmp_path, "wide", graph=identity_graph(shape=("batch", 60_000)))
    sent = 0
    ended = threading.Event()
    request = _request("wide", np.zeros((1, 60_000), np.float32))

    def requests() -> Iterator[pb.ModelInferRequest]:
        nonlocal sent
        while sent < 2000 and not ended.is_set():
            sent += 1
            yield request

    with running_server(models=tmp_path, workers=1) as server:
        before = _resident_mb(server)
        with _channel(server) as slow:
            call = slow.stream_stream(
                f"/{SERVICE.full_name}/ModelStreamInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelStreamInferResponse.FromString,
            )(requests())
            at = -1
            while at != sent:  # until it is read no further
                at = sent
                time.sleep(2)
            assert sent < 200  # of a stream 64 are in work; the rest lies in the buffers of both
            assert _resident_mb(server) - before < 100
            assert _infer(server) == [1.0, 2.0, 3.0]
            assert ask(server) == 200
            ended.set()
            call.cancel()
        assert _infer(server) == [1.0, 2.0, 3.0]


def test_grpc_calls_that_never_end_to_be_sent_keep_nobody_from_an_answer(tmp_path: Path) -> None:
    """Heads and the beginning of a message, on two hundred connections."""
    make_bare(tmp_path)
    path = f"/{SERVICE.full_name}/ModelInfer".encode()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    begun = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 4, 1, block)
    begun += _frame(0, 0, 1, b"\0" + (10_000_000).to_bytes(4) + b"x" * 1000)
    with running_server(models=tmp_path, workers=2) as server:
        host, _, port = server.grpc.rpartition(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(200)]
        try:
            for client in clients:
                client.sendall(begun)
            for _ in range(20):
                assert _infer(server) == [1.0, 2.0, 3.0]
            assert ask(server) == 200
        finally:
            for client in clients:
                client.close()
        assert _infer(server) == [1.0, 2.0, 3.0]
        server.terminate()
        assert server.wait() == 0


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _channel(server: Server) -> grpc.Channel:
    # A subchannel of its own: else all channels of this process share one connection, and so one worker.
    return grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)])


def _request(model: str, array: NDArray[np.float32]) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=array.shape)
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])


def _infer(server: Server) -> list[float]:
    with _channel(server) as channel:
        call = channel.unary_unary(
            f"/{SERVICE.full_name}/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        answer = call(_request("bare", np.array([[1, 2, 3]], np.float32)), timeout=PATIENT_S, wait_for_ready=True)
    numbers: list[float] = np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
    return numbers


def _resident_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(one.split()[1]) for one in status.splitlines() if one.startswith("VmRSS")) / 1000
