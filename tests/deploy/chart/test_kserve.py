from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.deploy.chart.kserve_types import schema_of
from tests.deploy.chart.rendering import ROOT, Object

EXAMPLES = ROOT / "docs" / "examples" / "kserve"
TYPES = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}


def manifests() -> dict[str, Object]:
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(EXAMPLES.glob("*.yaml"))}


def wrong(wheel: Path, manifest: Object) -> Iterator[str]:
    validator = jsonschema.Draft7Validator(schema_of(wheel, TYPES[manifest["kind"]]))
    return (error.message for error in validator.iter_errors(manifest))


@pytest.mark.parametrize("name", manifests())
def test_the_examples_are_of_kserves_types(name: str, kserve_wheel: Path) -> None:
    manifest = manifests()[name]
    assert (
        manifest["apiVersion"]
        == {
            "ServingRuntime": "serving.kserve.io/v1alpha1",
            "InferenceService": "serving.kserve.io/v1beta1",
        }[manifest["kind"]]
    )
    assert list(wrong(kserve_wheel, manifest)) == []


def test_what_is_not_of_kserves_types_is_found(kserve_wheel: Path) -> None:
    for name, manifest in manifests().items():
        odd = copy.deepcopy(manifest)
        if odd["kind"] == "ServingRuntime":
            odd["spec"]["containers"][0]["imagePullPolice"] = "Always"
            assert "imagePullPolice" in " ".join(wrong(kserve_wheel, odd)), name
            odd["spec"].pop("containers")
        else:
            odd["spec"]["predictor"]["model"]["storageURI"] = "s3://models"
            assert "storageURI" in " ".join(wrong(kserve_wheel, odd)), name
            odd["spec"].pop("predictor")
        assert "required" in " ".join(wrong(kserve_wheel, odd)), name


def test_the_services_ask_for_the_runtime_that_there_is_by_ports_that_it_has() -> None:
    described = manifests()
    runtime = described.pop("servingruntime")
    (container,) = runtime["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert container["name"] == "kserve-container"
    assert environment["INFERD_MODELS"] == "/mnt/models"
    assert [one["containerPort"] for one in container["ports"]] == [int(environment["INFERD_PORT"])]
    formats = {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
    ports = {"v2": [int(environment["INFERD_PORT"])], "grpc-v2": [int(environment["INFERD_GRPC_PORT"])]}
    for service in described.values():
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["modelFormat"]["name"] in formats
        assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
        published = model.get("ports", container["ports"])
        assert [one["containerPort"] for one in published] == ports[model["protocolVersion"]]
