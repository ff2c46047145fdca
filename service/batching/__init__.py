"""Many small requests become few large runs: `policy` decides, `batcher` acts, `arrays` joins and parts the tensors."""
