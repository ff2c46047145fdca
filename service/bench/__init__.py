"""`inferd bench`: load on a server in scenarios of our own, beside what ONNX Runtime alone would give."""
