"""The Open Inference Protocol (v2) over gRPC: the one place that knows gRPC."""

import os

# gRPC would follow its process into a fork: it writes to the log that it can't, or tears connections down where it can.
# A fork is always the first half of starting another program here. gRPC reads this once, when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
