"""The server: it loads bundles from `models/` into ONNX Runtime and answers requests in batches.

It never imports PyTorch or `training`. The floors are drawn in docs/architecture.md.
"""
