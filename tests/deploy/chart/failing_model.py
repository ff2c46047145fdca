"""Writes a model whose runs fail where the caller says so: an index beyond its table. `.venv/serve` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper


def main(folder: Path) -> None:
    """Write the bare graph `folder/picky/1/model.onnx`: (n,) INT64 -> (n,) FP32."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 1.0, 2.0, 3.0])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        "picky",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n"])],
        [table],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    path = folder / "picky" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
