"""ONNX Runtime: sessions, the devices they run on, and how long they take."""

import os

# Some builds of ONNX Runtime would tell their makers how they are used; it is asked when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
