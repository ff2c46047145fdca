from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from starlette.testclient import TestClient

from service import tracing
from service.app import create_app
from service.observability import JsonFormatter
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.settings import Settings
from service.tracing import Tracing, current, wants_traces
from tests.bundles import make_bundle
from tests.collector import Collector, Span, collecting
from tests.conftest import running, start
from tests.image_bundles import make_image_bundle
from tests.service.protocols.open_inference.grpc.serving import Client, infer_request, pictures
from tests.service.requests import BRIGHT, PNG
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import make_translation_bundle

SERVER = 2
"""The kind of a span that answers somebody."""

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SLACK_S = 0.001
"""Clocks are read one after the other."""


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as one:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.url)
        yield one


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    make_bundle(folder)
    return folder


def traced(models: Path, **changes: Any) -> TestClient:
    """An app that sends what it has when its client is left."""
    return start(models=models, tracing="otlp", **changes)


def the_only(collector: Collector, name: str) -> Span:
    (span,) = collector.named(name)
    return span


def assert_parts_are_as_told(collector: Collector, parent: Span, headers: httpx.Headers) -> None:
    """The spans below are what the answer's headers say, one after the other, and within the request."""
    below = collector.below(parent)
    assert below.keys() == {"queue", "compute"}
    queue, compute = below["queue"], below["compute"]
    assert queue.seconds == pytest.approx(float(headers["x-queue-ms"]) / 1000, abs=2e-6)
    assert queue.end == compute.begin
    assert parent.begin <= queue.begin + SLACK_S * 1e9
    assert compute.end <= parent.end + SLACK_S * 1e9
    assert {queue.trace, compute.trace} == {parent.trace}
    assert compute.attributes["inferd.batch_size"] == float(headers["x-batch-size"])
    assert 0 < compute.attributes["inferd.run_ms"] <= 1000 * compute.seconds + 1e-3


# What there is


def test_a_request_has_a_span_with_its_waiting_and_its_computing_below(models: Path, collector: Collector) -> None:
    with traced(models) as client:
        answer = client.post("/predict/tiny", content=BRIGHT, headers={**PNG, "x-request-id": "mine"})
    assert answer.status_code == 200
    span = the_only(collector, "POST /predict/{model}")
    assert span.kind == SERVER
    assert span.parent == ""
    assert not span.failed
    assert span.attributes == {
        "inferd.request_id": "mine",
        "inferd.model.name": "tiny",
        "inferd.model.version": 1,
        "http.request.method": "POST",
        "http.route": "/predict/{model}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/predict/tiny",
    }
    assert_parts_are_as_told(collector, span, answer.headers)
    compute = collector.below(span)["compute"]
    assert compute.seconds == pytest.approx(float(answer.headers["x-compute-ms"]) / 1000, abs=2e-6)


def test_a_text_has_them_too_and_its_runs_are_only_a_part_of_its_computing(models: Path, collector: Collector) -> None:
    make_text_bundle(models)
    asked = {"inputs": "ab", "parameters": {"max_new_tokens": 20}}
    infer = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["ab"]}]}
    with traced(models) as client:
        whole = client.post("/predict/tiny-text", json=asked)
        streamed = client.post("/predict/tiny-text", json={**asked, "stream": True})
        tensors = client.post("/v2/models/tiny-text/infer", json=infer)
    assert [one.status_code for one in (whole, streamed, tensors)] == [200] * 3
    first, second = collector.named("POST /predict/{model}")
    assert_parts_are_as_told(collector, first, whole.headers)
    assert_parts_are_as_told(collector, the_only(collector, "POST /v2/models/{model}/infer"), tensors.headers)
    of_stream = collector.below(second)
    assert of_stream.keys() == {"queue", "compute"}
    details = json.loads(streamed.text.strip().rpartition("data: ")[2])["details"]
    assert of_stream["compute"].attributes["inferd.run_ms"] == pytest.approx(details["compute_ms"], abs=0.002)
    for span in (first, second):
        compute = collector.below(span)["compute"]
        assert compute.seconds > compute.attributes["inferd.run_ms"] / 1000  # choosing tokens takes time as well


def test_a_translation_has_them_too(models: Path, collector: Collector) -> None:
    make_translation_bundle(models)
    with traced(models) as client:
        one = client.post("/predict/tiny-en-de", json={"inputs": "the cat"})
        several = client.post("/predict/tiny-en-de", json={"inputs": ["the cat. a dog.", "the dog"]})
        nothing = client.post("/predict/tiny-en-de", json={"inputs": " "})
    assert [answer.status_code for answer in (one, several, nothing)] == [200] * 3
    first, second, third = collector.named("POST /predict/{model}")
    assert_parts_are_as_told(collector, first, one.headers)
    assert_parts_are_as_told(collector, second, several.headers)
    assert [span.seconds for span in collector.below(third).values()] == [0.0, 0.0]


def test_a_drawing_has_them_too(models: Path, collector: Collector) -> None:
    make_image_bundle(models)
    with traced(models) as client:
        answer = client.post("/predict/tiny-painter", json={"inputs": "dark", "parameters": {"seed": 1}})
        assert answer.status_code == 200, answer.text
    assert_parts_are_as_told(collector, the_only(collector, "POST /predict/{model}"), answer.headers)


def test_a_call_of_grpc_is_the_same(models: Path, collector: Collector) -> None:
    async def main() -> None:
        app = create_app(Settings(models=models, threads=1, grpc_port=0, tracing="otlp"))
        async with running(app):
            port = await app.state.grpc.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                client = Client(channel)
                metadata = (("x-request-id", "mine"), ("traceparent", CALLER))
                await client.ask("ModelInfer", pictures(2), metadata=metadata)
                await client.refused("ModelInfer", infer_request("nobody"))

    asyncio.run(main())
    answered, refused = collector.named("inference.GRPCInferenceService/ModelInfer")
    assert answered.kind == SERVER
    assert (answered.trace, answered.parent) == (CALLER[3:35], CALLER[36:52])
    assert answered.attributes == {
        "inferd.request_id": "mine",
        "inferd.model.name": "tiny",
        "inferd.model.version": 1,
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
    }
    assert collector.below(answered).keys() == {"queue", "compute"}
    assert collector.below(answered)["compute"].attributes["inferd.batch_size"] == 2
    assert refused.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert not refused.failed
    assert collector.below(refused) == {}


def test_each_request_of_a_stream_has_its_own_below_the_span_of_the_stream(models: Path, collector: Collector) -> None:
    async def main() -> None:
        app = create_app(Settings(models=models, threads=1, grpc_port=0, tracing="otlp"))
        async with running(app):
            port = await app.state.grpc.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stream = channel.stream_stream(
                    "/inference.GRPCInferenceService/ModelStreamInfer",
                    request_serializer=pb.ModelInferRequest.SerializeToString,
                    response_deserializer=pb.ModelStreamInferResponse.FromString,
                )([pictures(1)] * 3)
                assert [one.error_message async for one in stream] == [""] * 3

    asyncio.run(main())
    span = the_only(collector, "inference.GRPCInferenceService/ModelStreamInfer")
    assert sorted(one.name for one in collector.spans if one.parent == span.id) == ["compute"] * 3 + ["queue"] * 3


def test_what_fails_by_our_fault_is_a_failure_and_what_a_client_gets_wrong_is_none(
    models: Path, collector: Collector
) -> None:
    client = traced(models)

    async def defect() -> None:
        raise LookupError("a secret of the server")

    client.app.add_api_route("/predict/{model}/defect", defect)
    with client:
        client.get("/predict/tiny/defect")
        client.post("/predict/tiny", content=b"broken", headers=PNG)
        client.post("/predict/nobody", content=BRIGHT, headers=PNG)
        client.get("/nothing/here?api_key=inferd_secret")
        client.request("BREW", "/health/live")
    failed = the_only(collector, "GET /predict/{model}/defect")
    assert failed.failed
    assert (failed.attributes["http.response.status_code"], failed.attributes["error.type"]) == (500, "500")
    wrong, unknown = collector.named("POST /predict/{model}")
    lost = the_only(collector, "GET")
    odd = next(span for span in collector.spans if span.attributes["url.path"] == "/health/live")
    told = [(one.failed, one.attributes["http.response.status_code"]) for one in (wrong, unknown, lost, odd)]
    assert told == [(False, 415), (False, 404), (False, 404), (False, 405)]
    assert wrong.attributes["inferd.model.name"] == "tiny"
    assert "inferd.model.name" not in unknown.attributes
    assert lost.attributes["url.path"] == "/nothing/here"
    assert odd.name.partition(" ")[0] == "HTTP"
    assert odd.attributes["http.request.method"] == "_OTHER"
    assert {span.name for span in collector.spans}.isdisjoint({"queue", "compute"})
    assert not any(b"secret" in body for body in collector.bodies)


def test_spans_have_no_payloads_and_no_keys(models: Path, collector: Collector) -> None:
    make_text_bundle(models)
    key = {"authorization": "Bearer inferd_topsecret", "cookie": "a=topsecret", "x-api-key": "topsecret"}
    body = {"inputs": "aabbaabb", "parameters": {"max_new_tokens": 5, "return_full_text": True}}
    with traced(models, admin_key="topsecret", predict_access="key") as client:
        answer = client.post("/predict/tiny-text?seed=987654321", json=body, headers=key)
        client.post("/predict/tiny", content=BRIGHT, headers={**PNG, **key})
        client.post("/predict/tiny", content=BRIGHT, headers=PNG)
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["generated_text"].startswith("aabbaabb")
    assert len(collector.named("POST /predict/{model}")) == 2
    assert len(collector.named("POST")) == 1  # it was not let in
    sent = b"".join(collector.bodies)
    assert not any(secret in sent for secret in (b"topsecret", b"aabbaabb", b"987654321", BRIGHT[:32]))


# Whose trace it is


def test_the_trace_of_the_caller_goes_on(models: Path, collector: Collector) -> None:
    with traced(models) as client:
        client.post("/predict/tiny", content=BRIGHT, headers={**PNG, "traceparent": CALLER})
    span = the_only(collector, "POST /predict/{model}")
    assert (span.trace, span.parent) == (CALLER[3:35], CALLER[36:52])
    assert {one.trace for one in collector.spans} == {span.trace}


@pytest.mark.parametrize(
    "given",
    ["", "x", CALLER.upper(), "00-" + "0" * 32 + CALLER[35:], CALLER + "-more", CALLER + "0" * 10_000, "\u00e9" * 50],
    ids=["nothing", "a letter", "capitals", "zeros", "too long", "far too long", "other letters"],
)
def test_a_caller_that_names_no_span_gets_a_trace_of_its_own_and_no_log_line(
    models: Path, collector: Collector, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    headers = {"traceparent": given.encode("latin-1"), "tracestate": b"=,=", "baggage": b"x" * 9000}
    with traced(models) as client:
        assert client.get("/v2", headers=headers).status_code == 200
    span = the_only(collector, "GET /v2")
    assert span.parent == ""
    assert span.trace != CALLER[3:35]
    assert not caplog.records


def test_what_a_caller_does_not_want_recorded_is_not(models: Path, collector: Collector) -> None:
    with traced(models) as client:
        answer = client.post("/predict/tiny", content=BRIGHT, headers={**PNG, "traceparent": CALLER[:-1] + "0"})
    assert answer.status_code == 200
    assert collector.spans == []


@pytest.mark.parametrize(("sampler", "spans"), [("always_off", 0), ("always_on", 3)])
def test_the_sampler_is_the_one_of_the_environment(
    models: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, sampler: str, spans: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with traced(models) as client:
        client.post("/predict/tiny", content=BRIGHT, headers={**PNG, "traceparent": CALLER[:-1] + "0"})
    assert len(collector.spans) == spans


def test_log_lines_of_a_request_have_its_trace(models: Path, collector: Collector) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    access = logging.getLogger("inferd.access")
    access.addHandler(handler)
    level = access.level
    access.setLevel(logging.INFO)
    try:
        with traced(models, access_log=True) as client:
            client.get("/v2")
    finally:
        access.removeHandler(handler)
        access.setLevel(level)
    line = json.loads(stream.getvalue())
    span = the_only(collector, "GET /v2")
    assert (line["trace_id"], line["request_id"]) == (span.trace, span.attributes["inferd.request_id"])
    assert current.get() is None


# Who sends them, and where to


def test_the_environment_says_who_it_is_and_what_goes_with_it(
    models: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced(models) as client:
        client.get("/v2")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=7")
    with traced(models) as client:
        client.get("/v2")
    usual, named = collector.named("GET /v2")
    assert usual.resource["service.name"] == "inferd"
    assert usual.resource["service.version"]
    assert usual.resource["process.pid"]
    assert named.resource["service.name"] == "shop"
    assert named.resource["deployment.environment.name"] == "test"
    assert [headers.get("x-tenant") for headers in collector.headers] == [None, "7"]


def test_a_collector_that_does_not_answer_holds_up_no_request_and_no_end(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "_LAST_EXPORT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        client = traced(models)
        with client:
            assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).status_code == 200
            began = time.monotonic()
        assert time.monotonic() - began < 2
    assert "the last traces are lost" in caplog.text
    for thread in threading.enumerate():
        if thread.name == "last traces":  # else what it still has to say would be in the next test's log
            thread.join(30)


def test_without_them_nothing_of_it_is_imported(models: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from service.app import create_app; from service.settings import Settings;"
        f"create_app(Settings(models=Path({str(models)!r})));"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http"])
def test_a_server_that_lacks_what_traces_need_does_not_start_and_says_so(
    models: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(missing):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"INFERD_TRACING=otlp needs inferd\[tracing\], which is not installed"):
        create_app(Settings(models=models, tracing="otlp"))
    assert not wants_traces(Settings(models=models))


def test_opentelemetrys_own_switch_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Tracing.of(Settings(tracing="otlp"), "0") is None
