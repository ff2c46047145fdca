from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.cli import main
from service.security.keys import digest_of, read_keys


def test_a_key_is_shown_once_and_the_file_gets_a_line_that_lets_it_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--scopes", "predict,metrics", "--rate", "2.5", "--burst", "9", "--concurrency", "4"]
    assert main(["key", "shop", *options, "--expires", "2030-01-31"]) == 0
    shown = capsys.readouterr()
    found = re.fullmatch(r"the key, which is shown this once: (inferd_[\w-]{43})\n", shown.err)
    assert found
    assert found[1] not in shown.out
    file = tmp_path / "keys.jsonl"
    file.write_text(shown.out)
    file.chmod(0o600)
    (key,) = read_keys(file)
    assert key.digest == digest_of(found[1].encode())
    assert (key.name, key.scopes, key.rate, key.burst, key.concurrency) == ("shop", ("predict", "metrics"), 2.5, 9, 4)
    assert key.expires == datetime(2030, 1, 31, tzinfo=UTC)


def test_a_key_is_for_asking_models_unless_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "shop"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"name", "sha256", "scopes"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["Shop"], "name"),
        (["shop", "--scopes", "root"], "root"),
        (["shop", "--scopes", ""], "''"),
        (["shop", "--rate", "0"], "rate"),
        (["shop", "--burst", "3"], "burst is of a rate"),
        (["shop", "--concurrency", "-1"], "concurrency"),
    ],
)
def test_what_no_file_may_have_is_not_made(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", *arguments]) == 1
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("inferd: ")
    assert problem in shown.err


def test_a_date_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["key", "shop", "--expires", "soon"])
    assert "'soon' is no date; one is 2030-01-31" in capsys.readouterr().err
