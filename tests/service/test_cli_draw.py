from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.cli import main
from tests.bundles import make_bundle
from tests.e2e.server import running_server
from tests.image_bundles import make_image_bundle
from tests.service.painting import enlarged, painted, pixels_of
from tests.text_bundles import make_text_bundle

Run = Callable[..., tuple[int, str, str]]

MODEL = ("--model", "tiny-painter")


@pytest.fixture
def run(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs `inferd --models MODELS draw ...` in a folder: the exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--models", str(models), "draw", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_a_picture_is_drawn_without_a_server(models: Path, run: Run) -> None:
    make_image_bundle(models)
    assert run("a dark night", *MODEL, "--seed", "7", "-o", "night.png") == (0, "night.png: seed 7\n", "")
    assert (pixels_of(Path("night.png").read_bytes()) == painted("dark", 7)[0]).all()


def test_the_seed_that_is_told_draws_the_same_again(models: Path, run: Run) -> None:
    make_image_bundle(models)
    _, out, _ = run("dark", *MODEL, "-o", "one.png")
    seed = out.removeprefix("one.png: seed ").strip()
    run("dark", *MODEL, "-o", "two.png", "--seed", seed)
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert run("dark", *MODEL, "-o", "one.png")[1] != out


def test_several_pictures_become_a_grid(models: Path, run: Run) -> None:
    make_image_bundle(models)
    run("left", *MODEL, "--n", "4", "--seed", "7", "-o", "grid.png", "--columns", "4")
    assert (pixels_of(Path("grid.png").read_bytes()) == np.concatenate(painted("left", 7, 4), axis=1)).all()
    run("left", *MODEL, "--n", "4", "--seed", "7", "-o", "grid.png")
    assert pixels_of(Path("grid.png").read_bytes()).shape == (2 * 4, 2 * 6, 1)


def test_several_pictures_have_files_of_their_own_where_their_name_has_a_place_for_a_number(
    models: Path, run: Run
) -> None:
    make_image_bundle(models)
    Path("left").mkdir()
    answer = run("left", *MODEL, "--n", "12", "--seed", "7", "-o", "left/no-{}.png")
    assert answer == (0, "left/no-{}.png: seed 7\n", "")
    names = [f"no-{number:02}.png" for number in range(1, 13)]
    assert sorted(one.name for one in Path("left").iterdir()) == names
    pixels = [pixels_of((Path("left") / name).read_bytes()) for name in names]
    assert (np.stack(pixels) == painted("left", 7, 12)).all()
    run("left", *MODEL, "-o", "{}.png", "--seed", "7")
    assert (pixels_of(Path("1.png").read_bytes()) == painted("left", 7)[0]).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "image/png"),
        ("a.PNG", "image/png"),
        ("a.webp", "image/webp"),
        ("a.jpg", "image/jpeg"),
        ("a.jpeg", "image/jpeg"),
    ],
)
def test_a_files_name_says_its_format(models: Path, run: Run, name: str, kind: str) -> None:
    make_image_bundle(models)
    run("dark", *MODEL, "--seed", "3", "-o", name)
    seen = pixels_of(Path(name).read_bytes(), kind).astype(int)
    assert np.abs(seen - painted("dark", 3)[0]).max() <= (12 if kind == "image/jpeg" else 0)


def test_options_say_what_is_drawn(models: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image_bundle(models)

    def picture(*arguments: str) -> np.ndarray:
        code, _, err = run(*arguments, *MODEL, "--seed", "3", "-o", "a.png")
        assert (code, err) == (0, "")
        return pixels_of(Path("a.png").read_bytes())

    assert (picture("--label", "LEFT") == painted("left", 3)[0]).all()
    assert (picture("dark", "--size", "24x16") == enlarged(painted("dark", 3)[0], 4)).all()
    assert (picture("dark", "--truncation", "0.25") == painted("dark", 3, truncation=0.25)[0]).all()
    assert picture("soup", "--nearest").shape == (4, 6, 1)
    monkeypatch.setattr("sys.stdin", io.StringIO("a dark\nnight\n"))
    assert (picture("-") == painted("dark", 3)[0]).all()


def test_what_is_there_is_replaced(models: Path, run: Run) -> None:
    make_image_bundle(models)
    Path("a.png").write_bytes(b"something else")
    run("dark", *MODEL, "--seed", "3", "-o", "a.png")
    assert (pixels_of(Path("a.png").read_bytes()) == painted("dark", 3)[0]).all()


def test_the_highest_version_is_asked_unless_another_is_named(models: Path, run: Run) -> None:
    make_image_bundle(models, version=9, seed=4)
    make_image_bundle(models, version=10)
    run("dark", *MODEL, "--seed", "3", "-o", "a.png")
    assert (pixels_of(Path("a.png").read_bytes()) == painted("dark", 3)[0]).all()
    run("dark", *MODEL, "--seed", "3", "-o", "b.png", "--model-version", "9")
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["soup", "-o", "a.png"], "what can be drawn: dark, bright, left"),
        (["-o", "a.png"], "nothing says what to draw"),
        (["--label", "blue", "-o", "a.png"], "labels: dark, bright, left"),
        (["dark", "-o", "a.gif"], "a.gif: the name must end with one of .png, .webp, .jpg, .jpeg"),
        (["dark", "-o", "a"], "a: the name must end with one of"),
        (["dark", "-o", "nowhere/a.png"], "nowhere/a.png"),
        (["dark", "--n", "0", "-o", "a.png"], "greater than or equal to 1"),
        (["dark", "--n", "1000000", "-o", "a.png"], "less than or equal to 64"),
        (["dark", "--n", "0", "-o", "a-{}.png"], "greater than or equal to 1"),
        (["dark", "--size", "28x28", "-o", "a.png"], "6x4, 12x8, 24x16, 48x32, 96x64"),
        (["dark", "--truncation", "nan", "-o", "a.png"], "'truncation'"),
        (["dark", "--seed", "-1", "-o", "a.png"], "'seed'"),
        (["dark", "--columns", "0", "--n", "4", "-o", "a.png"], "at least one column, not 0"),
        (["dark", "--columns", "2", "--n", "4", "-o", "a-{}.png"], "--columns are of a grid"),
    ],
)
def test_what_can_not_be_drawn_is_a_failure_that_says_why_and_leaves_no_file(
    models: Path, run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    make_image_bundle(models)
    code, out, err = run(*arguments, *MODEL)
    assert (code, out) == (1, "")
    assert err.startswith("inferd: ")
    assert said in err
    assert [one.name for one in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize("arguments", [["dark"], ["dark", "-o", "a.png", "--size", "5"], ["a", "b", "-o", "a.png"]])
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments, *MODEL)
    assert ended.value.code == 2


def test_models_of_other_tasks_say_who_asks_them(models: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(models)
    make_text_bundle(models)
    make_image_bundle(models)
    for name in ("tiny", "tiny-text"):
        code, out, err = run("dark", "--model", name, "-o", "a.png")
        assert (code, out) == (1, "")
        assert f"{name} draws no pictures" in err
    picture = models.parent / "picture.png"
    picture.write_bytes(b"")
    assert main(["--models", str(models), "predict", str(picture), *MODEL]) == 1
    assert "inferd draw asks it" in capsys.readouterr().err


def test_a_server_draws_the_same(models: Path, run: Run, tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_image_bundle(served)
    make_image_bundle(models)
    with running_server(models=served) as server:
        there = ("--url", server.url)
        for number, asked in enumerate(
            [
                ("a dark night", "--seed", "7"),
                ("a dark night", "--seed", "7", "--n", "5"),
                ("--label", "left", "--seed", "7", "--n", "6", "--columns", "2", "--size", "24x16"),
                ("soup", "--nearest", "--seed", "7", "--truncation", "0.5", "--model-version", "1"),
            ]
        ):
            for suffix in ("png", "webp", "jpg"):
                name = f"{number}.{suffix}"
                assert run(*asked, *MODEL, "-o", f"here-{name}") == (0, f"here-{name}: seed 7\n", "")
                assert run(*asked, *MODEL, "-o", f"there-{name}", *there) == (0, f"there-{name}: seed 7\n", "")
                assert Path(f"there-{name}").read_bytes() == Path(f"here-{name}").read_bytes()
        for place, options in (("here", ()), ("there", there)):
            run("left", *MODEL, "--seed", "7", "--n", "11", "-o", f"{place}-{{}}.png", *options)
        for number in range(1, 12):
            name = f"{number:02}.png"
            assert Path(f"there-{name}").read_bytes() == Path(f"here-{name}").read_bytes()
        _, out, _ = run("dark", *MODEL, "-o", "there.png", *there)
        run("dark", *MODEL, "-o", "here.png", "--seed", out.split()[-1])
        assert Path("there.png").read_bytes() == Path("here.png").read_bytes()
        for asked, said in (
            (("soup",), "what can be drawn: dark, bright, left"),
            (("dark", "--n", "0"), "greater than or equal to 1"),
            (("dark", "--columns", "0"), "columns from 1 to 64"),
            (("dark", "--model-version", "2"), "answered 404"),
        ):
            code, out, err = run(*asked, *MODEL, "-o", "none.png", *there)
            assert (code, out) == (1, "")
            assert said in err
        assert not Path("none.png").exists()
