from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from service.cli import main
from tests.bundles import make_bare, make_bundle


@pytest.fixture(autouse=True)
def _few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the doctor leave the limits of the test's own process as they are."""
    monkeypatch.setenv("INFERD_MAX_CONNECTIONS", "10")


def test_a_healthy_server_is_described(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(models)
    make_bare(models, "plain")
    monkeypatch.setenv("INFERD_ADMIN_KEY", "a-secret")
    assert main(["--models", str(models), "doctor", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert found["problems"] == []
    assert found["versions"].keys() >= {"inferd", "python", "numpy", "fastapi"}
    assert "CPUExecutionProvider" in found["runtime"]["providers"]
    assert found["runtime"]["chosen"] == ["CPUExecutionProvider"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["open_files"] <= resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert found["models"]["tiny 1"] == "ok: image-classification, fp32, int8, replayed"
    assert found["models"]["plain 1"].startswith("ok: tensors")
    assert found["settings"]["INFERD_MAX_CONNECTIONS"] == 10
    assert "a-secret" not in out


def test_what_is_wrong_is_said_in_sentences(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle(models)
    (folder / "model.onnx").write_bytes(b"no graph")
    monkeypatch.setenv("INFERD_API_KEYS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("INFERD_MAX_CONNECTIONS", str(10**9))
    assert main(["--models", str(models), "doctor"]) == 1
    out = capsys.readouterr().out
    assert "model tiny 1 is refused: model.onnx" in out
    assert "INFERD_MAX_CONNECTIONS=1000000000" in out
    assert str(tmp_path / "none") in out
    assert out.count("tiny 1: refused") == 1


def test_a_folder_without_models_is_a_problem(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", str(models), "doctor"]) == 1
    assert "there is no model in" in capsys.readouterr().out
    assert main(["--models", str(tmp_path / "nowhere"), "doctor"]) == 1
    assert "nowhere does not exist (INFERD_MODELS)" in capsys.readouterr().out
