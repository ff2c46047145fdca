from __future__ import annotations

import copy
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.deploy.chart.conftest import Findings
from tests.deploy.chart.rendering import (
    CHART,
    RELEASE,
    ROOT,
    Object,
    ci_values,
    defaults,
    notes,
    pick,
    render,
    server,
    settings,
)

CUSTOM = {"HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
every_ci_file = pytest.mark.parametrize("name", ci_values())


def wanted() -> set[str]:
    return {"default", "cpu", "gpu", "hpa", "keda", "ingress", "networkpolicy", "pvc"}


def test_there_are_values_for_each_way_of_running_it() -> None:
    assert set(ci_values()) == wanted()


@every_ci_file
def test_helm_finds_nothing_wrong(name: str) -> None:
    found = helm_python.lint(CHART, dict(ci_values()[name]))
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@every_ci_file
def test_kubernetes_knows_every_field(name: str) -> None:
    oldest = "1.31" if name == "gpu" else "1.29"  # images as volumes came later
    core = [one for one in render(ci_values()[name]) if one["kind"] not in CUSTOM]
    assert len(core) >= 6
    for one in core:
        for version in (oldest, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_kubernetes_has_not_is_found() -> None:
    deployment = pick(render(), "Deployment")
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(deployment, "1.34", strict=True)


def test_custom_resources_are_of_their_projects_types(custom_resources: Findings) -> None:
    objects = [one for values in ci_values().values() for one in render(values) if one["kind"] in CUSTOM]
    assert {one["kind"] for one in objects} == CUSTOM
    assert custom_resources(objects) == [[]] * len(objects)


def test_what_is_not_of_their_types_is_found(custom_resources: Findings) -> None:
    def changed(kind: str, values: str, change: str, at: tuple[str | int, ...], to: object) -> Object:
        one = copy.deepcopy(pick(render(ci_values()[values]), kind))
        inner: Any = one["spec"]
        for step in at:
            inner = inner[step]
        inner[change] = to
        return one

    found = custom_resources(
        [
            changed("ServiceMonitor", "keda", "intervall", ("endpoints", 0), "1s"),
            changed("ServiceMonitor", "keda", "interval", ("endpoints", 0), "often"),
            changed("PrometheusRule", "keda", "fro", ("groups", 0, "rules", 0), "1m"),
            changed("ScaledObject", "keda", "maxReplicaCount", (), "3"),
            changed("HTTPRoute", "ingress", "hostnames", (), ["no host"]),
        ]
    )
    for said, word in zip(found, ("intervall", "interval", "fro", "maxReplicaCount", "hostnames"), strict=True):
        assert word in " ".join(said)


@every_ci_file
def test_notes_say_how_to_ask_it(name: str) -> None:
    said = notes(ci_values()[name])
    assert f"port-forward service/{RELEASE} 8000:8000" in said
    assert "<no value>" not in said
    assert "%!" not in said


def test_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (package, package)
    assert server(render())["image"] == f"inferd:{package}"
    assert server(render(ci_values()["gpu"]))["image"] == f"registry.example.com/inferd:{package}-gpu"


def test_a_release_of_another_name_shares_no_name_with_the_first() -> None:
    def names(release: str) -> set[tuple[str, str]]:
        values = {**ci_values()["cpu"], "ingress": ci_values()["ingress"]["ingress"]}
        return {(one["kind"], one["metadata"]["name"]) for one in render(values, release=release)}

    assert not names("inferd") & names("canary")
    assert ("Service", "canary-inferd") in names("canary")


def test_no_name_is_longer_than_kubernetes_allows() -> None:
    values = {**ci_values()["cpu"], "ingress": ci_values()["ingress"]["ingress"], "fullnameOverride": "x" * 63}
    assert max(len(one["metadata"]["name"]) for one in render(values) if one["kind"] != "Secret") == 63


@every_ci_file
def test_selectors_select_the_pods(name: str) -> None:
    objects = render(ci_values()[name])
    pod = pick(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    test_pod = pick(objects, "Pod")["metadata"]["labels"].items()
    selectors = [one["spec"]["selector"] for one in objects if one["kind"] in ("Service", "PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"] for one in objects if one["kind"] == "NetworkPolicy"]
    selectors += [pick(objects, "Deployment")["spec"]["selector"]]
    for selector in selectors:
        labels = selector.get("matchLabels", selector).items()
        assert labels <= pod
        assert not labels <= test_pod
    services = [one["metadata"]["labels"].items() for one in objects if one["kind"] == "Service"]
    for one in objects:
        if one["kind"] == "ServiceMonitor":
            (endpoint,) = one["spec"]["endpoints"]
            selected = [labels for labels in services if one["spec"]["selector"]["matchLabels"].items() <= labels]
            assert len(selected) == len(services)
            ports = [
                port["name"] for service in objects if service["kind"] == "Service" for port in service["spec"]["ports"]
            ]
            assert ports.count(endpoint["port"]) == 1, "two Services with this port would be scraped twice"


@every_ci_file
def test_a_pod_ends_within_the_time_it_is_given(name: str) -> None:
    objects = render(ci_values()[name])
    pod = pick(objects, "Deployment")["spec"]["template"]["spec"]
    environment = settings(objects)
    pause = server(objects).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = pause + float(environment["INFERD_DRAIN_DELAY_S"]) + float(environment["INFERD_DRAIN_TIMEOUT_S"])
    # The server takes a second and a quarter beside both, and its supervisor kills 5 s after the second.
    assert pod["terminationGracePeriodSeconds"] >= needed + 7
    assert environment["INFERD_DRAIN_DELAY_S"] == "5"
    probe = server(objects)["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < 5


def test_a_rollout_takes_no_pod_away_before_another_is_ready() -> None:
    strategy = pick(render(), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@every_ci_file
def test_pods_can_do_little(name: str) -> None:
    objects = render(ci_values()[name])
    for pod in (pick(objects, "Deployment")["spec"]["template"]["spec"], pick(objects, "Pod")["spec"]):
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pick(objects, "ServiceAccount")["automountServiceAccountToken"] is False


def test_three_probes_ask_for_what_each_is_for() -> None:
    container = server(render())
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    encrypted = server(render(ci_values()["cpu"]))
    assert {encrypted[f"{kind}Probe"]["httpGet"]["scheme"] for kind in paths} == {"HTTPS"}


def test_settings_reach_the_server_as_it_reads_them(serve_python: Path) -> None:
    given: dict[str, Any] = {
        "workers": 3,
        "max_queue_s": 0.25,
        "max_body_bytes": 33554432,
        "version_policy": "latest",
        "profile": False,  # as YAML reads `off`
        "tracing": False,
        "access_log": True,
        "cors_origins": "https://app.example.com",
    }
    environment = settings(render({"settings": given}))
    script = "from service.settings import Settings; print(Settings().model_dump_json())"
    done = subprocess.run([serve_python, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    expected = {**given, "profile": "off", "tracing": "off", "host": "0.0.0.0", "metrics_port": 8002}
    assert {name: read[name] for name in expected} == expected


def test_changed_settings_make_a_rollout_and_changed_keys_none() -> None:
    def annotations(values: dict[str, Any]) -> Object:
        found: Object = pick(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        return found

    key = {"name": "a", "sha256": "0" * 64, "scopes": ["predict"]}
    assert annotations({}) != annotations({"settings": {"workers": 2}})
    assert annotations({"adminKey": {"value": "a"}}) != annotations({"adminKey": {"value": "b"}})
    assert annotations({"apiKeys": {"lines": [key]}}) == annotations({"apiKeys": {"lines": [{**key, "rate": 5}]}})


def test_keys_are_a_file_that_the_server_reads(serve_python: Path, tmp_path: Path) -> None:
    objects = render(ci_values()["cpu"])
    text = pick(objects, "Secret", f"{RELEASE}-keys")["stringData"]["keys.jsonl"]
    (tmp_path / "keys.jsonl").write_text(text, encoding="utf-8")
    script = "from service.security.keys import read_keys; from pathlib import Path; import sys; "
    script += "print([key.name for key in read_keys(Path(sys.argv[1]))])"
    command = [serve_python, "-c", script, tmp_path / "keys.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "['shop', 'operators']", done.stderr
    mounted = {one["name"]: one["mountPath"] for one in server(objects)["volumeMounts"]}
    assert settings(objects)["INFERD_API_KEYS_FILE"] == f"{mounted['keys']}/keys.jsonl"
    assert pick(objects, "Deployment")["spec"]["template"]["spec"]["volumes"][1]["secret"]["defaultMode"] == 0o440


@pytest.mark.parametrize("name", ["pvc", "gpu", "networkpolicy"])
def test_models_are_mounted_where_the_server_looks(name: str) -> None:
    objects = render(ci_values()[name])
    pod = pick(objects, "Deployment")["spec"]["template"]["spec"]
    (mount,) = [one for one in server(objects)["volumeMounts"] if one["name"] == "models"]
    assert mount["mountPath"] == settings(objects)["INFERD_MODELS"] == "/models"
    assert mount["readOnly"] is True
    (volume,) = [one for one in pod["volumes"] if one["name"] == "models"]
    if name == "pvc":
        assert (volume["persistentVolumeClaim"]["claimName"], mount["subPath"]) == ("models", "prod")
    elif name == "gpu":
        assert volume["image"]["reference"] == "registry.example.com/models:2026-11"
    else:
        (fetching,) = pod["initContainers"]
        assert {one["name"]: one["mountPath"] for one in fetching["volumeMounts"]}["models"] == "/models"
    assert "INFERD_MODELS" not in settings(render()), "the image's own models"


def test_a_gpu_is_asked_for() -> None:
    objects = render(ci_values()["gpu"])
    pod = pick(objects, "Deployment")["spec"]["template"]["spec"]
    assert server(objects)["resources"]["limits"] == {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": 1}
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == defaults()["gpu"]["tolerations"]
    assert settings(objects)["INFERD_DEVICE"] == "cuda"


@pytest.mark.parametrize("name", ["hpa", "keda"])
def test_an_autoscaler_decides_alone_how_many_pods_there_are(name: str) -> None:
    objects = render(ci_values()[name])
    kind = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[name]
    assert pick(objects, kind)["spec"]["scaleTargetRef"]["name"] == pick(objects, "Deployment")["metadata"]["name"]
    assert "replicas" not in pick(objects, "Deployment")["spec"]
    assert pick(render(), "Deployment")["spec"]["replicas"] == 2


def test_what_is_not_listed_is_denied() -> None:
    spec = pick(render(ci_values()["networkpolicy"]), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    clients, scrapers = spec["ingress"]
    assert [one["port"] for one in clients["ports"]] == ["http", "grpc"]
    assert [one["port"] for one in scrapers["ports"]] == ["metrics"]
    names, store = spec["egress"]
    assert [(one["protocol"], one["port"]) for one in names["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert store["to"] == [{"ipBlock": {"cidr": "10.20.0.0/16"}}]


def test_metrics_are_not_where_the_world_outside_reaches() -> None:
    objects = render({"service": {"type": "LoadBalancer"}})
    outside = pick(objects, "Service", RELEASE)["spec"]
    within = pick(objects, "Service", f"{RELEASE}-metrics")["spec"]
    assert [one["name"] for one in outside["ports"]] == ["http", "grpc"]
    assert (within["type"], [one["name"] for one in within["ports"]]) == ("ClusterIP", ["metrics"])


def test_ports_are_those_of_the_container() -> None:
    objects = render()
    container = {one["name"]: one["containerPort"] for one in server(objects)["ports"]}
    environment = settings(objects)
    assert container == {
        "http": int(environment["INFERD_PORT"]),
        "grpc": int(environment["INFERD_GRPC_PORT"]),
        "metrics": int(environment["INFERD_METRICS_PORT"]),
    }
    for port in pick(objects, "Service")["spec"]["ports"]:
        assert port["targetPort"] in container
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    exposed = re.search(r"^EXPOSE (.+)$", image, re.MULTILINE)
    assert exposed
    assert set(map(int, exposed[1].split())) == set(container.values())


def test_a_canary_gets_its_share() -> None:
    (rule,) = pick(render(ci_values()["ingress"]), "HTTPRoute")["spec"]["rules"]
    assert {one["name"]: one["weight"] for one in rule["backendRefs"]} == {"inferd": 90, "canary-inferd": 10}
