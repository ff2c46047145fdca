from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from service.bench.own_server import own_server
from service.settings import Settings
from tests.bundles import flip_a_byte, make_bundle
from tests.text_bundles import make_text_bundle


def test_a_server_is_started_with_one_model_and_ended(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(models)
    make_text_bundle(models)
    monkeypatch.setenv("INFERD_PORT", "1")  # where it listens is not said from outside,
    monkeypatch.setenv("INFERD_LOG_LEVEL", "error")  # nor how much it says;
    monkeypatch.setenv("INFERD_MAX_QUEUE_ROWS", "17")  # all else is
    with own_server(Settings(models=models, workers=2), "tiny") as address:
        states = {one["name"]: one["state"] for one in address.get("/health/ready")["models"]}
        assert states == {"tiny": "READY", "tiny-text": "UNAVAILABLE"}
        assert address.get("/predict/tiny")["task"] == "image-classification"
        assert address.host == "127.0.0.1"
    with pytest.raises(OSError, match="can't be reached"):
        address.get("/health/live")


def test_where_no_model_is_named_all_are_loaded(models: Path) -> None:
    make_bundle(models)
    make_text_bundle(models)
    with own_server(Settings(models=models, workers=1)) as address:
        states = {one["name"]: one["state"] for one in address.get("/health/ready")["models"]}
        assert states == {"tiny": "READY", "tiny-text": "READY"}


def test_a_model_that_is_refused_is_an_error_that_says_why(models: Path) -> None:
    flip_a_byte(make_bundle(models) / "labels.json")
    with (
        pytest.raises(ValueError, match=r"the server does not serve tiny: labels\.json: has sha256"),
        own_server(Settings(models=models, workers=1), "tiny"),
    ):
        raise AssertionError("it is ready")


def test_a_server_that_does_not_start_is_an_error_that_has_its_words(models: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"did not start: .*the models folder .* does not exist"),
        own_server(Settings(models=models / "nowhere", workers=1), "tiny"),
    ):
        raise AssertionError("it is ready")


def test_a_server_is_ended_whatever_happens_meanwhile(models: Path) -> None:
    make_bundle(models)
    running = ExitStack()
    address = running.enter_context(own_server(Settings(models=models, workers=1), "tiny"))
    error = SystemExit(1)
    assert running.__exit__(SystemExit, error, None) is False
    with pytest.raises(OSError, match="can't be reached"):
        address.get("/health/live")
