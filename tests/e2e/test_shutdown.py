from __future__ import annotations

import http.client
import threading

import pytest

from tests.e2e.pictures import made_up_png
from tests.e2e.server import Server, running_server

PICTURE = made_up_png(1)
PATH = "/predict/fashion-classifier"


class Client(threading.Thread):
    """Asks again and again, until the server can no longer be reached, and remembers what became of each request."""

    def __init__(self, server: Server, *, keep_alive: bool) -> None:
        super().__init__()
        self.server = server
        self.keep_alive = keep_alive
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        for _ in range(20_000):
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
            try:
                connection.request("POST", PATH, PICTURE, {"content-type": "image/png"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            if response.status == 200:
                self.answered += 1
            else:
                self.lost.append(f"status {response.status}")
            if not self.keep_alive or response.getheader("connection") == "close":
                connection.close()
                connection = None
        self.lost.append("the server never ended")


@pytest.mark.parametrize(
    ("keep_alive", "delay_s"), [(False, 0), (True, 0.5)], ids=["fresh connections", "kept connections, with a delay"]
)
def test_sigterm_under_load_loses_no_request_and_exits_with_0(keep_alive: bool, delay_s: float) -> None:
    with running_server(drain_delay_s=delay_s) as server:
        clients = [Client(server, keep_alive=keep_alive) for _ in range(8)]
        for client in clients:
            client.start()
        while sum(client.answered for client in clients) < 200 and all(client.is_alive() for client in clients):
            clients[0].join(0.01)
        server.terminate()
        code = server.wait()
        for client in clients:
            client.join()
        assert [loss for client in clients for loss in client.lost] == []
        assert sum(client.answered for client in clients) >= 200
        assert code == 0


def test_while_it_drains_readiness_is_off_and_requests_are_answered() -> None:
    with running_server(drain_delay_s=3) as server:
        server.terminate()
        while (ready := readiness(server))[0] == 200:
            pass
        assert ready[0] == 503
        assert b'"draining":true' in ready[1]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", PATH, PICTURE, {"content-type": "image/png"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("connection") == "close"
        response.read()
        connection.close()
        assert server.wait() == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with running_server(drain_delay_s=60) as server:
        server.terminate()
        while readiness(server)[0] == 200:
            pass
        server.terminate()
        assert server.wait() == 0


def readiness(server: Server) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/health/ready")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body
