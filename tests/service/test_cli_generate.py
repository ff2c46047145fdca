from __future__ import annotations

import io
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import main
from tests.bundles import make_bundle
from tests.e2e.server import running_server
from tests.text_bundles import make_text_bundle

Run = Callable[..., tuple[int, str, str]]

SEEDED = ("--model", "tiny-text", "--seed", "1", "--max-new-tokens", "30")


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs `inferd --models MODELS generate ...`: the exit code and what it printed."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--models", str(models), "generate", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_a_text_is_continued_without_a_server_and_a_seed_repeats_it(models: Path, run: Run) -> None:
    make_text_bundle(models)
    code, text, err = run("hello", *SEEDED)
    assert (code, err) == (0, "")
    assert len(text) == 31
    assert text.endswith("\n")
    assert run("hello", *SEEDED)[1] == text
    assert run("hello", "--model", "tiny-text", "--seed", "2", "--max-new-tokens", "30")[1] != text


def test_without_a_length_a_hundred_characters_come(models: Path, run: Run) -> None:
    make_text_bundle(models)
    assert len(run("hello", "--model", "tiny-text")[1]) == 101


def test_every_parameter_says_how_the_text_goes_on(models: Path, run: Run) -> None:
    make_text_bundle(models)
    text = run("hello", *SEEDED)[1]
    greedy = run("hello", *SEEDED, "--temperature", "0")[1]
    assert run("hello", *SEEDED, "--top-k", "1")[1] == greedy != text
    assert run("hello", *SEEDED, "--top-p", "0.000001")[1] == greedy
    assert run("hello", *SEEDED, "--stop", text[7:9], "--stop", text[3:5])[1] == text[:3] + "\n"


def test_a_prompt_may_come_from_standard_input(models: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_text_bundle(models)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert run("-", *SEEDED) == run("hello", *SEEDED)


def test_what_the_model_can_not_read_is_a_failure_that_names_it(models: Path, run: Run) -> None:
    make_text_bundle(models)
    code, out, err = run("5 €", *SEEDED)
    assert (code, out) == (1, "")
    assert "'5' (U+0035 DIGIT FIVE), '€' (U+20AC EURO SIGN)" in err


def test_models_of_other_tasks_say_who_asks_them(models: Path, run: Run, tmp_path: Path) -> None:
    make_bundle(models)
    make_text_bundle(models)
    assert run("hello", "--model", "tiny")[::2] == (1, "inferd: tiny continues no texts: inferd predict asks it\n")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"")
    assert main(["--models", str(models), "predict", str(picture), "--model", "tiny-text"]) == 1


def test_a_server_gives_the_same_text_event_by_event(models: Path, run: Run, tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_text_bundle(served)
    make_text_bundle(models)
    with running_server(models=served) as server:
        asked = ("hello", *SEEDED, "--url", server.url)
        assert run(*asked) == run("hello", *SEEDED)
        assert run(*asked, "--model-version", "1") == run("hello", *SEEDED)
        code, _, err = run(*asked, "--model-version", "2")
        assert code == 1
        assert "answered 404" in err
        code, _, err = run("5", *SEEDED, "--url", server.url)
        assert code == 1
        assert "DIGIT FIVE" in err


def test_a_server_that_can_not_be_reached_is_a_failure(run: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        code, _, err = run("hello", *SEEDED, "--url", url)
    assert code == 1
    assert "refused" in err
    assert run("hello", *SEEDED, "--url", "ftp://example.org")[0] == 1
