"""nginx before a server, as operators put it there: Debian's package `nginx`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.bench.address import Address

_CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream inferd {{
    server {server};
    keepalive 32;
  }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 16m;
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://inferd;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""
_START_TIMEOUT_S = 10.0


def find_nginx() -> str:
    """The program.

    Raises:
        SystemExit: there is none.
    """
    if not (found := shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")):
        raise SystemExit("--proxy nginx needs nginx: apt-get install nginx-light")
    return found


@contextmanager
def nginx(server: Address) -> Iterator[Address]:
    """Run nginx on a free port: it keeps connections to `server` open, and asks no request twice that has a body."""
    program = find_nginx()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # its worker may be another user
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(folder=folder, server=server.authority, port=port), encoding="utf-8"
        )
        command = [program, "-c", str(configuration), "-p", folder, "-e", f"{folder}/error.log"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port, process)
            yield Address("127.0.0.1", port)
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("nginx does not start")
