from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.metrics import CAUSES, FAILURES, Metrics
from tests.bundles import golden_inputs, make_bundle, truncate
from tests.conftest import Serve
from tests.service.requests import BRIGHT, PNG, gained, metrics, parsed, tensor

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
NAMES = {
    "inferd_requests_total": "counter",
    "inferd_key_requests_total": "counter",
    "inferd_request_failures_total": "counter",
    "inferd_batch_dispatch_total": "counter",
    "inferd_variant_fallback_total": "counter",
    "inferd_request_duration_seconds": "histogram",
    "inferd_queue_seconds": "histogram",
    "inferd_preprocess_seconds": "histogram",
    "inferd_compute_seconds": "histogram",
    "inferd_postprocess_seconds": "histogram",
    "inferd_batch_size": "histogram",
    "inferd_time_to_first_token_seconds": "histogram",
    "inferd_inter_token_seconds": "histogram",
    "inferd_generated_tokens_total": "counter",
    "inferd_live_slots": "gauge",
    "inferd_queue_depth": "gauge",
    "inferd_inflight": "gauge",
    "inferd_model_ready": "gauge",
    "inferd_ready": "gauge",
    "inferd_quarantined_models": "gauge",
    "inferd_build_info": "gauge",
}
"""What dashboards and alerts are built on: no name goes away, and none comes without its documentation."""

OF_SEVERAL = {"inferd_workers", "inferd_worker_restarts_total", "inferd_worker_requests_total"}
"""What there is besides where there are several workers."""


def test_the_names_and_kinds_are_those_that_were_promised(client: TestClient) -> None:
    client.post("/predict/tiny", content=BRIGHT, headers=PNG)
    client.post("/predict/nobody")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert dict(re.findall(r"^# TYPE (\w+) (counter|histogram|gauge)$", answer.text, re.MULTILINE)) == NAMES


def test_every_metric_is_documented() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert set(re.findall(r"`(inferd_[a-z_]+)`", text)) == {*NAMES, *OF_SEVERAL}
    for label in (*FAILURES, *CAUSES):
        assert label in text


def test_times_and_sizes_have_the_buckets_that_were_promised() -> None:
    described = Metrics("1")
    bound = described.bind("tiny", 1)
    bound.batch_size.observe(1)
    series = parsed(described.render().decode())

    def edges(name: str) -> list[float]:
        return [float(edge) for key in series for edge in re.findall(rf'{name}_bucket{{le="([0-9.]+)"', key)]

    for name in ("request_duration", "queue", "preprocess", "compute", "postprocess"):
        assert edges(f"inferd_{name}_seconds") == pytest.approx([0.0002 * 1.6**step for step in range(24)])
    assert edges("inferd_batch_size") == [2**power for power in range(13)]


def test_a_model_that_is_loaded_has_every_series_from_the_start(models: Path, serve: Serve) -> None:
    make_bundle(models, "one", 7)
    series = metrics(serve(models=models))
    labels = 'model="one",version="7"'
    assert series[f"inferd_model_ready{{{labels}}}"] == 1
    for name in ("inferd_queue_depth", "inferd_inflight", "inferd_variant_fallback_total"):
        assert series[f"{name}{{{labels}}}"] == 0
    for reason in FAILURES:
        assert series[f'inferd_request_failures_total{{model="one",reason="{reason}",version="7"}}'] == 0
    for cause in CAUSES:
        assert series[f'inferd_batch_dispatch_total{{cause="{cause}",model="one",version="7"}}'] == 0


def test_readiness_is_told_as_health_tells_it(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models)
    assert (client.get("/health/ready").status_code, metrics(client)["inferd_ready"]) == (200, 1)
    client.app.state.repository.begin_drain()
    assert (client.get("/health/ready").status_code, metrics(client)["inferd_ready"]) == (503, 0)
    truncate(make_bundle(models, "broken") / "model.onnx")
    refusing = serve(models=models)
    assert (refusing.get("/health/ready").status_code, metrics(refusing)["inferd_ready"]) == (503, 0)


def test_what_is_asked_for_is_counted(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models)
    before = metrics(client)
    for _ in range(3):
        assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).status_code == 200
    assert client.post("/v2/models/tiny/infer", json={"inputs": [tensor(golden_inputs(5))]}).status_code == 200
    assert client.post("/predict/tiny", content=b"", headers=PNG).status_code == 400
    assert client.post("/predict/nobody", content=BRIGHT).status_code == 404
    assert client.post("/v2/models/tiny/versions/9/infer", json={}).status_code == 404
    assert client.get("/nothing").status_code == 404
    after = metrics(client)

    def more(name: str, **labels: str) -> float:
        return gained(before, after, f"inferd_{name}", **labels)

    assert more("requests_total", protocol="predict", code="200") == 3
    assert more("requests_total", protocol="predict", code="400") == 1
    assert more("requests_total", protocol="predict", code="404") == 1
    assert more("requests_total", protocol="open_inference", code="200") == 1
    assert more("requests_total", protocol="open_inference", code="404") == 1
    assert more("requests_total", protocol="other", code="404") == 1
    assert more("requests_total", protocol="health", code="200") == 1
    assert more("request_failures_total") == 3
    assert more("request_failures_total", model="tiny", version="1", reason="invalid") == 1
    assert more("request_failures_total", model="", version="", reason="not_found") == 2
    assert more("batch_dispatch_total", model="tiny") == 4
    assert more("batch_size_count", model="tiny") == 4
    assert more("batch_size_sum", model="tiny") == 8
    assert more("request_duration_seconds_count", model="tiny") == 5
    assert more("queue_seconds_count") == 4
    assert more("compute_seconds_count") == 4
    assert more("preprocess_seconds_count") == 3
    assert more("postprocess_seconds_count") == 3
    assert after['inferd_inflight{model="tiny",version="1"}'] == 0
    assert after['inferd_queue_depth{model="tiny",version="1"}'] == 0


def test_a_name_that_nobody_has_makes_no_series(models: Path, serve: Serve) -> None:
    make_bundle(models)
    truncate(make_bundle(models, "broken") / "model.onnx")
    client = serve(models=models)

    def series_after_asking_for(*names: str) -> set[str]:
        for name in names:
            client.post(f"/predict/{name}", content=BRIGHT)
            client.post(f"/predict/tiny/versions/{name}", content=BRIGHT)
            client.post(f"/v2/models/{name}/infer", json={})
            client.get(f"/{name}")
        metrics(client)  # whose own request is counted too
        return set(metrics(client))

    series = series_after_asking_for("a", "broken")
    assert series_after_asking_for("b", "nobody%22%7D", "c/d", "0") == series
    assert not any(name in key for key in series for name in ('"a"', "broken", "nobody"))


def test_the_build_is_told() -> None:
    assert parsed(Metrics("1.2.3").render().decode())['inferd_build_info{inferd="1.2.3"}'] == 1


def test_two_registries_know_nothing_of_each_other() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.unaddressed("not_found")
    assert "not_found" in one.render().decode()
    assert "not_found" not in other.render().decode()
