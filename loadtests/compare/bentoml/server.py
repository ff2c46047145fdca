"""BentoML. `server.py PORT WORKERS ROWS`: a batch has at most ROWS, 1 is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
from compared_model import ROWS, Model, decoded

_WORKERS = "COMPARED_WORKERS"
_SERVICE = bentoml.service(
    workers=int(os.environ.get(_WORKERS, "1")),
    threads=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    traffic={"timeout": 60},
)


@_SERVICE
class One:
    """One picture a run."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api
    def predict(self, picture: str) -> list[float]:
        """Logits of a picture in base64."""
        return self.model.run(decoded([picture]))[0].tolist()


@_SERVICE
class Many:
    """As many pictures a run as there are."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=ROWS, max_latency_ms=60_000)
    def predict(self, pictures: list[str]) -> list[list[float]]:
        """Logits of pictures in base64."""
        return self.model.run(decoded(pictures)).tolist()


if __name__ == "__main__":
    port, workers, rows = sys.argv[1:]
    os.environ[_WORKERS] = workers
    program = str(Path(sys.executable).with_name("bentoml"))
    service = "server:Many" if int(rows) > 1 else "server:One"
    folder = str(Path(__file__).parent)
    os.execv(  # noqa: S606 - no shell is wanted
        program, [program, "serve", service, "--working-dir", folder, "--host", "127.0.0.1", "--port", port]
    )
