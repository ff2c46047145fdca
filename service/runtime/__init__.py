"""ONNX Runtime: sessions, the devices they run on, and how long they take."""
