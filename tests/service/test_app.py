from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import onnxruntime as ort
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.machine import cpu_quota
from service.repository.bundle import LoadOptions
from service.settings import Settings
from tests.bundles import make_bundle
from tests.conftest import start
from tests.service.requests import parsed


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_metrics_may_have_a_port_of_their_own(models: Path, free_port: int) -> None:
    make_bundle(models)
    address = f"http://127.0.0.1:{free_port}/metrics"
    with start(models=models, metrics_port=free_port) as client:
        assert client.get("/metrics").status_code == 404
        with urllib.request.urlopen(address, timeout=10) as response:
            series = parsed(response.read().decode())
        assert series['inferd_model_ready{model="tiny",version="1"}'] == 1
    with pytest.raises(urllib.error.URLError), urllib.request.urlopen(address, timeout=10):
        pass


def test_a_metrics_port_that_is_taken_keeps_the_app_from_starting(models: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        app = create_app(Settings(models=models, metrics_port=listener.getsockname()[1]))
        with pytest.raises(OSError, match="in use"), TestClient(app):
            pass


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_device_that_is_not_there_keeps_the_app_from_being_made(models: Path) -> None:
    with pytest.raises(ValueError, match="INFERD_DEVICE=cuda"):
        create_app(Settings(models=models, device="cuda"))


def test_bundles_are_loaded_as_the_settings_say() -> None:
    options = LoadOptions.of(Settings(device="cpu", threads=3, max_batch_rows=7, max_pixels=11, max_text_characters=5))
    assert options.providers == ("CPUExecutionProvider",)
    assert options.threads == 3
    assert options.max_batch_rows == 7
    assert options.limits.max_pixels == 11
    assert options.limits.max_text_characters == 5


def test_unless_told_otherwise_a_model_has_the_threads_that_this_process_may_use_and_eight_at_most() -> None:
    assert LoadOptions.of(Settings()).threads == min(cpu_quota(), 8)


def test_the_documentation_page_needs_no_other_server(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    assert not any(address.startswith(("http:", "https:", "//")) for address in loaded)
    for address in loaded:
        assert client.get(address).status_code == 200


def test_the_openapi_description_has_every_route_and_what_it_takes(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["info"] == {"title": "inferd", "version": version("inferd")}
    assert set(described["paths"]) == {
        "/detect",
        "/languages",
        "/translate",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/playground/models/{model}/versions/{version}/manifest",
        "/playground/models/{model}/versions/{version}/seen",
        "/predict/{model}",
        "/predict/{model}/versions/{version}",
        "/v1/completions",
        "/v1/images/generations",
        "/v1/models",
        "/v1/models/{model}",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/generate",
        "/v2/models/{model}/generate_stream",
        "/v2/models/{model}/config",
        "/v2/models/{model}/stats",
        "/v2/models/stats",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
        "/v2/models/{model}/versions/{version}/generate",
        "/v2/models/{model}/versions/{version}/generate_stream",
        "/v2/models/{model}/versions/{version}/config",
        "/v2/models/{model}/versions/{version}/stats",
        "/v2/repository/index",
        "/v2/repository/models/{model}/load",
        "/v2/repository/models/{model}/unload",
    }
    taken = described["paths"]["/predict/{model}"]["post"]["requestBody"]["content"]
    assert set(taken) == {
        "image/*",
        "text/plain",
        "application/octet-stream",
        "multipart/form-data",
        "application/json",
    }
    answered = described["paths"]["/predict/{model}"]["post"]["responses"]["200"]["content"]
    assert set(answered) == {"application/json", "text/event-stream", "image/png", "image/webp", "image/jpeg"}
    drawn = described["paths"]["/v1/images/generations"]["post"]
    assert drawn["tags"] == ["openai"]
    asked = drawn["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"model", "prompt", "n", "size", "seed"} < set(asked)
    assert "application/json" in described["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]


def test_what_varies_in_a_path_is_documented_and_nothing_else_is(client: TestClient) -> None:
    for path, calls in client.get("/openapi.json").json()["paths"].items():
        names = re.findall(r"\{(\w+)\}", path)
        for method, call in calls.items():
            documented = [(one["name"], one["in"]) for one in call.get("parameters", ())]
            assert documented == [(name, "path") for name in names], f"{method} {path}"
