from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import main
from tests.bundles import make_bundle
from tests.e2e.server import running_server
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import WILD, make_translation_bundle

Run = Callable[..., tuple[int, str, str]]

MODEL = ("--model", "tiny-en-de")


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs `inferd --models MODELS translate ...`: the exit code and what it printed."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--models", str(models), "translate", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_a_text_is_translated_without_a_server(models: Path, run: Run) -> None:
    make_translation_bundle(models)
    assert run("Hello, world! we go.", *MODEL) == (0, "Hallo, Welt! wir gehen.\n", "")


def test_a_text_may_come_from_standard_input_with_all_its_lines(
    models: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_translation_bundle(models)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\n\n  the cat\n"))
    assert run("-", *MODEL) == (0, "Hallo.\n\n  die Katze\n", "")


def test_parameters_say_how_to_search(models: Path, run: Run) -> None:
    make_translation_bundle(models, character=WILD)
    text = run("the cat sees the dog", *MODEL)[1]
    assert run("the cat sees the dog", *MODEL, "--num-beams", "1")[1] != text
    assert run("the cat sees the dog", *MODEL, "--length-penalty", "5", "--num-beams", "8")[1] != text
    best, *others, rest = run("the cat sees the dog", *MODEL, "--alternatives", "3")[1].split("\n")
    assert (f"{best}\n", rest) == (text, "")
    assert len({best, *others}) == 4


def test_a_translation_may_be_cut_off(models: Path, run: Run) -> None:
    make_translation_bundle(models)
    assert run("the cat sees the dog", *MODEL, "--max-length", "2")[1] == "die Katze\n"


def test_the_highest_version_is_asked_unless_another_is_named(models: Path, run: Run) -> None:
    make_translation_bundle(models, version=9, character=WILD)
    make_translation_bundle(models, version=10)
    assert run("the cat", *MODEL)[1] == "die Katze\n"
    assert run("the cat sees", *MODEL, "--model-version", "9")[1] != "die Katze sieht\n"


def test_what_can_not_be_translated_is_a_failure_that_says_why(
    models: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_translation_bundle(models)
    assert run("Hello", *MODEL, "--alternatives", "9")[::2] == (
        1,
        "inferd: num_return_sequences may be at most 8, not 10\n",
    )
    monkeypatch.setenv("INFERD_MAX_TEXT_CHARACTERS", "4")
    assert "INFERD_MAX_TEXT_CHARACTERS" in run("Hello", *MODEL)[2]
    assert "half of a character" in run("\udcff", *MODEL)[2]


def test_models_of_other_tasks_say_who_asks_them(models: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(models)
    make_text_bundle(models)
    make_translation_bundle(models)
    for name in ("tiny", "tiny-text"):
        code, out, err = run("Hello", "--model", name)
        assert (code, out) == (1, "")
        assert f"{name} does not translate" in err
    assert main(["--models", str(models), "generate", "Hello", *MODEL]) == 1
    assert "inferd predict asks it" in capsys.readouterr().err
    picture = models.parent / "picture.png"
    picture.write_bytes(b"")
    assert main(["--models", str(models), "predict", str(picture), *MODEL]) == 1
    assert "inferd translate asks it" in capsys.readouterr().err


def test_a_server_gives_the_same_translation(models: Path, run: Run, tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_translation_bundle(served, character=WILD)
    make_translation_bundle(models, character=WILD)
    with running_server(models=served) as server:
        asked = ("the cat sees the dog.\nwe go home", *MODEL, "--alternatives", "2", "--num-beams", "4")
        assert run(*asked, "--url", server.url) == run(*asked)
        assert run(*asked, "--url", server.url, "--model-version", "1") == run(*asked)
        code, _, err = run(*asked, "--url", server.url, "--model-version", "2")
        assert code == 1
        assert "answered 404" in err
