"""The server that is fuzzed: what it serves, how it is bounded, and good requests that it must go on answering."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.service import SERVICE
from tests.bundles import identities_graph, lengths_graph, make_bare
from tests.e2e.pictures import made_up_png
from tests.e2e.server import ROOT, Server, running_server
from tests.fuzz.infers import KINDS, ROW
from tests.fuzz.manifests import make_sources
from tests.fuzz.wire import Client, post
from tests.text_bundles import make_text_bundle

SETTINGS: Final = {
    "workers": 2,
    "threads": 1,
    "max_new_tokens": 64,
    "max_text_characters": 400,
    "max_prompt_tokens": 512,
    "max_pixels": 2**20,
    "max_body_bytes": 2**20,
    "head_timeout_s": 2,
    "body_timeout_s": 2,
}
"""Bounds that a case can reach in passing: behind larger ones there is the same code, and it takes longer."""

BUNDLED: Final = ("en-de", "fashion-classifier", "fashion-gan", "shakespeare")


def make_models(models: Path, sources: Path) -> None:
    """Fill the folder to serve, and that of the bundles which are damaged."""
    for name in BUNDLED:
        shutil.copytree(ROOT / "models" / name, models / name)
    make_bare(models, "bare")
    make_bare(models, "lengths", graph=lengths_graph())
    tensors = {name: (datatype, ("batch", 2)) for name, (datatype, _) in KINDS.items()}
    make_bare(models, "kinds", graph=identities_graph(tensors))
    make_text_bundle(models)
    make_sources(sources)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve with two workers, until the end."""
    models, sources = folder / "models", folder / "sources"
    make_models(models, sources)
    with running_server(models=models, profile_cache=folder / "profiles", **SETTINGS) as server:
        yield server


class GoodRequests:
    """Requests whose answers are known, or were given before anything was fuzzed.

    Args:
        server: that is asked.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known = self._answers()

    def ask(self) -> list[str]:
        """Ask them all anew.

        Returns:
            What is wrong with the answers, or with what the server tells of itself.
        """
        wrong = [f"{name}: {answer!r}" for name, answer in self._answers().items() if answer != self._known[name]]
        restarts = self._server.metric("inferd_worker_restarts_total")
        return wrong + ([f"{restarts:g} workers have ended"] if restarts else [])

    def _answers(self) -> dict[str, object]:
        """The answers by name, each on a connection of its own, so that both workers are asked."""
        text = {"inputs": "the", "parameters": {"max_new_tokens": 12, "seed": 1}}
        drawn = {"inputs": "a bag", "parameters": {"seed": 5}}
        found: dict[str, object] = {
            "ready": json.loads(self._server.get("/health/ready"))["ready"],
            "a picture": self._post("/predict/fashion-classifier", made_up_png(3), "image/png"),
            "a text": self._post("/predict/tiny-text", text),
            "a play": self._post("/predict/shakespeare", text),
            "a translation": self._post("/translate", {"q": "A dog runs.", "source": "en", "target": "de"}),
            "a drawing": self._post("/predict/fashion-gan", drawn),
            "gRPC": self._infer(),
        }
        for number in range(3):
            row = [number + 0.5, -1.0, 3.0]
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": row}
            answer = json.loads(self._post("/v2/models/bare/infer", {"inputs": [tensor]}))
            found[f"tensors {number}"] = [one["data"] for one in answer["outputs"]] == [row]
        return found

    def _post(self, path: str, body: Any, media_type: str = "application/json") -> bytes:
        client = Client(self._server.port)
        try:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = client.ask(post(path, content, ("content-type", media_type), ("connection", "close")))
        finally:
            client.close()
        return answer.body if answer.status == 200 else b"%d %b" % (answer.status, answer.body)

    def _infer(self) -> object:
        request = pb.ModelInferRequest(model_name="bare", raw_input_contents=[ROW])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._server.grpc, options=options) as channel:
            call = channel.unary_unary(
                f"/{SERVICE.full_name}/ModelInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelInferResponse.FromString,
            )
            try:
                answer = call(request, 30, wait_for_ready=True)
            except grpc.RpcError as error:
                return str(error)
        return np.array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4"), [1, 2, 3])
