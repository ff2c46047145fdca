"""mosec with one stage of workers. `server.py PORT WORKERS ROWS`: a batch has at most ROWS, 1 is none."""

from __future__ import annotations

import sys

from compared_model import Model
from mosec import Server, Worker


class Raw(Worker):
    """Bodies are raw float32 in both directions."""

    def __init__(self) -> None:
        self.model = Model()

    def deserialize(self, data: bytes) -> bytes:
        """A body as it is."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """An answer as it is."""
        return data


class One(Raw):
    """One picture a run."""

    def forward(self, data: bytes) -> bytes:
        """Run it."""
        return self.model.one(data)


class Many(Raw):
    """As many pictures a run as there are."""

    def forward(self, data: list[bytes]) -> list[bytes]:
        """Run them."""
        return self.model.many(data)


if __name__ == "__main__":
    port, workers, rows = (int(one) for one in sys.argv[1:])
    sys.argv = [
        sys.argv[0],
        "--address",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "error",
        "--timeout",
        "30000",
    ]
    server = Server()
    if rows > 1:
        server.append_worker(Many, num=workers, max_batch_size=rows, max_wait_time=1)
    else:
        server.append_worker(One, num=workers)
    server.run()
