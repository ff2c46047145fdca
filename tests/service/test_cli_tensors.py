"""The command with models that are nothing but their graph."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from service.app import create_app
from service.cli import main
from service.settings import Settings
from tests.bundles import (
    entangled_graph,
    lookup_graph,
    make_bare,
    make_bundle,
    sum_graph,
    truncate,
)
from tests.conftest import loaded

Run = Callable[..., tuple[int, str, str]]

ROWS = [[1, 2, 3]]
ASKED = {"inputs": {"a": ROWS, "b": ROWS}}
ANSWER = {"sum": [[2, 4, 6]], "total": [6]}


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs `inferd --models MODELS ...` and returns the exit code and what it printed."""

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main(["--models", str(models), *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "some.onnx"
    path.write_bytes(sum_graph().SerializeToString())
    return path


def asked(folder: Path, content: object) -> Path:
    path = folder / "asked.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# models, verify


def test_a_graph_without_a_manifest_is_listed_and_verified_among_the_others(models: Path, run: Run) -> None:
    make_bundle(models, "b")
    make_bare(models, "a", 7)
    truncate(make_bare(models, "c") / "model.onnx")
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "a\t7\ttensors\t-\tno manifest: served as its graph"
    assert out.splitlines()[1].startswith("b\t1\timage-classification\tfp32")
    code, out, _ = run("verify")
    assert code == 1
    assert out.splitlines()[:2] == ["a 7: ok (original)", "b 1: ok (fp32, int8)"]
    assert out.splitlines()[2].startswith("c 1: refused: model.onnx: is no ONNX model")


# import


def test_a_file_is_imported_and_is_then_a_model_as_any_other(
    models: Path, run: Run, graph: Path, tmp_path: Path
) -> None:
    code, out, err = run("import", graph, "--name", "sums", "--title", "Sums", "--licence", "MIT")
    assert (code, err) == (0, "")
    assert out == f"sums 1: written to {models / 'sums' / '1'}; requests share runs\n"
    assert run("models")[1] == "sums\t1\ttensors\toriginal\t\n"
    assert run("verify") == (0, "sums 1: ok (original)\n", "")
    code, out, _ = run("predict", asked(tmp_path, ASKED), "--model", "sums")
    assert (code, json.loads(out)) == (0, ANSWER)
    assert run("import", graph, "--name", "sums")[1].startswith("sums 2: written to ")
    assert run("import", graph, "--name", "sums", "--version", 5)[1].startswith("sums 5: written to ")


def test_why_requests_will_not_share_runs_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "some.onnx").write_bytes(entangled_graph().SerializeToString())
    _, out, _ = run("import", tmp_path / "some.onnx", "--name", "mixed")
    assert out.endswith("requests run one by one: output 'y' of a row depends on the rows beside it\n")


def test_golden_inputs_and_labels_come_from_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "some.onnx").write_bytes(lookup_graph(9).SerializeToString())
    (tmp_path / "labels.json").write_text('["a", "b", "c"]', encoding="utf-8")
    code, _, err = run("import", tmp_path / "some.onnx", "--name", "far")
    assert code == 1
    assert "--golden inputs.npz, with an array for each by its name" in err
    np.savez(tmp_path / "inputs.npz", index=np.array([9, 10]))
    code, _, _ = run(
        *("import", tmp_path / "some.onnx", "--name", "far"),
        *("--golden", tmp_path / "inputs.npz", "--labels", tmp_path / "labels.json"),
    )
    assert code == 0
    assert run("verify")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "Sums"], "a model's name is like"),
        (["--name", "sums", "--version", "0"], "a version is a whole number"),
        (["--name", "there"], "a version is never overwritten"),
        (["--name", "sums", "--golden", "nowhere.npz"], "nowhere.npz can't be read"),
    ],
)
def test_what_can_not_be_imported_is_a_failure_that_says_why(
    models: Path, run: Run, graph: Path, arguments: list[str], said: str
) -> None:
    make_bare(models, "there")
    more = ["--version", "1"] if "there" in arguments else []
    code, out, err = run("import", graph, *arguments, *more)
    assert (code, out) == (1, "")
    assert err.startswith("inferd: ")
    assert said in err


# predict


def test_a_graph_is_asked_with_json(models: Path, run: Run, tmp_path: Path) -> None:
    make_bare(models, "sums", graph=sum_graph())
    code, out, err = run("predict", asked(tmp_path, ASKED), "--model", "sums")
    assert (code, json.loads(out), err) == (0, ANSWER, "")


@pytest.mark.parametrize("content", [[], {}, {"a": ROWS}, {"inputs": 1, "parameters": []}, "text"])
def test_json_that_is_no_request_is_a_failure(models: Path, run: Run, tmp_path: Path, content: object) -> None:
    make_bare(models, "sums", graph=sum_graph())
    code, _, err = run("predict", asked(tmp_path, content), "--model", "sums")
    assert code == 1
    assert 'must have JSON {"inputs": ..., "parameters": {...}}' in err


def test_a_graph_can_not_be_asked_about_a_picture(models: Path, run: Run, tmp_path: Path) -> None:
    make_bare(models, "sums", graph=sum_graph())
    (tmp_path / "picture.png").write_bytes(b"picture")
    code, _, err = run("predict", tmp_path / "picture.png", "--model", "sums")
    assert code == 1
    assert "the model takes tensors: send JSON" in err
    code, _, err = run("predict", asked(tmp_path, ASKED), "--model", "sums", "--top-k", "3")
    assert code == 1
    assert "parameter 'top_k' is not known" in err


def test_a_server_is_asked_with_json(run: Run, tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_bare(served, "sums", graph=sum_graph())
    question = asked(tmp_path, ASKED)

    async def ask() -> None:
        app = create_app(Settings(models=served, threads=1))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_config=None))
            serving = asyncio.create_task(server.serve([listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody when it has started
                await asyncio.sleep(0.01)
            await loaded(app)
            code, out, err = await asyncio.to_thread(run, "predict", question, "--model", "sums", "--url", url)
            assert (code, err) == (0, "")
            assert json.loads(out) == ANSWER
            server.should_exit = True
            await serving

    asyncio.run(ask())
