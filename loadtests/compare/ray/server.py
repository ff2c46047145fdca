"""Ray Serve. `server.py PORT REPLICAS ROWS`: a batch has at most ROWS, 1 is none."""

from __future__ import annotations

import os
import signal
import sys

import ray
from compared_model import ROWS, Model
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


class One:
    """One picture a run."""

    def __init__(self) -> None:
        self.model = Model()

    async def __call__(self, request: Request) -> Response:
        """Bodies are raw float32 in both directions."""
        return Response(self.model.one(await request.body()), media_type="application/octet-stream")


class Many:
    """As many pictures a run as there are."""

    def __init__(self) -> None:
        self.model = Model()

    async def __call__(self, request: Request) -> Response:
        """Bodies are raw float32 in both directions."""
        return Response(await self.run(await request.body()), media_type="application/octet-stream")

    @serve.batch(max_batch_size=ROWS, batch_wait_timeout_s=0.001)
    async def run(self, bodies: list[bytes]) -> list[bytes]:
        """Run them."""
        return self.model.many(bodies)


if __name__ == "__main__":
    port, replicas, rows = (int(one) for one in sys.argv[1:])
    ray.init(
        num_cpus=replicas,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["COMPARED_FOLDER"],
    )
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    deployed = serve.deployment(Many if rows > 1 else One).options(
        num_replicas=replicas, max_ongoing_requests=100, max_queued_requests=-1, logging_config=quiet
    )
    serve.run(deployed.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
