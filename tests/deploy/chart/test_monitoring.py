from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import math
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.chart.loads import ALL_TASKS, JSON, Ask, load
from tests.deploy.chart.processes import (
    SERVE_PYTHON,
    Nginx,
    Prometheus,
    Replica,
    eventually,
    needs,
    proxied,
    replicas,
)
from tests.deploy.chart.rendering import CHART, RELEASE, ROOT, Object, pick, render

KEY: Final = "inferd_test"
CLIENTS: Final = 24
NONSENSE: Final = Ask("/predict/fashion-classifier", b"this is no picture", {"content-type": "image/png"})
FAILS: Final = Ask(
    "/v2/models/picky/infer",
    b'{"inputs": [{"name": "index", "datatype": "INT64", "shape": [1], "data": [99]}]}',
    JSON,
)
"""A run that fails by no fault of the caller's that the server could have known of: 500."""

VALUES: Final[dict[str, Any]] = {
    "settings": {"max_batch_rows": 2, "max_queue_rows": 2, "threads": 1, "profile": "off"},
    "drain": {"delaySeconds": 8},
    "apiKeys": {"lines": [{"name": "shop", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["predict"]}]},
    "serviceMonitor": {"enabled": True, "interval": "1s", "scrapeTimeout": "1s"},
    "dashboard": {"enabled": True},
    "prometheusRule": {
        "enabled": True,
        "rateWindow": "10s",
        "queueWindow": "5s",
        "alerts": {
            **{name: {"for": "2s"} for name in ("unavailable", "notReady", "down", "errorRate", "saturation")},
            "latencyP99": {"for": "2s", "aboveSeconds": 0.005},
            "workerRestarts": {"window": "5m"},
            "quarantined": {"for": "2s"},
        },
    },
}
ALERTS: Final = set(
    re.findall(r"- alert: (\w+)", (CHART / "templates/prometheusrule.yaml").read_text(encoding="utf-8"))
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Two replicas behind a proxy, one that never gets ready, and a Prometheus that reads all three."""

    objects: list[Object]
    serving: tuple[Replica, ...]
    broken: Replica
    proxy: Nginx
    prometheus: Prometheus


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All that a release renders for monitoring, at work."""
    needs("nginx", "prometheus")
    folder = tmp_path_factory.mktemp("cluster")
    objects = render(VALUES)
    models, hostile, keys = folder / "models", folder / "hostile", folder / "keys.jsonl"
    shutil.copytree(ROOT / "models", models)
    run_python("-m", "tests.deploy.chart.failing_model", str(models))
    run_python("-c", WRITE_ENDLESS, str(hostile))
    keys.write_text(pick(objects, "Secret")["stringData"]["keys.jsonl"], encoding="utf-8")
    here = {"api_keys_file": keys, "profile_cache": folder / "profiles"}
    broken = Replica("inferd-broken", objects, hostile, workers=1, load_timeout_s=3, profile="auto", **here)
    try:
        with (
            replicas(*(Replica(f"inferd-{n}", objects, models, workers=2 - n, **here) for n in range(2))) as serving,
            proxied(folder / "nginx", *serving) as (proxy, _),
        ):
            targets = {one.name: one.metrics_address for one in (*serving, broken)}
            with Prometheus(folder / "prometheus", objects, targets) as prometheus:
                yield Cluster(objects, serving, broken, proxy, prometheus)
    finally:
        broken.close()


WRITE_ENDLESS: Final = """
import sys
from pathlib import Path
import onnx
from tests.hostile_graphs import endless_at_once
path = Path(sys.argv[1]) / "endless" / "1" / "model.onnx"
path.parent.mkdir(parents=True)
onnx.save(endless_at_once(), path)
"""


def run_python(*arguments: str) -> None:
    subprocess.run([SERVE_PYTHON, *arguments], cwd=ROOT, check=True, timeout=60)


def with_key(one: Ask) -> Ask:
    return dataclasses.replace(one, headers={**one.headers, "x-api-key": KEY})


def panels() -> list[dict[str, Any]]:
    (text,) = pick(render(VALUES), "ConfigMap", f"{RELEASE}-dashboard")["data"].values()
    return [one for one in json.loads(text)["panels"] if one["type"] != "row"]


def query_of(target: dict[str, Any]) -> str:
    """As Grafana fills it in where everything is chosen."""
    text: str = target["expr"].replace("$__rate_interval", "10s")
    text = re.sub(r"\$(namespace|service|pod|model|version)", ".*", text)
    assert "$" not in text, text
    return text


def fired(prometheus: Prometheus) -> set[tuple[str, str]]:
    """The alerts that fire, and of which pod each tells, if of one."""
    return {(one["labels"]["alertname"], one["labels"].get("pod", "")) for one in prometheus.firing()}


class Nothing:
    """True where there is nothing, and tells what there is."""

    def __init__(self, there: Collection[object]) -> None:
        self._there = there

    def __bool__(self) -> bool:
        return not self._there

    def __repr__(self) -> str:
        return "\n".join(map(str, self._there))


def wrong_panels(prometheus: Prometheus) -> list[str]:
    """Those of whose queries one gives no number, or not the labels that its legend tells."""
    found = []
    for panel in panels():
        for target in panel["targets"]:
            series = [one for one in prometheus.query(query_of(target)) if math.isfinite(float(one["value"][1]))]
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            if not series or any(not labels <= set(one["metric"]) for one in series):
                found.append(f"{panel['title']}: {query_of(target)}: {series}")
    return found


def test_every_panel_has_data_and_every_alert_fires_where_its_reason_is(cluster: Cluster) -> None:
    asks = [with_key(one) for one in (*ALL_TASKS, *ALL_TASKS, NONSENSE, FAILS)]
    supervisor = cluster.serving[0].process.pid
    worker = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii").split()[0])
    with load(cluster.proxy.port, asks, clients=CLIENTS) as clients:
        eventually("load of all kinds", lambda: {"200", "415", "429", "500"} <= set(clients.outcomes))
        eventually("all are read", lambda: cluster.prometheus.value("sum(up)") == 3)
        os.kill(worker, signal.SIGKILL)
        eventually("panels with data", lambda: Nothing(wrong_panels(cluster.prometheus)), 60, 1)
        wanted = {
            ("InferdNotReady", "inferd-broken"),
            ("InferdModelQuarantined", "inferd-broken"),
            ("InferdWorkerRestarts", "inferd-0"),
            *((name, "") for name in ("InferdErrorRate", "InferdLatencyP99", "InferdSaturated")),
        }
        assert {name for name, _ in wanted} | {"InferdUnavailable", "InferdDown"} == ALERTS
        eventually("alerts that fire", lambda: Nothing(wanted - fired(cluster.prometheus)), 60, 0.5)
    said = cluster.prometheus.firing()
    assert {one["labels"]["severity"] for one in said} == {"warning", "critical"}
    for one in said:
        assert f"ml/{RELEASE}" in one["annotations"]["summary"]
        assert "{{" not in one["annotations"]["summary"]


def test_promtool_finds_nothing_wrong_with_the_metrics(cluster: Cluster) -> None:
    with urllib.request.urlopen(f"http://{cluster.serving[0].metrics_address}/metrics", timeout=30) as response:
        exposed = response.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=exposed, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_variables_offer_what_there_is(cluster: Cluster) -> None:
    """Each query of the dashboard's variables, asked as Grafana asks it."""
    (text,) = pick(render(VALUES), "ConfigMap", f"{RELEASE}-dashboard")["data"].values()
    offered = {}
    for one in json.loads(text)["templating"]["list"]:
        if one["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
            assert found
            match = re.sub(r"\$\w+", ".*", found[1])
            offered[one["name"]] = set(cluster.prometheus.label_values(found[2], match))
    assert offered["namespace"] == {"ml"}
    assert offered["service"] == {RELEASE}
    assert offered["pod"] == {"inferd-0", "inferd-1", "inferd-broken"}
    assert offered["model"] == {"fashion-classifier", "shakespeare", "en-de", "fashion-gan", "picky"}
    assert offered["version"] == {"1"}


def test_a_replica_that_is_gone_and_nobody_who_is_ready_are_told(cluster: Cluster) -> None:
    cluster.broken.process.kill()
    eventually("InferdDown", lambda: ("InferdDown", "inferd-broken") in fired(cluster.prometheus))
    assert ("InferdUnavailable", "") not in fired(cluster.prometheus)
    for one in cluster.serving:
        one.terminate()  # they drain for 8 s, and say so
    eventually("InferdUnavailable", lambda: ("InferdUnavailable", "") in fired(cluster.prometheus))
    assert all(one.process.poll() is None for one in cluster.serving)


def test_the_queue_that_autoscalers_read_is_as_deep_as_it_is(tmp_path: Path) -> None:
    """One text grows at a time, so that of n that are asked for n - 1 wait; that is no alert yet."""
    needs("prometheus")
    slow = {"max_batch_rows": 1, "max_queue_s": 10**9, "max_new_tokens": 10**6, "workers": 1, "profile": "off"}
    quick = {"enabled": True, "rateWindow": "10s", "queueWindow": "3s", "alerts": AT_ONCE}
    monitored = {"serviceMonitor": VALUES["serviceMonitor"], "prometheusRule": quick}
    objects = render({**monitored, "settings": slow, "keda": {"enabled": True, "queueDepthPerReplica": 2}})
    shutil.copytree(ROOT / "models" / "shakespeare", tmp_path / "models" / "shakespeare")
    (trigger,) = pick(objects, "ScaledObject")["spec"]["triggers"]
    with replicas(*(Replica(f"inferd-{n}", objects, tmp_path / "models") for n in range(2))) as (first, second):
        targets = {one.name: one.metrics_address for one in (first, second)}
        text = Ask("/predict/shakespeare", b'{"inputs": "ROMEO:", "parameters": {"max_new_tokens": 1000000}}', JSON)
        with Prometheus(tmp_path / "prometheus", objects, targets) as prometheus, ExitStack() as asking:
            query = trigger["metadata"]["query"]
            eventually("an empty queue", lambda: prometheus.value(query) == 0)
            # Before anything was read nobody was known to be ready, which is told at once here.
            eventually("no alert", lambda: prometheus.value("sum(up)") == 2 and not prometheus.firing())
            clients = [asking.enter_context(unanswered(one.port, text)) for one in (first,) * 5 + (second,) * 3]
            assert len(clients) == 8
            eventually("a queue of 4 + 2", lambda: prometheus.value(query) == 6)
            assert prometheus.value("inferd:queue_depth:sum") == 6
            by_pod = {one["metric"]["pod"]: one["value"][1] for one in prometheus.query("inferd_queue_depth")}
            assert by_pod == {"inferd-0": "4", "inferd-1": "2"}
            # As KEDA and the HPA work it out of an AverageValue: three pods would have two rows each.
            assert math.ceil(prometheus.value(query) / float(trigger["metadata"]["threshold"])) == 3
            assert prometheus.firing() == []


AT_ONCE: Final = {
    name: {"for": "0s"}
    for name in ("unavailable", "notReady", "down", "errorRate", "latencyP99", "saturation", "quarantined")
}


@contextmanager
def unanswered(port: int, one: Ask) -> Iterator[None]:
    """Ask, and go away at the end of the block, whatever came by then."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", one.path, one.body, dict(one.headers))
        yield
    finally:
        connection.close()
