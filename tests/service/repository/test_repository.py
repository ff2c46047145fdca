from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from service.errors import BundleRefused
from service.repository.bundle import Bundle, LoadOptions, load_bundle, verify_bundle
from service.repository.golden import GoldenMismatch
from service.repository.scan import BundleFolder, scan
from service.tasks.base import TaskLimits
from tests.bundles import edit, make_bundle, read_golden, sign, truncate, write_golden
from tests.conftest import Serve
from tests.service.pictures import drawn, encoded
from tests.service.requests import BRIGHT, PNG, metrics, scores_of

OPTIONS = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=64, limits=TaskLimits(max_pixels=10_000))


def have_int8_differ(bundle: Path) -> None:
    """Have the golden file say that int8 answered otherwise where it was exported, as on another kind of processor."""
    arrays = read_golden(bundle)
    arrays["runtime/int8/model/logits"] = arrays["runtime/int8/model/logits"] + np.float32(0.5)
    write_golden(bundle, arrays)
    sign(bundle)


# Versions


def test_the_highest_version_answers_unless_another_one_is_named(models: Path, serve: Serve) -> None:
    for version in (9, 10, 2):
        make_bundle(models, version=version)
    client = serve(models=models)
    assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).headers["x-inferd-version"] == "10"
    for version in (2, 9, 10):
        answer = client.post(f"/predict/tiny/versions/{version}", content=BRIGHT, headers=PNG)
        assert answer.headers["x-inferd-version"] == str(version)
        answer = client.get(f"/v2/models/tiny/versions/{version}")
        assert answer.json()["versions"] == ["2", "9", "10"]
    assert client.get("/predict/tiny").json()["versions"] == [2, 9, 10]
    assert client.get("/predict/tiny/versions/9").json()["version"] == 9


def test_an_unknown_version_is_told_with_those_that_there_are(models: Path, serve: Serve) -> None:
    for version in (9, 10):
        make_bundle(models, version=version)
    answer = serve(models=models).post("/predict/tiny/versions/11", content=BRIGHT)
    assert answer.status_code == 404
    assert answer.json()["error"] == "model 'tiny' has no version '11'; versions: 9, 10"


def test_the_highest_version_that_is_ready_answers_where_a_higher_one_is_refused(models: Path, serve: Serve) -> None:
    make_bundle(models, version=9)
    truncate(make_bundle(models, version=10) / "model.onnx")
    client = serve(models=models)
    assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).headers["x-inferd-version"] == "9"
    assert client.get("/v2/models/tiny").json()["versions"] == ["9"]
    answer = client.post("/predict/tiny/versions/10", content=BRIGHT)
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("model 'tiny' version 10 is not ready: model.onnx: ")
    assert client.get("/health/ready").status_code == 503


def test_each_version_answers_as_its_own_manifest_says(models: Path, serve: Serve) -> None:
    make_bundle(models, version=1)
    make_bundle(models, version=2, postprocessing={**POSTPROCESSING, "activation": "none"})
    client = serve(models=models)
    first = client.post("/predict/tiny/versions/1", content=BRIGHT, headers=PNG).json()
    second = client.post("/predict/tiny/versions/2", content=BRIGHT, headers=PNG).json()
    assert sum(one["score"] for one in first) == pytest.approx(1)
    assert sum(one["score"] for one in second) == pytest.approx(0, abs=1e-5)


POSTPROCESSING = {"kind": "classification", "output": "logits", "activation": "softmax", "labels": "labels.json"}


# Variants


def test_the_default_variant_serves(models: Path, serve: Serve) -> None:
    make_bundle(models, default_variant="int8")
    client = serve(models=models)
    assert client.get("/predict/tiny").json()["variant"] == "int8"
    assert metrics(client)['inferd_variant_fallback_total{model="tiny",version="1"}'] == 0


def test_float32_serves_where_int8_fails_its_replay_and_that_is_logged_and_counted(
    models: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    have_int8_differ(make_bundle(models, default_variant="int8"))
    client = serve(models=models)
    assert client.get("/health/ready").status_code == 200
    assert client.get("/predict/tiny").json()["variant"] == "fp32"
    assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).status_code == 200
    assert metrics(client)['inferd_variant_fallback_total{model="tiny",version="1"}'] == 1
    (warning,) = (one for one in caplog.records if one.levelno == logging.WARNING and "fp32" in one.getMessage())
    assert "tiny version 1 serves fp32 in place of its default: model.int8.onnx: golden replay" in warning.getMessage()


def test_a_variant_that_is_not_served_need_not_replay(models: Path, serve: Serve) -> None:
    have_int8_differ(make_bundle(models))
    client = serve(models=models)
    assert client.get("/predict/tiny").json()["variant"] == "fp32"
    assert metrics(client)['inferd_variant_fallback_total{model="tiny",version="1"}'] == 0


def test_nothing_takes_the_place_of_int8_where_there_is_no_float32(models: Path) -> None:
    bundle = make_bundle(models, default_variant="int8")
    have_int8_differ(bundle)
    edit(bundle, "variants", "fp32", to=...)
    (folder,) = scan(models)
    with pytest.raises(GoldenMismatch, match="variant 'int8'"):
        load_bundle(folder, OPTIONS)


def test_nothing_takes_the_place_of_a_variant_when_a_bundle_is_verified(models: Path) -> None:
    have_int8_differ(make_bundle(models, default_variant="int8"))
    (folder,) = scan(models)
    assert load_bundle(folder, OPTIONS).variant == "fp32"
    with pytest.raises(GoldenMismatch, match="variant 'int8'"):
        verify_bundle(folder, OPTIONS)


def test_a_damaged_int8_file_is_no_reason_to_serve_float32(models: Path) -> None:
    truncate(make_bundle(models, default_variant="int8") / "model.int8.onnx")
    (folder,) = scan(models)
    with pytest.raises(BundleRefused, match=r"model\.int8\.onnx: has .* bytes"):
        load_bundle(folder, OPTIONS)


# A loaded bundle


def test_a_bundle_answers_without_a_server(models: Path) -> None:
    make_bundle(models)
    (folder,) = scan(models)
    bundle = load_bundle(folder, OPTIONS)
    picture = drawn()
    answer = bundle.predict(encoded(picture), {"top_k": 2})
    expected = sorted(scores_of(picture).items(), key=lambda one: -one[1])[:2]
    assert answer == [{"label": label, "score": pytest.approx(score, abs=1e-5)} for label, score in expected]


def test_the_smaller_limit_of_rows_counts_and_the_graph_is_timed_up_to_it(models: Path) -> None:
    make_bundle(models, "wide", batching={"max_batch_size": 300})
    make_bundle(models, "narrow", batching={"max_batch_size": 3})
    narrow, wide = (load_bundle(folder, OPTIONS) for folder in scan(models))
    assert (narrow.max_batch_rows, wide.max_batch_rows) == (3, 64)
    assert [rows for rows, _ in narrow.measure_latency()] == [1, 2, 3]
    latency = wide.measure_latency()
    assert [rows for rows, _ in latency] == [1, 2, 4, 8, 16, 32, 64]
    assert all(seconds > 0 for _, seconds in latency)


def test_a_bundle_goes_on_serving_when_its_folder_is_taken_away(models: Path, serve: Serve) -> None:
    bundle = make_bundle(models)
    client = serve(models=models)
    shutil.rmtree(bundle)
    assert client.post("/predict/tiny", content=BRIGHT, headers=PNG).status_code == 200


# Start and end


def test_a_refused_bundle_is_logged_once_with_its_reason(
    models: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    truncate(make_bundle(models) / "model.onnx")
    serve(models=models)
    (error,) = (one for one in caplog.records if one.levelno >= logging.ERROR)
    assert error.getMessage().startswith("model tiny version 1 is refused: model.onnx: has ")
    assert error.exc_info is None


def test_a_defect_in_loading_one_model_is_logged_and_the_others_serve(
    models: Path, serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(folder: BundleFolder, options: LoadOptions) -> Bundle:
        if folder.name == "cursed":
            raise LookupError("a secret of the server")
        return load_bundle(folder, options)

    monkeypatch.setattr("service.repository.tuning.load_bundle", defective)
    make_bundle(models, "cursed")
    make_bundle(models, "whole")
    client = serve(models=models)
    assert client.post("/predict/whole", content=BRIGHT, headers=PNG).status_code == 200
    answer = client.post("/predict/cursed", content=BRIGHT, headers=PNG)
    assert answer.status_code == 503
    assert "loading failed unexpectedly; see the log" in answer.json()["error"]
    assert "a secret of the server" not in answer.text
    assert "a secret of the server" in caplog.text


def test_a_folder_without_models_is_logged(models: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    serve(models=models)
    assert f"no models under {models}" in caplog.text


def test_a_ready_model_is_logged_with_its_variant_and_its_time(
    models: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_bundle(models, default_variant="int8")
    serve(models=models)
    assert "model tiny version 1 is ready: variant int8, CPUExecutionProvider, " in caplog.text


def test_the_end_takes_readiness_from_every_model(models: Path, serve: Serve) -> None:
    make_bundle(models, "one")
    make_bundle(models, "two")
    client = serve(models=models)
    repository = client.app.state.repository
    assert client.portal
    client.portal.call(repository.close)
    assert repository.is_draining
    assert not repository.is_ready
    assert client.get("/health/ready").json()["draining"] is True
    series = metrics(client)
    assert series['inferd_model_ready{model="one",version="1"}'] == 0
    assert series['inferd_model_ready{model="two",version="1"}'] == 0
    answer = client.post("/predict/one", content=BRIGHT, headers=PNG)
    assert answer.status_code == 503
    assert "being stopped" in answer.json()["error"]
