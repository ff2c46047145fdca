"""MLServer. `server.py PORT WORKERS ROWS`: a batch has at most ROWS, 1 is none."""

from __future__ import annotations

import asyncio
import socket
import sys

from compared_model import Model, decoded
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """Takes pictures as base64 of raw float32, and answers logits as numbers."""

    async def load(self) -> bool:
        """Load the model, in each worker."""
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run what was asked, or a batch that MLServer has made."""
        logits = self.model.run(decoded(payload.inputs[0].data.root))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])


async def main(port: int, workers: int, rows: int) -> None:
    """Serve until a signal comes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        grpc_port = taken.getsockname()[1]  # it can't be told to speak HTTP alone
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        metrics_endpoint=None,
        parallel_workers=workers,
        gzip_enabled=False,
    )
    batches = {"max_batch_size": rows, "max_batch_time": 0.001} if rows > 1 else {}
    await MLServer(settings).start([ModelSettings(name="resnet-20", implementation="server.Runtime", **batches)])


if __name__ == "__main__":
    asyncio.run(main(*(int(one) for one in sys.argv[1:])))
