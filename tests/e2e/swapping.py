"""A model whose versions tell themselves apart, clients that check it, and the calls that change it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from tests.e2e.server import Server

KEY = {"authorization": "Bearer key"}


def make_version(models: Path, version: int, *, filler: int = 0) -> None:
    """Write a bare model that adds its own version to what it gets; `filler` numbers make it slow to load."""
    folder = models / "swap" / f"{version}"
    folder.mkdir(parents=True)
    constants = {"one": np.array([version], np.float32), "filler": np.zeros(max(1, filler), np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["filler"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["x", "one"], ["more"]),
            helper.make_node("Add", ["more", "nothing"], ["y"]),
        ],
        "adds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def call(connection: http.client.HTTPConnection, path: str, body: object = None) -> tuple[int, Any]:
    connection.request("POST", path, json.dumps(body or {}), {"content-type": "application/json", **KEY})
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else {}


def ask(connection: http.client.HTTPConnection, number: float) -> int:
    """Ask the model for `number` and its version, and return the version after checking that they belong together."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}
    status, answer = call(connection, "/v2/models/swap/infer", {"inputs": [tensor]})
    assert status == 200, answer
    version = int(answer["model_version"])
    assert answer["outputs"][0]["data"] == [number + version]
    return version


def load(connection: http.client.HTTPConnection, versions: Sequence[int]) -> None:
    policy = {"version_policy": {"specific": {"versions": list(versions)}}}
    body = {"parameters": {"config": json.dumps(policy)}}
    status, answer = call(connection, "/v2/repository/models/swap/load", body)
    assert status == 200, answer


def connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)


def versions_of_fresh_connections(server: Server, count: int = 12) -> set[int]:
    """Ask over connections of their own, which go to whichever worker takes them."""
    found = set()
    for number in range(count):
        with closing(connect(server)) as connection:
            found.add(ask(connection, number))
    return found


class Client(threading.Thread):
    """Asks until it is told to stop, and remembers each version that answered and what went wrong.

    It connects anew where an answer says so, as HTTP clients do.
    """

    def __init__(self, server: Server, first: float) -> None:
        super().__init__()
        self.server = server
        self.number = first
        self.stopped = threading.Event()
        self.answers: dict[int, int] = {}
        self.failures: list[str] = []

    @contextmanager
    def connected(self) -> Iterator[Callable[[float], int]]:
        """What asks the model for a number, over one connection."""
        with closing(connect(self.server)) as connection:
            yield lambda number: ask(connection, number)

    def run(self) -> None:
        with self.connected() as ask:
            while not self.stopped.is_set():
                try:
                    version = ask(self.number)
                except Exception as error:
                    self.failures.append(repr(error))
                    return
                self.answers[version] = self.answers.get(version, 0) + 1
                self.number = (self.number + 1) % 1024


class GrpcClient(Client):
    """Does so by gRPC."""

    @contextmanager
    def connected(self) -> Iterator[Callable[[float], int]]:
        # A subchannel of its own: else all channels of this process share one connection, and so one worker.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.server.grpc, options) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )

            def ask(number: float) -> int:
                tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])
                raw = np.array([number], np.float32).tobytes()
                request = pb.ModelInferRequest(model_name="swap", inputs=[tensor], raw_input_contents=[raw])
                # A connection that a worker at its end had not accepted yet is reset: then another one is made.
                answer = infer(request, timeout=60, wait_for_ready=True)
                version = int(answer.model_version)
                assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [number + version]
                return version

            yield ask


def listed(server: Server, version: int) -> dict[str, str] | None:
    """The version's row of the index, if there is one and the worker that is asked lives long enough to tell."""
    with closing(connect(server)) as connection:
        try:
            status, rows = call(connection, "/v2/repository/index")
        except (OSError, http.client.HTTPException):
            return None
    assert status == 200
    return next((row for row in rows if row["version"] == str(version)), None)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # processes of their own: there is nothing to wait on but what they say
