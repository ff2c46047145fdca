"""The Open Inference Protocol (v2), as KServe and Triton speak it: tensors in and tensors out, over REST and gRPC.

`inference` holds what an inference request means whoever sends it, `tensors` how a tensor looks on the wire; `rest` and
`grpc` are two thin dialects over them.
"""
