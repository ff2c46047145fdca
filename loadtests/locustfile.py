"""Load on the image classifier, by its pictures and by its tensors.

`make serve` in one terminal, then in another:
`make loadtest ARGS="--host http://127.0.0.1:8000 --users 64 --spawn-rate 64 --run-time 20s"`
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from locust import FastHttpUser, task

MODEL = "fashion-classifier"
PICTURE = (Path(__file__).resolve().parents[1] / "docs" / "examples" / "shoe.png").read_bytes()
SHAPE = (1, 1, 28, 28)


class Classifier(FastHttpUser):
    """A client that asks again as soon as it is answered."""

    def on_start(self) -> None:
        """Make the tensor request once: making it is not what is measured."""
        numbers = [round(random.uniform(-1, 2), 3) for _ in range(28 * 28)]
        tensor = {"name": "image", "shape": SHAPE, "datatype": "FP32", "data": numbers}
        self.tensors = json.dumps({"inputs": [tensor]})

    @task
    def picture(self) -> None:
        """The task dialect, a PNG."""
        self.client.post(f"/predict/{MODEL}", data=PICTURE, headers={"content-type": "image/png"}, name="predict")

    @task
    def tensor(self) -> None:
        """The Open Inference Protocol, JSON."""
        headers = {"content-type": "application/json"}
        self.client.post(f"/v2/models/{MODEL}/infer", data=self.tensors, headers=headers, name="infer")
