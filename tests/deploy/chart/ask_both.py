"""Asks the same of a server by REST and by gRPC of the Open Inference Protocol, and prints both answers.

`.venv/serve` runs it.
"""

from __future__ import annotations

import json
import struct
import sys
import urllib.request

import grpc

from service.protocols.open_inference.grpc import open_inference_pb2 as pb

VALUES = [0.5] * 784
SHAPE = [1, 1, 28, 28]


def by_rest(port: str) -> list[float]:
    """What the classifier says of a grey picture."""
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": SHAPE, "data": VALUES}]}
    url = f"http://127.0.0.1:{port}/v2/models/fashion-classifier/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own server
        answer: list[float] = json.load(response)["outputs"][0]["data"]
        return answer


def by_grpc(port: str) -> list[float]:
    """The same."""
    asked = pb.ModelInferRequest(model_name="fashion-classifier", raw_input_contents=[struct.pack("<784f", *VALUES)])
    asked.inputs.add(name="image", datatype="FP32", shape=SHAPE)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        answer = infer(asked, timeout=30, wait_for_ready=True)
    return list(struct.unpack("<10f", answer.raw_output_contents[0]))


if __name__ == "__main__":
    print(json.dumps([struct.unpack("<10f", struct.pack("<10f", *by_rest(sys.argv[1]))), by_grpc(sys.argv[2])]))
