"""inferd beside other servers of the same ONNX file, asked by the same load: `make compare`."""
