from __future__ import annotations

import asyncio
from pathlib import Path

from service.app import create_app
from service.settings import Settings
from tests.bundles import make_bundle, slow_graph, truncate
from tests.conftest import Serve, loaded, running
from tests.service.requests import BRIGHT, PNG


def test_the_process_lives_whatever_its_models_do(models: Path, serve: Serve) -> None:
    truncate(make_bundle(models) / "model.onnx")
    client = serve(models=models)
    assert client.get("/health/live").status_code == 200
    assert client.get("/v2/health/live").status_code == 200


def test_probes_may_ask_for_the_status_alone(models: Path, serve: Serve) -> None:
    truncate(make_bundle(models) / "model.onnx")
    client = serve(models=models)
    for path, status in (("/health/live", 200), ("/health/ready", 503)):
        answer = client.head(path)
        assert answer.status_code == status


def test_ready_means_that_every_model_answers(models: Path, serve: Serve) -> None:
    make_bundle(models, "one")
    make_bundle(models, "two", 3)
    answer = serve(models=models).get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "draining": False,
        "models": [
            {"name": "one", "version": 1, "state": "READY", "reason": ""},
            {"name": "two", "version": 3, "state": "READY", "reason": ""},
        ],
    }


def test_one_refused_model_makes_the_server_not_ready_and_is_named(models: Path, serve: Serve) -> None:
    make_bundle(models, "one")
    truncate(make_bundle(models, "two") / "model.onnx")
    client = serve(models=models)
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert [model["state"] for model in answer.json()["models"]] == ["READY", "UNAVAILABLE"]
    assert answer.json()["models"][1]["reason"].startswith("model.onnx: has ")
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/models/one/ready").status_code == 200
    assert client.get("/v2/models/two/ready").status_code == 503


def test_a_server_without_models_is_ready_and_says_that_it_has_none(models: Path, serve: Serve) -> None:
    client = serve(models=models)
    assert client.get("/health/ready").json() == {"ready": True, "draining": False, "models": []}
    answer = client.post("/predict/tiny", content=BRIGHT)
    assert answer.status_code == 404
    assert answer.json()["error"] == "there is no model 'tiny'; models: none"


def test_while_a_model_is_being_loaded_the_server_answers_but_is_not_ready(models: Path) -> None:
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> None:
        app = create_app(Settings(models=models, threads=1))
        async with running(app, wait=False) as client:
            assert (await client.get("/health/live")).status_code == 200
            answer = await client.get("/health/ready")
            assert answer.status_code == 503
            loading = {"name": "slow", "version": 1, "state": "LOADING", "reason": "is being loaded"}
            assert answer.json() == {"ready": False, "draining": False, "models": [loading]}
            answer = await client.post("/predict/slow", content=BRIGHT)
            assert answer.status_code == 503
            assert answer.json()["error"] == "model 'slow' version 1 is not ready: is being loaded"
            await loaded(app)
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.post("/predict/slow", content=BRIGHT)).status_code == 200

    asyncio.run(main())


def test_a_server_that_drains_is_not_ready_but_answers_and_gives_connections_up(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models)
    assert "connection" not in client.get("/health/ready").headers
    client.app.state.repository.begin_drain()
    for path in ("/health/ready", "/v2/health/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.headers["connection"] == "close"
    assert client.get("/health/ready").json()["draining"] is True
    assert client.get("/health/live").status_code == 200
    answer = client.post("/predict/tiny", content=BRIGHT, headers=PNG)
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
