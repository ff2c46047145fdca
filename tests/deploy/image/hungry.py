"""Write a model that takes as much memory as it is asked to, to the path given; run in the image, which has ONNX."""

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

path = Path(sys.argv[1])
one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
graph = helper.make_graph(
    [
        helper.make_node("ConstantOfShape", ["count"], ["many"], value=one),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=1),
    ],
    "hungry",
    [helper.make_tensor_value_info("count", TensorProto.INT64, [1])],
    [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
path.parent.mkdir(parents=True, exist_ok=True)
path.write_bytes(model.SerializeToString())
