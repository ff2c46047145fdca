from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn

from service.app import create_app
from service.cli import main
from service.settings import Settings
from tests.bundles import HEIGHT, WIDTH, edit, flip_a_byte, make_bundle, read_golden, sign, write_golden
from tests.conftest import loaded
from tests.service.pictures import drawn, encoded
from tests.service.requests import scores_of
from tests.text_bundles import make_text_bundle

PICTURE = drawn(WIDTH, HEIGHT)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs `inferd --models MODELS ...` and returns the exit code and what it printed."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--models", str(models), *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PICTURE))
    return str(path)


# models


def test_models_are_listed_with_task_variant_and_figures(models: Path, run: Run) -> None:
    make_bundle(models, "b", 10)
    make_bundle(models, "b", 9)
    make_bundle(models, "a", default_variant="int8")
    code, out, err = run("models")
    assert (code, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:4] for row in rows] == [
        ["a", "1", "image-classification", "int8"],
        ["b", "9", "image-classification", "fp32"],
        ["b", "10", "image-classification", "fp32"],
    ]
    assert rows[1][4] == "accuracy 0.5 (test)"
    assert rows[0][4] == ""  # there is no figure of what serves


def test_a_model_that_continues_texts_is_listed_and_verified_as_others_are(models: Path, run: Run) -> None:
    bundle = make_text_bundle(models)
    assert run("models") == (0, "tiny-text\t1\ttext-generation\tfp32\taccuracy 0.5 (test)\n", "")
    assert run("verify") == (0, "tiny-text 1: ok (fp32)\n", "")
    arrays = read_golden(bundle)
    arrays["framework/step/next_state"][3, 1] += 0.01
    write_golden(bundle, arrays)
    sign(bundle)
    code, out, _ = run("verify")
    assert code == 1
    assert "tiny-text 1: refused: step.onnx: golden replay of variant 'fp32': output 'next_state' differs by 0" in out
    (bundle / "vocab.json").write_text('["a"]', encoding="utf-8")
    sign(bundle)
    assert run("verify")[:2] == (
        1,
        "tiny-text 1: refused: vocab.json: lacks ['\\n', ' ', '.'], which start or replacements need\n",
    )


def test_a_model_that_can_not_be_read_is_listed_with_the_reason(models: Path, run: Run) -> None:
    make_bundle(models, "a")
    edit(make_bundle(models, "b"), "surprise", to=1)
    code, out, _ = run("models")
    assert code == 0
    assert out.splitlines()[1] == "b\t1\trefused: manifest.json: surprise: Extra inputs are not permitted"


def test_a_models_folder_that_is_not_there_is_a_failure_that_names_it(models: Path, run: Run) -> None:
    models.rmdir()
    for command in (["models"], ["verify"], ["predict", __file__, "--model", "tiny"]):
        code, out, err = run(*command)
        assert (code, out) == (1, "")
        assert err == f"inferd: the models folder {models} does not exist (INFERD_MODELS)\n"


# verify


def test_whole_models_are_verified_with_every_variant(models: Path, run: Run) -> None:
    make_bundle(models)
    assert run("verify") == (0, "tiny 1: ok (fp32, int8)\n", "")


def test_one_damaged_model_makes_verifying_fail_and_the_others_are_verified(models: Path, run: Run) -> None:
    flip_a_byte(make_bundle(models, "a") / "labels.json")
    make_bundle(models, "b")
    code, out, _ = run("verify")
    assert code == 1
    first, second = out.splitlines()
    assert first.startswith("a 1: refused: labels.json: has sha256")
    assert second == "b 1: ok (fp32, int8)"


def test_a_variant_that_does_not_replay_is_refused_though_another_could_serve(models: Path, run: Run) -> None:
    bundle = make_bundle(models, default_variant="int8")
    arrays = read_golden(bundle)
    arrays["runtime/int8/model/logits"] = arrays["runtime/int8/model/logits"] + 0.5
    write_golden(bundle, arrays)
    sign(bundle)
    code, out, _ = run("verify")
    assert code == 1
    assert "tiny 1: refused: model.int8.onnx: golden replay of variant 'int8'" in out


# predict, with no server


def asked(out: str) -> dict[str, float]:
    assert out.endswith("]\n")
    return {one["label"]: one["score"] for one in json.loads(out)}


def test_a_model_is_asked_without_a_server(models: Path, run: Run, picture: str) -> None:
    make_bundle(models)
    code, out, err = run("predict", picture, "--model", "tiny")
    assert (code, err) == (0, "")
    assert asked(out) == pytest.approx(scores_of(PICTURE), abs=1e-5)


def test_a_question_has_the_parameters_that_a_request_has(models: Path, run: Run, picture: str) -> None:
    make_bundle(models)
    _, out, _ = run("predict", picture, "--model", "tiny", "--invert")
    assert asked(out) == pytest.approx(scores_of(PICTURE, invert=True), abs=1e-5)
    _, out, _ = run("predict", picture, "--model", "tiny", "--top-k", "1")
    assert len(asked(out)) == 1


def test_the_highest_version_is_asked_unless_another_is_named(models: Path, run: Run, picture: str) -> None:
    plain = {"kind": "classification", "output": "logits", "activation": "none", "labels": "labels.json"}
    make_bundle(models, version=9)
    make_bundle(models, version=10, postprocessing=plain)
    _, out, _ = run("predict", picture, "--model", "tiny")
    assert sum(asked(out).values()) != pytest.approx(1, abs=1e-3)
    _, out, _ = run("predict", picture, "--model", "tiny", "--model-version", "9")
    assert sum(asked(out).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nobody"], ": nobody\n"),
        (["--model", "tiny", "--model-version", "2"], ": tiny version 2\n"),
        (["--model", "tiny", "--top-k", "0"], "parameter 'top_k'"),
        (["--model", "tiny", "--url", "ftp://127.0.0.1"], "--url must begin with http:// or https://"),
        (["--model", "tiny", "--url", "127.0.0.1:8000"], "--url must begin with http:// or https://"),
    ],
)
def test_a_question_that_can_not_be_answered_is_a_failure_that_says_why(
    models: Path, run: Run, picture: str, arguments: list[str], said: str
) -> None:
    make_bundle(models)
    code, out, err = run("predict", picture, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("inferd: ")
    assert said in err


def test_a_picture_that_is_not_there_or_is_none_is_a_failure(models: Path, run: Run, tmp_path: Path) -> None:
    make_bundle(models)
    code, _, err = run("predict", str(tmp_path / "nowhere.png"), "--model", "tiny")
    assert code == 1
    assert "nowhere.png" in err
    (tmp_path / "text.png").write_bytes(b"no picture")
    code, _, err = run("predict", str(tmp_path / "text.png"), "--model", "tiny")
    assert code == 1
    assert "no image" in err


def test_a_refused_model_is_a_failure_with_the_reason(models: Path, run: Run, picture: str) -> None:
    flip_a_byte(make_bundle(models) / "model.onnx")
    code, _, err = run("predict", picture, "--model", "tiny")
    assert code == 1
    assert err.startswith("inferd: model.onnx: has sha256")


# predict, by a server


def test_a_server_that_can_not_be_reached_is_a_failure(run: Run, picture: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        code, out, err = run("predict", picture, "--model", "tiny", "--url", url)
    assert (code, out) == (1, "")
    assert "refused" in err


def test_a_server_is_asked_in_place_of_the_folder(models: Path, run: Run, picture: str, tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_bundle(served)

    async def main() -> None:
        app = create_app(Settings(models=served, threads=1))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_config=None))
            serving = asyncio.create_task(server.serve([listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

            async def ask(*arguments: str, model: str = "tiny") -> tuple[int, str, str]:
                given = ("predict", picture, "--model", model, "--url", url, *arguments)
                return await asyncio.to_thread(run, *given)

            code, _, err = await ask(model="nobody")  # by now the server has started
            assert code == 1
            assert "answered 404: " in err
            await loaded(app)
            code, out, err = await ask("--top-k", "2", "--invert")
            assert (code, err) == (0, "")
            expected = sorted(scores_of(PICTURE, invert=True).items(), key=lambda one: -one[1])[:2]
            assert asked(out) == pytest.approx(dict(expected), abs=1e-5)
            code, out, _ = await ask("--model-version", "1")
            assert asked(out) == pytest.approx(scores_of(PICTURE), abs=1e-5)
            code, _, err = await ask("--model-version", "2")
            assert code == 1
            assert "versions: 1" in err
            server.should_exit = True
            await serving

    asyncio.run(main())


# serve


@pytest.mark.usefixtures("_logging_as_it_was")
def test_serving_a_folder_that_is_not_there_is_a_failure_that_names_the_setting(models: Path, run: Run) -> None:
    models.rmdir()
    code, _, err = run("serve")
    assert code == 1
    assert "does not exist (INFERD_MODELS)" in err


@pytest.mark.usefixtures("_logging_as_it_was")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_serving_at_a_port_that_is_taken_is_a_failure(workers: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_GRPC_PORT", "")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = ("serve", "--workers", workers, "--port", str(listener.getsockname()[1]))
        if workers == "1":
            with pytest.raises(SystemExit) as ended:  # uvicorn's way
                run(*arguments)
            assert ended.value.code not in {0, None}
        else:
            code, _, err = run(*arguments)
            assert code == 1
            assert "can't listen on 127.0.0.1" in err


# The command itself


@pytest.mark.parametrize("arguments", [[], ["dance"], ["predict"], ["predict", "x"], ["serve", "--port", "http"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: inferd" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{version('inferd')}\n"


def test_a_bad_setting_is_a_failure_that_names_its_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_MAX_PIXELS", "many")
    monkeypatch.setenv("INFERD_DEVICE", "gpu")
    code, out, err = run("models")
    assert (code, out) == (1, "")
    assert "INFERD_MAX_PIXELS: " in err
    assert "INFERD_DEVICE: " in err


def test_a_port_beyond_all_ports_is_a_failure_that_names_its_variable(run: Run) -> None:
    code, _, err = run("serve", "--port", "70000")
    assert code == 1
    assert "INFERD_PORT: " in err


def test_a_variable_that_is_no_setting_is_named_and_no_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_MAX_PIXLES", "1")
    monkeypatch.setenv("INFERD_DATA_DIR", "/data")  # is one of training's
    code, _, err = run("models")
    assert code == 0
    assert err == "inferd: INFERD_MAX_PIXLES is no setting of the server; see docs/operations.md\n"


def test_the_command_line_comes_before_the_environment(
    models: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_bundle(models)
    monkeypatch.setenv("INFERD_MODELS", str(tmp_path / "elsewhere"))
    code, out, _ = run("models")
    assert code == 0
    assert out.startswith("tiny\t1\t")


def test_settings_come_from_the_environment(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(models)
    monkeypatch.setenv("INFERD_MODELS", str(models))
    assert main(["models"]) == 0
    assert capsys.readouterr().out.startswith("tiny\t1\t")


def test_limits_of_the_settings_hold_on_the_command_line_too(
    models: Path, run: Run, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(models)
    monkeypatch.setenv("INFERD_MAX_PIXELS", "5")
    code, _, err = run("predict", picture, "--model", "tiny")
    assert code == 1
    assert "the limit is 5 (INFERD_MAX_PIXELS)" in err
