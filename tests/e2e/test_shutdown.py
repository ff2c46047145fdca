from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from tests.bundles import HEIGHT, WIDTH, make_bundle, slow_graph
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


pytestmark = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])


@pytest.mark.parametrize(
    ("keep_alive", "delay_s"), [(False, 0), (True, 0.5)], ids=["fresh connections", "kept connections, with a delay"]
)
def test_sigterm_under_load_loses_no_request_and_exits_with_0(workers: int, keep_alive: bool, delay_s: float) -> None:
    with running_server(workers=workers, drain_delay_s=delay_s) as server:
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


def test_grpc_calls_that_were_accepted_are_answered(workers: int, tmp_path: Path) -> None:
    make_bundle(tmp_path, graph=slow_graph(), batching={"max_batch_size": 1})
    pixels = np.full((1, 1, HEIGHT, WIDTH), 0.5, np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=pixels.shape)
    request = pb.ModelInferRequest(model_name="tiny", inputs=[tensor], raw_input_contents=[pixels.tobytes()])
    with running_server(models=tmp_path, workers=workers) as server, grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        calls = [infer.future(request, timeout=60) for _ in range(24)]
        calls[0].result()
        server.terminate()
        assert all(call.result().outputs[0].name == "logits" for call in calls)
        assert server.wait() == 0


def test_while_it_drains_readiness_is_off_and_requests_are_answered(workers: int) -> None:
    with running_server(workers=workers, drain_delay_s=3) as server:
        server.terminate()
        while (ready := readiness(server))[0] == 200:
            pass
        assert ready[0] == 503
        assert b'"draining":true' in ready[1]
        # Another worker may hear of it a moment later.
        until = time.monotonic() + 2
        while (goodbye := answered(server)) != "close" and time.monotonic() < until:
            pass
        assert goodbye == "close"
        assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(workers: int) -> None:
    with running_server(workers=workers, drain_delay_s=60) as server:
        server.terminate()
        while readiness(server)[0] == 200:
            pass
        server.terminate()
        assert server.wait() == 0
        assert [line for line in server.log if line.get("level") not in ("info", None)] == []


def answered(server: Server) -> str | None:
    """What an answer says of its connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("POST", PATH, PICTURE, {"content-type": "image/png"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        return response.getheader("connection")


def readiness(server: Server) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/health/ready")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body
