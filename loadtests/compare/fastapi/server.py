"""FastAPI as one writes it first: an endpoint that runs the model. `server.py PORT WORKERS [THREADS]`."""

from __future__ import annotations

import os
import sys

import numpy as np
import uvicorn
from compared_model import SHAPE, Model
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel


class Picture(BaseModel):
    """A picture as JSON, (1, 28, 28)."""

    inputs: list[list[list[float]]]


def create_app() -> FastAPI:
    """The app; each worker has its own."""
    app = FastAPI()
    model = Model()

    @app.post("/raw")
    async def raw(request: Request) -> Response:
        return Response(model.one(await request.body()), media_type="application/octet-stream")

    @app.post("/json")
    def of_json(picture: Picture) -> list[float]:
        return model.run(np.array(picture.inputs, np.float32).reshape(1, *SHAPE))[0].tolist()

    return app


if __name__ == "__main__":
    port, workers, *threads = (int(one) for one in sys.argv[1:])
    if threads:
        os.environ["COMPARED_THREADS"] = str(threads[0])
    uvicorn.run(
        "server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
