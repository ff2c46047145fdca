"""Pods as they are rendered, run by podman: the Deployment's, that of `helm test`, and KServe's of the examples.

A kubelet is not here. Ports are taken out, as all of them share the machine's network, and probes, which podman leaves
to systemd: the tests ask what the probes would.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart.loads import ALL_TASKS, load
from tests.deploy.chart.processes import SERVE_PYTHON, eventually, free_port
from tests.deploy.chart.rendering import ROOT, Object, pick, render, server
from tests.deploy.containers import build_image, missing, podman

RELEASE = f"played-{os.getpid()}"
READY_TIMEOUT_S = 90


@pytest.fixture(scope="module")
def image() -> dict[str, str]:
    """The image of this checkout, as values name it."""
    if problem := missing():
        pytest.skip(f"{problem}; `make image` brings them")
    repository, _, tag = build_image().rpartition(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"}


@contextmanager
def played(folder: Path, *objects: Object) -> Iterator[None]:
    """Run objects by `podman play kube`; they are taken down afterwards, whatever happens."""
    file = folder / "play.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    names = [one["metadata"]["name"] for one in objects if one["kind"] in ("Deployment", "Pod")]
    try:
        podman("play", "kube", "--network=host", str(file))
        yield
    finally:
        there = podman("pod", "ps", "--format={{.Name}}").stdout.split()
        for pod in there:
            if pod in names or any(pod.startswith(f"{name}-pod") for name in names):
                podman("pod", "rm", "--force", "--time=0", pod, check=False)


def without_ports_and_probes(pod: Object) -> Object:
    pod = copy.deepcopy(pod)
    for container in pod["containers"]:
        for key in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(key, None)
    return pod


def state(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman("inspect", container).stdout)[0]
    return found


def get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def test_the_deployment_runs_and_helms_test_gets_its_predictions(image: dict[str, str], tmp_path: Path) -> None:
    values = {"image": image, "replicas": 1, "settings": {"workers": 1}, "drain": {"delaySeconds": 2}}
    objects = render(values, release=RELEASE)
    name = f"{RELEASE}-inferd"
    ports = {one: free_port() for one in ("INFERD_PORT", "INFERD_GRPC_PORT", "INFERD_METRICS_PORT")}
    settings = pick(objects, "ConfigMap", name)
    settings["data"] |= {"INFERD_HOST": "127.0.0.1", **{key: str(port) for key, port in ports.items()}}
    deployment = pick(objects, "Deployment")
    probes = {kind: server(objects)[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    template = deployment["spec"]["template"]
    grace_s = template["spec"]["terminationGracePeriodSeconds"]
    template["spec"] = without_ports_and_probes(template["spec"])
    url = f"http://127.0.0.1:{ports['INFERD_PORT']}"
    with played(tmp_path, settings, deployment):
        for path in probes.values():
            eventually(path, lambda path=path: get(url + path) == 200, READY_TIMEOUT_S)
        (container,) = [
            one
            for one in podman("ps", "--format={{.Names}}").stdout.split()
            if one.startswith(name) and one.endswith("-inferd")
        ]
        running = state(container)
        assert running["HostConfig"]["ReadonlyRootfs"] is True
        assert running["EffectiveCaps"] in ([], None)
        assert running["Config"]["User"] == "10001:10001"
        assert podman("exec", container, "id", "-u").stdout.strip() == "10001"
        assert podman("exec", container, "sh", "-c", "touch /x", check=False).returncode != 0
        assert get(f"http://127.0.0.1:{ports['INFERD_METRICS_PORT']}/metrics") == 200
        assert get(f"{url}/metrics") == 404

        asking = pick(objects, "Pod")
        for one in asking["spec"]["containers"][0]["env"]:
            if one["name"] == "URL":
                assert one["value"] == f"http://{name}:8000"
                one["value"] = url
        (tmp_path / "test").mkdir()
        with played(tmp_path / "test", asking):
            asked = f"{asking['metadata']['name']}-predict"
            assert podman("wait", asked).stdout.strip() == "0", podman("logs", asked).stderr
            said = podman("logs", asked).stdout
        for model in ("en-de", "fashion-classifier", "fashion-gan", "shakespeare"):
            assert f"{model} answers:" in said

        with load(ports["INFERD_PORT"], ALL_TASKS, clients=4) as clients:
            eventually("all are answered", lambda: clients.answered > 20)
            began = time.monotonic()
            with ThreadPoolExecutor() as others:  # a kubelet's way: SIGTERM, and SIGKILL when the grace period is over
                ending = others.submit(podman, "stop", f"--time={grace_s}", container)
                eventually("not ready", lambda: get(f"{url}{probes['readiness']}") == 503)
                clients.stop()  # as a cluster sends no more to a pod that is not ready
                ending.result()
            assert time.monotonic() - began < grace_s
            assert state(container)["State"]["ExitCode"] == 0
        assert clients.failures == {}, "what was admitted while it drained was answered"


def test_kserves_runtime_serves_what_is_mounted_by_both_protocols(image: dict[str, str], tmp_path: Path) -> None:
    file = ROOT / "docs" / "examples" / "kserve" / "servingruntime.yaml"
    runtime = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
    pod = without_ports_and_probes({"containers": runtime["containers"], "volumes": runtime["volumes"]})
    (container,) = pod["containers"]
    container["image"] = f"{image['repository']}:{image['tag']}"
    # What KServe's storage initializer does: it puts what storageUri names there, and the server finds it.
    pod["volumes"].append({"name": "models", "hostPath": {"path": str(ROOT / "models"), "type": "Directory"}})
    container["volumeMounts"].append({"name": "models", "mountPath": "/mnt/models", "readOnly": True})
    ports = {"INFERD_PORT": free_port(), "INFERD_GRPC_PORT": free_port(), "INFERD_METRICS_PORT": free_port()}
    for one in container["env"]:
        if one["name"] in ports:
            one["value"] = str(ports[one["name"]])
    container["env"] += [{"name": "INFERD_HOST", "value": "127.0.0.1"}, {"name": "INFERD_WORKERS", "value": "1"}]
    name = f"{RELEASE}-kserve"
    probes = [runtime["containers"][0][f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")]
    with played(tmp_path, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}):
        for path in probes:
            eventually(path, lambda path=path: get(f"http://127.0.0.1:{ports['INFERD_PORT']}{path}") == 200, 90)
        asked = subprocess.run(
            [
                SERVE_PYTHON,
                "-m",
                "tests.deploy.chart.ask_both",
                str(ports["INFERD_PORT"]),
                str(ports["INFERD_GRPC_PORT"]),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert asked.returncode == 0, asked.stderr
    rest, grpc = json.loads(asked.stdout)
    assert rest == grpc
    assert len(rest) == 10
