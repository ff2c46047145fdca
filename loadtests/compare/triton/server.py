"""Triton's server as pytriton brings it. `server.py PORT WORKERS ROWS`: a batch has at most ROWS, 1 is none."""

from __future__ import annotations

import sys

import numpy as np
from compared_model import SHAPE, Model
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance() -> object:
    """What one thread calls."""
    model = Model()

    @batch
    def run(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": model.run(inputs["input"])}

    return run


if __name__ == "__main__":
    port, workers, rows = (int(one) for one in sys.argv[1:])
    config = TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="resnet-20",
            infer_func=[instance() for _ in range(workers)],
            inputs=[Tensor(name="input", dtype=np.float32, shape=SHAPE)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=rows, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
