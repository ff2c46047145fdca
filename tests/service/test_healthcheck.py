"""What containers run to see whether their server is ready, against real servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.healthcheck import check
from tests.bundles import make_bundle
from tests.e2e.server import Server, running_server
from tests.service.security.certificates import NEEDS_OPENSSL, make_pair


def test_a_server_that_is_ready_one_that_is_not_and_one_that_is_gone(models: Path) -> None:
    make_bundle(models)
    with running_server(models=models, drain_delay_s=60) as server:
        there = {"INFERD_HOST": "0.0.0.0", "INFERD_PORT": str(server.port)}
        assert check(there) is None
        server.terminate()
        while (said := check(there)) is None:
            pass
        assert said.startswith("503: ")
        assert '"draining":true' in said
    assert "does not answer" in (check(there) or "")


@NEEDS_OPENSSL
@pytest.mark.parametrize("asks_for_certificates", [False, True])
def test_a_server_that_is_encrypted(models: Path, tmp_path: Path, asks_for_certificates: bool) -> None:
    pair = make_pair(tmp_path, "server")
    files = {"INFERD_TLS_CERT_FILE": str(pair.certificate), "INFERD_TLS_KEY_FILE": str(pair.key)}
    if asks_for_certificates:
        files["INFERD_TLS_CLIENT_CA_FILE"] = str(pair.certificate)
    settings = {name.removeprefix("INFERD_").lower(): value for name, value in files.items()}
    server = Server(models=models, **settings)
    try:
        there = {**files, "INFERD_HOST": "127.0.0.1", "INFERD_PORT": str(server.port)}
        while (said := check(there)) and said.startswith("503"):
            pass
        assert said is None
        assert check({**there, "INFERD_TLS_CERT_FILE": "", "INFERD_TLS_CLIENT_CA_FILE": ""}) is not None
    finally:
        server.close()


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_nobody_can_know(port: str) -> None:
    assert check({"INFERD_PORT": port}) == f"INFERD_PORT is {port!r}, so nobody knows where the server listens"


def test_as_a_command_it_says_so_and_ends_with_1() -> None:
    command = [sys.executable, "-m", "service.healthcheck"]
    done = subprocess.run(command, env={"INFERD_PORT": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("INFERD_PORT is '0'")
