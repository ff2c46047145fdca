"""What a container's health check runs, `python -m service.healthcheck`: is the server of this machine ready?

It reads the same variables as the server, and imports nothing that takes time: it is run every few seconds, on the
cores that the server has.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Mapping

_TIMEOUT_S = 4.0
_PATH = "/health/ready"
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not by us


def check(environment: Mapping[str, str]) -> str | None:
    """Say what keeps the server from being ready; None if nothing does.

    A server that asks clients for certificates (INFERD_TLS_CLIENT_CA_FILE) is asked no more than to take a connection.
    """
    host = environment.get("INFERD_HOST", "")
    host, port = _WILDCARDS.get(host, host), environment.get("INFERD_PORT") or "8000"
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        return f"INFERD_PORT is {port!r}, so nobody knows where the server listens"
    try:
        if environment.get("INFERD_TLS_CLIENT_CA_FILE"):
            socket.create_connection((host, int(port)), _TIMEOUT_S).close()
            return None
        return _ask(host, int(port), encrypted=bool(environment.get("INFERD_TLS_CERT_FILE")))
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error!r}"


def _ask(host: str, port: int, *, encrypted: bool) -> str | None:
    if encrypted:
        # Its certificate is for the name that clients use; nothing secret is sent, and nothing but the status believed.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=_TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", _PATH)
        response = connection.getresponse()
        body = response.read(2**16)
    finally:
        connection.close()
    return None if response.status == 200 else f"{response.status}: {body.decode(errors='replace')}"


def main() -> int:
    """Check the server that the environment describes; the exit code is 0 if it is ready, else 1."""
    problem = check(os.environ)
    print("ready" if problem is None else problem)
    return problem is not None


if __name__ == "__main__":
    sys.exit(main())
