"""The model that every server here runs, and how: ONNX Runtime on one thread that does not spin, given raw float32.

Servers find it by PYTHONPATH, and the ONNX file by the variable COMPARED_MODEL. It needs NumPy and ONNX Runtime alone.
Where COMPARED_THREADS says more than one, they spin during a run, as inferd's do.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

import numpy as np
import onnxruntime

SHAPE = (1, 28, 28)
ROWS = 16
"""Most rows of a batch, of the servers that gather them."""


class Model:
    """The model, in this process.

    Args:
        path: of the ONNX file; None = what the variable says.
    """

    def __init__(self, path: str | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("COMPARED_THREADS", "1"))
        options.inter_op_num_threads = 1
        spins = options.intra_op_num_threads > 1
        for name, value in (("intra_op.allow_spinning", spins), ("inter_op.allow_spinning", False)):
            options.add_session_config_entry(f"session.{name}", str(int(value)))
        options.add_session_config_entry("session.force_spinning_stop", str(int(spins)))
        self._session = onnxruntime.InferenceSession(
            path or os.environ["COMPARED_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.run(np.zeros((1, *SHAPE), np.float32))

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Logits (rows, 10) of pictures (rows, 1, 28, 28)."""
        logits: np.ndarray = self._session.run(None, {"input": rows})[0]
        return logits

    def one(self, body: bytes) -> bytes:
        """Logits of one picture, both as raw float32."""
        return self.run(np.frombuffer(body, np.float32).reshape(1, *SHAPE)).tobytes()

    def many(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Logits of several pictures, run as one batch, all as raw float32."""
        rows = np.frombuffer(b"".join(bodies), np.float32).reshape(len(bodies), *SHAPE)
        return [one.tobytes() for one in self.run(rows)]


def decoded(pictures: Sequence[str]) -> np.ndarray:
    """Pictures (rows, 1, 28, 28) of base64 of their raw float32: what is cheapest where a body must be JSON."""
    raw = b"".join(base64.b64decode(one) for one in pictures)
    return np.frombuffer(raw, np.float32).reshape(len(pictures), *SHAPE)
