"""Locust on a server of its own: what `make loadtest-ci` runs.

    .venv/serve/bin/python loadtests/run_locust.py .venv/loadtest/bin/locust --users 12 --run-time 30s

with any options of locust and of `locustfile.py` but the address. The server has every model of `models/`, on a free
port; the exit code is locust's, which is 1 past a threshold.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.bench.own_server import own_server
from service.settings import Settings

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Start the server, run locust against it, and end it."""
    locust, *options = sys.argv[1:]
    with own_server(Settings(models=HERE.parent / "models")) as address:
        command = [locust, "--headless", "--locustfile", str(HERE / "locustfile.py"), "--host", str(address), *options]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
