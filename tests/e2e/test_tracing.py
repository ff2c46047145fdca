"""Real workers send what they have traced, the last of it when they end."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.collector import collecting
from tests.e2e.server import running_server
from tests.service.requests import BRIGHT, PNG


@pytest.mark.parametrize("workers", [1, 2])
def test_no_trace_is_lost_when_a_server_ends(models: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    make_bundle(models)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # nothing is sent before the end, or before there is much
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with running_server(models=models, workers=workers, tracing="otlp", access_log=1) as server:

            def ask(number: int) -> int:
                headers = {**PNG, "x-request-id": f"request-{number}"}
                request = urllib.request.Request(f"{server.url}/predict/tiny", BRIGHT, headers)  # noqa: S310 - our own
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own
                    answer.read()
                    return int(answer.status)

            with ThreadPoolExecutor(8) as clients:
                assert set(clients.map(ask, range(40))) == {200}
            assert collector.named("POST /predict/{model}") == []
            server.terminate()
            assert server.wait() == 0
        spans = collector.named("POST /predict/{model}")
        assert {span.attributes["inferd.request_id"] for span in spans} == {f"request-{number}" for number in range(40)}
        assert len(spans) == 40
        assert all(collector.below(span).keys() == {"queue", "compute"} for span in spans)
        pids = {span.resource["process.pid"] for span in spans}
        assert len(pids) <= workers
        assert (server.process.pid in pids) == (workers == 1)
    traces = {line["request_id"]: line["trace_id"] for line in server.log if "trace_id" in line}
    assert all(traces[span.attributes["inferd.request_id"]] == span.trace for span in spans)
