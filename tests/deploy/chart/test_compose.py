"""What compose.yaml runs beside inferd: its Prometheus reads a real server, and knows the alerts of the chart."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.chart.compose import ALERTS, NAMESPACE, SERVICE, written
from tests.deploy.chart.processes import SERVE_PYTHON, eventually, free_port, needs
from tests.deploy.chart.rendering import CHART, ROOT
from tests.e2e.server import running_server

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
CONFIG: Final = ROOT / "deploy" / "prometheus"
TARGET: Final = "inferd:8002"


def test_alerts_are_those_of_the_chart() -> None:
    assert ALERTS.read_text(encoding="utf-8") == written(), (
        "make them anew: .venv/chart/bin/python -m tests.deploy.chart.compose"
    )


def test_what_is_mounted_is_there_and_nobody_else_is_let_in() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), f"{name} is published to everybody: {port}"
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], volume
    inferd = COMPOSE["services"]["inferd"]
    assert inferd["read_only"] is True
    assert inferd["cap_drop"] == ["ALL"]


def test_grafana_finds_its_prometheus_and_the_dashboard_of_the_chart() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    address = urllib.parse.urlsplit(source["url"])
    assert address.hostname in COMPOSE["services"]
    assert f":{address.port}:" in COMPOSE["services"][address.hostname]["ports"][0]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "inferd.yaml").read_text())["providers"]
    grafana = COMPOSE["services"]["grafana"]
    mounted = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    folder = ROOT / mounted[provider["options"]["path"]]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name
    assert (folder / home).samefile(CHART / "dashboards" / home)
    assert json.loads((folder / home).read_text(encoding="utf-8"))["panels"]


def test_prometheus_reads_the_server_under_the_labels_that_alerts_and_dashboard_ask_for(tmp_path: Path) -> None:
    needs("prometheus")
    with running_server(python=SERVE_PYTHON, workers=2, host="127.0.0.1", metrics_port=0) as server:
        address = server.logged(r"metrics are served on (\S+)")
        with prometheus(tmp_path, address) as ask:
            labels = f'namespace="{NAMESPACE}",service="{SERVICE}"'

            def ready() -> Any:
                return ask("query", query=f"inferd_ready{{{labels}}}")["result"]

            (series,) = eventually("the server is read", ready)
            assert series["value"][1] == "1"
            groups = ask("rules")["groups"]
            stated = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
            assert {one["name"]: len(one["rules"]) for one in groups} == {
                one["name"]: len(one["rules"]) for one in stated
            }

            def evaluated() -> bool:
                rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
                return all(rule["health"] == "ok" for rule in rules)

            eventually("every rule is evaluated", evaluated)
            eventually("no alert is left, now that the server is known", lambda: ask("alerts")["alerts"] == [])
            (depth,) = eventually("a queue", lambda: ask("query", query="inferd:queue_depth:sum")["result"])
            assert depth["metric"]["service"] == SERVICE


@contextmanager
def prometheus(folder: Path, address: str) -> Iterator[Callable[..., Any]]:
    """Run Prometheus as compose.yaml does, but for where the server is; gives a function that asks its API."""
    shutil.copytree(CONFIG, folder / "etc")
    config = folder / "etc" / "prometheus.yml"
    text = config.read_text(encoding="utf-8")
    assert TARGET in text
    config.write_text(text.replace(TARGET, address).replace("5s", "1s"), encoding="utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"]

    def ask(call: str, **parameters: str) -> Any:
        whole = f"{url}/api/v1/{call}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(whole, timeout=30) as response:  # noqa: S310 - our own
            return json.load(response)["data"]

    def answers() -> bool:
        try:
            return bool(ask("status/buildinfo"))
        except OSError:
            return False

    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            eventually("Prometheus answers", answers)
            yield ask
        finally:
            process.terminate()
            process.wait(30)
