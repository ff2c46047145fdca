"""LitServe. `server.py PORT WORKERS ROWS SERVERS QUEUE`.

A batch has at most ROWS, 1 is none; SERVERS processes speak HTTP; QUEUE is zmq or manager.
"""

# No `from __future__ import annotations`: LitServe looks at what stands beside `request`, and must find no string.
import sys
from typing import Annotated

import litserve
from compared_model import Model
from fastapi import Body, Response


class Raw(litserve.LitAPI):
    """Bodies are raw float32 in both directions."""

    def setup(self, device: str) -> None:
        """Load the model, in each worker."""
        self.model = Model()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """A body as it is."""
        return request

    def encode_response(self, output: bytes) -> Response:
        """An answer as it is."""
        return Response(output, media_type="application/octet-stream")


class One(Raw):
    """One picture a run."""

    def predict(self, x: bytes) -> bytes:
        """Run it."""
        return self.model.one(x)


class Many(Raw):
    """As many pictures a run as there are."""

    def predict(self, x: list[bytes]) -> list[bytes]:
        """Run them."""
        return self.model.many(x)

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """They are put together in `predict`."""
        return inputs

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """They have been parted there, too."""
        return output


if __name__ == "__main__":
    port, workers, rows, servers = (int(one) for one in sys.argv[1:5])
    api = Many(max_batch_size=rows, batch_timeout=0.001) if rows > 1 else One()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=sys.argv[5] == "zmq")
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=servers,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
