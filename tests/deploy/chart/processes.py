"""Programs that stand in for a cluster's parts: Prometheus, nginx, and who tells nginx which replicas are ready.

All of them listen on loopback alone, and end with the block that they were started for.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.chart.rendering import NAMESPACE, RELEASE, ROOT, Object, pick, settings
from tests.e2e.server import Server

SERVE_PYTHON: Final = ROOT / ".venv" / "serve" / "bin" / "python"
START_TIMEOUT_S: Final = 30


def needs(*programs: str) -> None:
    """Skip the test where a program is missing."""
    missing = [one for one in programs if not shutil.which(one)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian's packages nginx-light and prometheus)")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def eventually(what: str, done: Callable[[], Any], timeout_s: float = 30.0, every_s: float = 0.2) -> Any:
    """Ask `done` until it says something true, and give that.

    Raises:
        AssertionError: it never did; the message has `what`, and what it said last.
    """
    deadline = time.monotonic() + timeout_s
    while not (said := done()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s; last: {said}"
        time.sleep(every_s)
    return said


class Replica(Server):
    """A server with the environment of the rendered pod, but for its addresses and its folder of models."""

    def __init__(self, name: str, objects: list[Object], models: Path, **changes: object) -> None:
        pod = {key.removeprefix("INFERD_").lower(): value for key, value in settings(objects).items()}
        here = {"host": "127.0.0.1", "port": 0, "grpc_port": 0, "metrics_port": 0, "models": models}
        self.name = name
        super().__init__(python=SERVE_PYTHON, **{**pod, **here, **changes})

    @property
    def address(self) -> str:
        """Host and port of HTTP."""
        return self.url.removeprefix("http://")

    @property
    def metrics_address(self) -> str:
        """Host and port of its metrics."""
        return self.logged(r"metrics are served on (\S+)")

    def is_ready(self) -> bool:
        """What a kubelet would find."""
        try:
            self.get("/health/ready")
        except OSError:
            return False
        return True


@contextmanager
def replicas(*started: Replica) -> Iterator[tuple[Replica, ...]]:
    """Replicas that are ready; they are ended afterwards whatever happens."""
    try:
        for one in started:
            one.wait_until_ready()
        yield started
    finally:
        for one in started:
            one.close()


class Prometheus:
    """A running one that reads replicas as prometheus-operator would have it, and knows a release's rules."""

    def __init__(self, folder: Path, objects: list[Object], targets: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        monitor = pick(objects, "ServiceMonitor")["spec"]["endpoints"][0]
        rules = folder / "rules.json"
        rules.write_text(json.dumps(pick(objects, "PrometheusRule")["spec"]), encoding="utf-8")
        labels = {"namespace": NAMESPACE, "service": RELEASE, "endpoint": monitor["port"], "container": "inferd"}
        config = {
            "global": {"scrape_interval": monitor["interval"], "evaluation_interval": monitor["interval"]},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": RELEASE,
                    "metrics_path": monitor["path"],
                    "scrape_timeout": monitor["scrapeTimeout"],
                    "static_configs": [
                        {"targets": [address], "labels": {**labels, "pod": pod}} for pod, address in targets.items()
                    ],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._url = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self._url.removeprefix('http://')}",
                "--log.level=warn",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Prometheus:
        """Wait until it answers."""

        def answers() -> bool:
            try:
                return bool(self._get("/-/ready"))
            except (OSError, AssertionError):  # it is not there yet, or not ready
                return False

        try:
            eventually("Prometheus answers", answers, START_TIMEOUT_S)
        except AssertionError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def query(self, text: str) -> list[dict[str, Any]]:
        """What a query gives at this moment: `metric` and `value` of each series."""
        result: list[dict[str, Any]] = self._api("query", query=text)["result"]
        return result

    def value(self, text: str) -> float:
        """The value of a query that gives one series; NaN while there is none."""
        found = self.query(text)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else math.nan

    def label_values(self, label: str, match: str) -> list[str]:
        """Which values a label has, as Grafana asks for its variables."""
        values: list[str] = self._api(f"label/{label}/values", **{"match[]": match})
        return values

    def firing(self) -> list[dict[str, Any]]:
        """The alerts that fire, with their labels and annotations."""
        return [one for one in self._api("alerts")["alerts"] if one["state"] == "firing"]

    def _api(self, call: str, **parameters: str) -> Any:
        answer = json.loads(self._get(f"/api/v1/{call}?{urllib.parse.urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self._url + path, timeout=30) as response:  # noqa: S310 - our own
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error


class Nginx:
    """A proxy before replicas, as a Service and an Ingress would be. Nobody is asked twice unless `retries` says so.

    Args:
        folder: for what it writes.
        retries: whether a request that could not be sent to one replica goes to the other. Those that were sent are
            never sent again.
    """

    def __init__(self, folder: Path, *, retries: bool = False) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._retries = retries
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def route(self, addresses: Sequence[str]) -> None:
        """Send requests to these from now on; those that are on their way go on."""
        self._write(addresses)
        if self._process is None:
            command = ["nginx", "-p", str(self._folder), "-c", "nginx.conf", "-e", "error.log"]
            self._process = subprocess.Popen([*command, "-g", "daemon off;"])
            eventually("nginx listens", self._listens, START_TIMEOUT_S, 0.05)
        else:
            self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """End it."""
        if self._process:
            self._process.terminate()
            self._process.wait(30)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _write(self, addresses: Sequence[str]) -> None:
        servers = "\n".join(f"    server {one} max_fails=0;" for one in addresses) or "    server 127.0.0.1:1 down;"
        paths = "\n".join(
            f"  {name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""  # else its processes could not read the test's folder
        written = self._folder / "nginx.conf.new"
        written.write_text(
            f"""{user}
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
{paths}
  access_log off;
  upstream replicas {{
{servers}
    keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{self.port} backlog=1024;
    client_max_body_size 16m;
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream {"error timeout" if self._retries else "off"};
      proxy_connect_timeout 2s;
    }}
  }}
}}
""",
            encoding="utf-8",
        )
        written.rename(self._folder / "nginx.conf")


class Endpoints(threading.Thread):
    """Asks replicas whether they are ready, and has the proxy send requests to those that are: a cluster's part.

    Args:
        proxy: what is told.
        every_s: how often each is asked.
    """

    def __init__(self, proxy: Nginx, *, every_s: float = 0.1) -> None:
        super().__init__(daemon=True)
        self._proxy = proxy
        self._every_s = every_s
        self._known: list[Replica] = []
        self._routed: list[str] | None = None
        self._changed = threading.Condition()
        self._ended = threading.Event()

    def add(self, replica: Replica) -> None:
        """Look at another replica."""
        with self._changed:
            self._known.append(replica)

    def remove(self, replica: Replica) -> None:
        """Look at one no longer."""
        with self._changed:
            self._known.remove(replica)

    def wait_for(self, *wanted: Replica, timeout_s: float = 120.0) -> float:
        """Wait until requests go to these and no others; gives how long that took, in seconds."""
        began = time.monotonic()
        addresses = sorted(one.address for one in wanted)
        with self._changed:
            assert self._changed.wait_for(lambda: self._routed == addresses, timeout_s), (self._routed, addresses)
        return time.monotonic() - began

    def run(self) -> None:
        """Look, again and again."""
        while not self._ended.wait(self._every_s):
            with self._changed:
                known = list(self._known)
            ready = sorted(one.address for one in known if one.is_ready())
            if ready != self._routed:
                self._proxy.route(ready)
                with self._changed:
                    self._routed = ready
                    self._changed.notify_all()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()


@contextmanager
def proxied(folder: Path, *ready: Replica, retries: bool = False) -> Iterator[tuple[Nginx, Endpoints]]:
    """A proxy before replicas, and who tells it of them."""
    proxy = Nginx(folder, retries=retries)
    endpoints = Endpoints(proxy)
    try:
        for one in ready:
            endpoints.add(one)
        endpoints.start()
        endpoints.wait_for(*ready)
        yield proxy, endpoints
    finally:
        endpoints.close()
        proxy.close()
