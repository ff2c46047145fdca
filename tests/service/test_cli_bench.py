"""The command that measures: all of it is real, and little of it long."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from service.cli import main
from tests.bundles import lookup_graph, make_bare, make_bundle, slow_graph
from tests.e2e.server import Server, running_server
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import make_translation_bundle

Run = Callable[..., tuple[int, str, str]]

SHORT = ("--seconds", "0.2", "--warm-up", "0.05")


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs `inferd --models MODELS bench ...`: the exit code and what it printed."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--models", str(models), "bench", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("served")
    make_bundle(models)
    make_text_bundle(models)
    make_translation_bundle(models)
    make_bundle(models, "slow", graph=slow_graph())
    make_bare(models, "picky", graph=lookup_graph(9))
    with running_server(models=models, max_queue_rows=2) as server:
        yield server


def written(folder: Path, name: str) -> dict[str, Any]:
    """What was written into a folder: the JSON, beside a plot that can be read."""
    assert sorted(one.name for one in folder.iterdir()) == [f"{name}.json", f"{name}.svg"]
    assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_bytes())
    return content


def test_a_server_is_started_and_measured_beside_its_limit(models: Path, run: Run, tmp_path: Path) -> None:
    make_bundle(models)
    code, out, err = run(
        *("--model", "tiny", "--workers", "2", "--clients", "1,3", "--rate", "50", "--repeat", "2", *SHORT),
        *("--batch-sizes", "4", "--processes", "2", "--output", str(tmp_path / "new" / "folder")),
    )
    assert code == 0
    content = written(tmp_path / "new" / "folder", "tiny-predict")
    assert content["model"] == {"name": "tiny", "version": 1, "task": "image-classification", "variant": "fp32"}
    assert content["server"]["workers"] == 2
    sizes = [(one["processes"], one["batch_size"]) for one in content["limit"]]
    assert sizes == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert [(one["clients"], one["rate"]) for one in content["runs"]] == [(1, None), (3, None), (None, 50)]
    for one in content["runs"]:
        figures = one["figures"]
        assert figures["answered"] > 0
        assert figures["per_s"] == pytest.approx(figures["answered"] / 0.2)
        assert (figures["errors"], figures["refused"]) == ({}, 0)
        assert figures["queue_ms"]["max"] >= figures["queue_ms"]["p50"] >= 0
        assert figures["latency_ms"]["p50"] >= figures["compute_ms"]["p50"] > 0
        assert 1 <= figures["batch_size"]["max"] <= 8
        assert one["of_limit"] > 0
        assert len(one["rounds"]) == 2
    assert content["runs"][2]["figures"]["late_ms"]["p50"] >= 0
    assert out.count("| clients |") == out.count("| requests/s due |") == 1
    assert err.count("ONNX Runtime alone, 2 x 4") == err.count("3 clients: ") == err.count("50 requests/s: ") == 2


@pytest.mark.parametrize(
    ("model", "protocol", "unit"),
    [
        ("tiny", "infer", "images"),
        ("tiny", "infer-binary", "images"),
        ("tiny-text", "generate-stream", "tokens"),
        ("tiny-text", "predict", "tokens"),
        ("tiny-en-de", "predict", "texts"),
    ],
)
def test_a_server_that_runs_is_measured(
    models: Path, run: Run, served: Server, tmp_path: Path, model: str, protocol: str, unit: str
) -> None:
    make_bundle(models)
    make_text_bundle(models)
    make_translation_bundle(models)
    code, out, _ = run(
        *("--url", served.url, "--model", model, "--protocol", protocol, "--clients", "2", *SHORT),
        *("--batch-sizes", "2", "--output", str(tmp_path / "out")),
    )
    assert code == 0
    content = written(tmp_path / "out", f"{model}-{protocol}")
    assert content["server"] == {"url": served.url, "workers": None}
    assert content["scenario"]["unit"] == unit
    assert content["scenario"]["protocol"] == protocol
    (one,) = content["runs"]
    assert one["figures"]["units_per_s"] > 0
    assert one["of_limit"] == pytest.approx(
        one["figures"]["units_per_s"] / max(each["units_per_s"] for each in content["limit"])
    )
    if protocol == "generate-stream":
        assert one["figures"]["first_token_ms"]["p50"] > 0
    assert f"at {served.url}" in out


def test_without_the_model_at_hand_a_server_is_measured_without_its_limit(run: Run, served: Server) -> None:
    code, out, _ = run("--url", served.url, "--model", "tiny", "--clients", "1", *SHORT)
    assert code == 0
    assert "no limit: there is no such model under" in out
    assert "of the limit" not in out
    code, out, _ = run("--url", served.url, "--model", "tiny", "--clients", "1", *SHORT, "--no-limit")
    assert code == 0
    assert "no limit: it was not asked for" in out


def test_a_graph_that_runs_on_nothing_that_was_made_up_has_no_limit(
    models: Path, run: Run, served: Server, tmp_path: Path
) -> None:
    make_bare(models, "picky", graph=lookup_graph(9))
    body = tmp_path / "body.json"
    body.write_text('{"inputs": {"index": [9]}}', encoding="utf-8")
    code, out, _ = run("--url", served.url, "--model", "picky", "--json", str(body), "--clients", "1", *SHORT)
    assert code == 0
    assert "no limit: it runs on no inputs that could be made up for it" in out


def test_what_a_server_refuses_for_want_of_room_is_counted_apart(run: Run, served: Server, tmp_path: Path) -> None:
    code, _, _ = run(
        *("--url", served.url, "--model", "slow", "--clients", "40", "--no-limit", "--output", str(tmp_path / "out")),
        *("--seconds", "1", "--warm-up", "0"),
    )
    assert code == 0
    (one,) = written(tmp_path / "out", "slow-predict")["runs"]
    assert one["figures"]["refused"] > 0
    assert one["figures"]["answered"] > 0
    assert one["figures"]["errors"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "1", "--url", "http://127.0.0.1:1"], "--workers are of a server that is started for this"),
        (["--workers", "many"], "INFERD_WORKERS"),
        (["--url", "https://127.0.0.1"], "https is not measured"),
        (["--url", "127.0.0.1:8000"], "--url must be like http://127.0.0.1:8000"),
        (["--clients", "0"], "--clients may be from 1 to 4096, not 0"),
        (["--rate", "-5"], "--rate may be from 0.01"),
        (["--seconds", "nan"], "--seconds may be from 0.1 to 600, not nan"),
        (["--rows", "0"], "--rows may be from 1 to 4096, not 0"),
        (["--model-version", "7"], "there is no such model under"),
        (["--no-limit", "--model-version", "7"], "there is no such model under"),
    ],
)
def test_what_makes_no_sense_is_a_failure_that_says_why(
    models: Path, run: Run, arguments: list[str], said: str
) -> None:
    make_bundle(models)
    code, out, err = run("--model", "tiny", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("inferd: ")
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: --model"),
        (["--model", "tiny", "--clients", "1,a"], "must be numbers such as 1,8,32, not '1,a'"),
        (["--model", "tiny", "--parameters", "{"], "is no JSON"),
        (["--model", "tiny", "--parameters", "[]"], "must be an object such as"),
        (["--model", "tiny", "--protocol", "grpc"], "invalid choice: 'grpc'"),
    ],
)
def test_what_can_not_be_read_is_wrong_usage(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_model_that_can_not_be_served_is_a_failure(models: Path, run: Run) -> None:
    (make_bundle(models) / "labels.json").write_text("[]", encoding="utf-8")
    code, out, err = run("--model", "tiny", "--workers", "1", *SHORT)
    assert (code, out) == (1, "")
    assert "the server does not serve tiny: labels.json" in err


def test_a_models_folder_that_is_not_there_is_a_failure(models: Path, run: Run) -> None:
    models.rmdir()
    code, _, err = run("--model", "tiny")
    assert code == 1
    assert err == f"inferd: the models folder {models} does not exist (INFERD_MODELS)\n"


def test_a_server_that_can_not_be_reached_is_a_failure(run: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        code, _, err = run("--url", url, "--model", "tiny")
    assert code == 1
    assert f"{url} can't be reached" in err


def test_a_measurement_that_is_ended_ends_what_it_started(models: Path) -> None:
    make_bundle(models)
    command = [sys.executable, "-m", "service.cli", "--models", str(models), "bench", "--model", "tiny"]
    command += ["--workers", "1", "--clients", ",".join("1" * 32), "--seconds", "4", "--batch-sizes", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        children: list[str] = []
        for line in process.stderr:
            if "ONNX Runtime alone, 1 x 1" in line:  # its server runs, and so does what runs graphs alone
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
