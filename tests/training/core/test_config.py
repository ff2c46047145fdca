from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from training.core.config import ConfigModel, read_config

TOML = """
seed = 3

[fit]
epochs = 10
scale = { stem = 0.5 }
"""


class Fit(ConfigModel):
    epochs: int
    scale: Mapping[str, float] = {}
    name: str = ""


class Whole(ConfigModel):
    seed: int
    fit: Fit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_a_file_is_read_as_it_stands(file: Path) -> None:
    assert read_config(Whole, file) == Whole(seed=3, fit=Fit(epochs=10, scale={"stem": 0.5}))


def test_an_override_changes_one_value_and_leaves_the_others(file: Path) -> None:
    config = read_config(Whole, file, ["fit.epochs=2"])
    assert config == Whole(seed=3, fit=Fit(epochs=2, scale={"stem": 0.5}))


def test_the_last_of_two_overrides_holds(file: Path) -> None:
    assert read_config(Whole, file, ["seed=4", "seed=5"]).seed == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [("plain", "plain"), ('"quoted"', "quoted"), ("a=b", "a=b"), ("", ""), ("~/some/folder", "~/some/folder")],
    ids=["plain", "quoted", "with an equals sign", "empty", "a path"],
)
def test_an_override_that_is_no_toml_is_a_string(file: Path, text: str, value: str) -> None:
    assert read_config(Whole, file, [f"fit.name={text}"]).fit.name == value


def test_an_override_reaches_into_a_table_within_a_table(file: Path) -> None:
    config = read_config(Whole, file, ["fit.scale.stem=0.1", "fit.scale.head=2.0"])
    assert config.fit.scale == {"stem": 0.1, "head": 2.0}


def test_an_override_may_give_a_whole_table(file: Path) -> None:
    assert read_config(Whole, file, ["fit.scale={ head = 3.0 }"]).fit.scale == {"head": 3.0}


def test_an_override_without_an_equals_sign_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"--set takes table\.key=value, not 'fit\.epochs'"):
        read_config(Whole, file, ["fit.epochs"])


def test_an_override_of_something_inside_a_number_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="seed"):
        read_config(Whole, file, ["seed.deeper=1"])


@pytest.mark.parametrize(
    ("override", "named"), [("sead=1", "sead"), ("fit.epoch=1", r"fit\.epoch"), ("fitt.epochs=1", "fitt")]
)
def test_a_key_that_does_not_exist_is_refused_by_name(file: Path, override: str, named: str) -> None:
    with pytest.raises(ValidationError, match=rf"{named}\n.*Extra inputs are not permitted"):
        read_config(Whole, file, [override])


def test_an_unknown_key_in_the_file_is_refused_by_name(file: Path) -> None:
    file.write_text(TOML + "epocs = 3\n", encoding="utf-8")
    with pytest.raises(ValidationError, match=r"fit\.epocs"):
        read_config(Whole, file)


def test_a_value_of_the_wrong_kind_is_refused(file: Path) -> None:
    with pytest.raises(ValidationError, match=r"fit\.epochs"):
        read_config(Whole, file, ["fit.epochs=many"])


def test_a_configuration_cannot_be_changed_later(file: Path) -> None:
    config = read_config(Whole, file)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 4
