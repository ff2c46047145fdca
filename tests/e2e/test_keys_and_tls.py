"""Keys and TLS as operators have them: processes of their own, files that change, one worker and two."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.service import SERVICE
from tests.bundles import make_bundle, slow_graph
from tests.e2e.server import ROOT, START_TIMEOUT_S, Server
from tests.service.requests import BRIGHT
from tests.service.security.certificates import NEEDS_OPENSSL, Pair, make_pair, trusting
from tests.service.security.keys import bearer, line, write

WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
ROOT_KEY = bearer("0p3ns-all")


def connect(server: Server, trusted: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    if trusted:
        return http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=trusted)
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)


def ask(connection: http.client.HTTPConnection, headers: Mapping[str, str] | None = None) -> int:
    """Have a picture classified; the status."""
    connection.request("POST", "/predict/tiny", BRIGHT, dict(headers or {}))
    with closing(connection.getresponse()) as response:
        response.read()
        return response.status


def get(server: Server, path: str, headers: Mapping[str, str], trusted: ssl.SSLContext | None = None) -> str:
    with closing(connect(server, trusted)) as connection:
        connection.request("GET", path, headers=dict(headers))
        return connection.getresponse().read().decode()


@contextmanager
def serving(models: Path, workers: int, trusted: ssl.SSLContext | None = None, **settings: object) -> Iterator[Server]:
    """A server with the model `tiny` that is ready, with the key that opens everything."""
    server = Server(models=models, workers=workers, admin_key="0p3ns-all", access_log=True, **settings)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not json.loads(get(server, "/health/ready", {}, trusted))["ready"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # a process of its own: there is nothing to wait on but its answers
        yield server
    finally:
        server.close()


@contextmanager
def many(server: Server, trusted: ssl.SSLContext | None = None) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections, of which each worker has some."""
    connections = [connect(server, trusted) for _ in range(8)]
    try:
        assert {ask(one, ROOT_KEY) for one in connections} == {200}
        yield connections
    finally:
        for one in connections:
            one.close()


def share_of(server: Server, worker: int, trusted: ssl.SSLContext | None = None) -> float:
    """How many requests a worker has answered."""
    label = f'inferd_worker_requests_total{{worker="{worker}"}}'
    lines = get(server, "/metrics", ROOT_KEY, trusted).splitlines()
    return next(float(one.rpartition(" ")[2]) for one in lines if one.startswith(label))


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    make_bundle(folder)
    return folder


# Keys


@WORKERS
def test_keys_that_come_and_go_are_seen_by_every_worker(models: Path, tmp_path: Path, workers: int) -> None:
    keys = write(tmp_path / "keys.jsonl", line("s", "old"))
    with serving(models, workers, api_keys_file=keys) as server, many(server) as connections:
        for secret, expected in (("s", 200), ("t", 401)):
            assert {ask(one, bearer(secret)) for one in connections} == {expected}
        write(keys, line("t", "new"))
        eventually(lambda: {ask(one, bearer("t")) for one in connections} == {200})
        assert {ask(one, bearer("s")) for one in connections} == {401}
        write(keys, "this is no key")
        eventually(lambda: sum("line 1" in str(one["message"]) for one in server.log) == workers)
        assert {ask(one, bearer("t")) for one in connections} == {200}
        if workers == 2:
            assert all(share_of(server, worker) > 8 for worker in (0, 1)), "a worker was not reached"
        assert "0p3ns-all" not in json.dumps(server.log)


@WORKERS
def test_a_rate_is_one_for_all_workers(models: Path, tmp_path: Path, workers: int) -> None:
    keys = write(tmp_path / "keys.jsonl", line("s", "shop", rate=0.01, burst=20))
    with serving(models, workers, api_keys_file=keys) as server, many(server) as connections:
        answers = [ask(connections[number % 8], bearer("s")) for number in range(40)]
        assert answers == [200] * 20 + [429] * 20
        if workers == 2:
            assert all(share_of(server, worker) > 8 for worker in (0, 1)), "a worker was not reached"
        limited = 'inferd_key_requests_total{key="shop",outcome="limited"} 20.0'
        assert limited in get(server, "/metrics", ROOT_KEY)


@WORKERS
def test_what_is_in_work_is_counted_over_all_workers(tmp_path: Path, workers: int) -> None:
    make_bundle(tmp_path / "models", graph=slow_graph(2000), batching={"max_batch_size": 1})
    keys = write(tmp_path / "keys.jsonl", line("s", "shop", concurrency=3))
    with serving(tmp_path / "models", workers, api_keys_file=keys) as server, many(server) as connections:
        answers: list[int] = []
        begin = threading.Barrier(len(connections))

        def work(connection: http.client.HTTPConnection) -> None:
            begin.wait()
            answers.append(ask(connection, bearer("s")))

        threads = [threading.Thread(target=work, args=(one,)) for one in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers) == {200, 429}
        assert answers.count(200) >= 3
        assert {ask(one, bearer("s")) for one in connections} == {200}  # one after the other


# TLS


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


def live(server: Server, certificate: bytes, *own: bytes) -> bool:
    """Whether gRPC answers to who trusts `certificate`."""
    trusted = grpc.ssl_channel_credentials(certificate, *own)
    apart = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(server.grpc, trusted, options=apart) as channel:
        call = channel.unary_unary(
            f"/{SERVICE.full_name}/ServerLive", pb.ServerLiveRequest.SerializeToString, pb.ServerLiveResponse.FromString
        )
        try:
            return bool(call(pb.ServerLiveRequest(), timeout=20).live)
        except grpc.RpcError:
            return False


@NEEDS_OPENSSL
@WORKERS
def test_a_certificate_that_is_replaced_is_shown_by_every_worker_and_nobody_is_cut_off(
    models: Path, tmp_path: Path, pair: Pair, workers: int
) -> None:
    old, old_content = trusting(pair.certificate), pair.certificate.read_bytes()
    files = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}
    with serving(models, workers, old, **files) as server, many(server, old) as connections:
        assert server.logged(r"running on (https://\S+)").endswith(str(server.port))
        assert live(server, old_content)
        if workers == 2:  # encrypted connections are spread like others
            assert all(share_of(server, worker, old) >= 4 for worker in (0, 1))
        make_pair(tmp_path)
        new = trusting(pair.certificate)
        eventually(lambda: sum("was read again" in str(one["message"]) for one in server.log) == workers)
        with many(server, new) as others:
            assert {ask(one, ROOT_KEY) for one in (*others, *connections)} == {200}
        with pytest.raises(ssl.SSLCertVerificationError), closing(connect(server, old)) as refused:
            refused.connect()
        assert live(server, pair.certificate.read_bytes())
        assert not live(server, old_content)
        server.terminate()
        assert server.wait() == 0
        assert not [one for one in server.log if one.get("level") in ("error", "warning")]


@NEEDS_OPENSSL
@WORKERS
def test_clients_may_need_a_certificate(models: Path, tmp_path: Path, pair: Pair, workers: int) -> None:
    client = make_pair(tmp_path, "client")
    files = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key, "tls_client_ca_file": client.certificate}
    with_it, without = trusting(pair.certificate, client=client), trusting(pair.certificate)
    with serving(models, workers, with_it, **files) as server:
        for _ in range(4):
            with closing(connect(server, without)) as connection, pytest.raises(OSError):  # noqa: PT011 - of TLS or not
                ask(connection)
            with closing(connect(server)) as connection, pytest.raises((OSError, http.client.HTTPException)):
                ask(connection)
        with closing(connect(server, with_it)) as connection:
            assert ask(connection) == 200
        assert live(server, pair.certificate.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes())
        assert not live(server, pair.certificate.read_bytes())
        assert not [one for one in server.log if one.get("level") in ("error", "warning")]


@NEEDS_OPENSSL
@WORKERS
def test_who_is_at_a_handshake_does_not_keep_the_server_from_ending(models: Path, pair: Pair, workers: int) -> None:
    trusted = trusting(pair.certificate)
    files = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}
    with serving(models, workers, trusted, **files) as server:
        silent = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with closing(silent), closing(connect(server, trusted)) as last:
            silent.connect()
            last.connect()
            started = time.monotonic()
            server.terminate()
            assert ask(last) == 200
            assert server.wait() == 0
            assert time.monotonic() - started < 20


# Files that are broken, and the command line


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"api_keys_file": "keys"}, "keys, line 1: "),
        ({"api_keys_file": "nowhere"}, "nowhere"),
        ({"tls_cert_file": "keys", "tls_key_file": "keys"}, "keys: has no certificate (INFERD_TLS_CERT_FILE)"),
        ({"tls_cert_file": "keys"}, "TLS needs both INFERD_TLS_CERT_FILE and INFERD_TLS_KEY_FILE"),
        ({"metrics_access": "key", "metrics_port": "0"}, "INFERD_METRICS_ACCESS=key"),
    ],
)
def test_a_server_does_not_start_with_files_that_are_broken(
    models: Path, tmp_path: Path, workers: int, settings: dict[str, str], problem: str
) -> None:
    write(tmp_path / "keys", "{}")
    done = command(
        "serve",
        cwd=tmp_path,
        PORT="0",
        GRPC_PORT="0",
        MODELS=str(models),
        WORKERS=str(workers),
        **{name.upper(): value for name, value in settings.items()},
    )
    assert done.returncode == 1
    (said,) = [one for one in done.stderr.splitlines() if one.startswith("inferd: ")]
    assert problem in said


def command(*arguments: str | Path, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERD_")}
    environment |= {f"INFERD_{name}": value for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    inferd = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(inferd, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


@NEEDS_OPENSSL
def test_the_command_asks_a_server_with_a_key_over_https(models: Path, tmp_path: Path, pair: Pair) -> None:
    made = command("key", "me")
    assert made.returncode == 0
    secret = made.stderr.split()[-1]
    keys = write(tmp_path / "keys.jsonl", made.stdout)
    picture = tmp_path / "picture.png"
    picture.write_bytes(BRIGHT)
    files: dict[str, Any] = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key, "api_keys_file": keys}
    with serving(models, 1, trusting(pair.certificate), **files) as server:
        there = ("predict", picture, "--model", "tiny", "--url", f"https://127.0.0.1:{server.port}")
        ca = {"CA_FILE": str(pair.certificate)}
        done = command(*there, **ca, API_KEY=secret)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)[0]["label"]
        assert "answered 401" in command(*there, **ca).stderr
        assert "CERTIFICATE_VERIFY_FAILED" in command(*there, API_KEY=secret).stderr
        assert "keys.jsonl: has no certificates" in command(*there, CA_FILE=str(keys)).stderr
        assert "there is no file nowhere" in command(*there, CA_FILE="nowhere").stderr
