from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.security.keys import MOST_KEYS, Key, digest_of, new_key, read_keys, write_line
from tests.service.security.keys import line, write

HASH = "0" * 64


def test_a_file_has_a_key_a_line(tmp_path: Path) -> None:
    full = line("s", "shop", "predict", "metrics", rate=2.5, burst=7, concurrency=3, expires="2030-01-31T00:00:00Z")
    shop, other = read_keys(write(tmp_path / "keys", "# of the shop", "", full, f"  {line('t', 'other.app')}  "))
    assert shop == Key(
        name="shop",
        sha256=digest_of(b"s").hex(),
        scopes=("predict", "metrics"),
        rate=2.5,
        burst=7,
        concurrency=3,
        expires=datetime(2030, 1, 31, tzinfo=UTC),
    )
    assert (other.name, other.digest, other.rate, other.expires) == ("other.app", digest_of(b"t"), None, None)


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    assert read_keys(write(tmp_path / "keys")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "line 2"),
        ("name = 'shop'", "line 2"),
        ("\xff", "line 2"),
        ("[" * 10_000, "line 2"),
        (f'{{"sha256": "{HASH}", "scopes": ["predict"]}}', "missing required field `name`"),
        (f'{{"name": "a", "sha256": "{HASH}"}}', "missing required field `scopes`"),
        (f'{{"name": "a", "sha256": "{HASH}", "scopes": []}}', "length >= 1"),
        (f'{{"name": "a", "sha256": "{HASH}", "scopes": ["root"]}}', "'root'"),
        (f'{{"name": "a", "sha256": "{HASH}", "scopes": ["predict"], "scope": 1}}', "unknown field `scope`"),
        (line("s", "Upper"), "$.name"),
        (line("s", "a b"), "$.name"),
        (line("s", "a\n"), "$.name"),
        ('{"name": "a", "sha256": "abc", "scopes": ["predict"]}', "$.sha256"),
        (line("s", "a", rate=0), "$.rate"),
        (line("s", "a", rate="fast"), "$.rate"),
        (line("s", "a", rate=1, burst=0), "$.burst"),
        (line("s", "a", burst=5), "burst is of a rate"),
        (line("s", "a", concurrency=0), "$.concurrency"),
        (line("s", "a", expires="tomorrow"), "$.expires"),
        (line("s", "a", expires="2030-01-31T00:00:00"), "timezone"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_what_is_allowed(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"# first\n" + text.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert '"scopes": some of predict, metrics, admin' in str(caught.value)


@pytest.mark.parametrize(
    ("second", "problem"),
    [(line("t", "a"), "there is another key 'a' above"), (line("s", "b"), "'a' above is the same key")],
)
def test_names_and_keys_are_unique(tmp_path: Path, second: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: {problem}"):
        read_keys(write(tmp_path / "keys", line("s", "a"), second))


def test_there_are_so_many_keys_at_most(tmp_path: Path) -> None:
    lines = [line(str(number), f"key-{number}") for number in range(MOST_KEYS + 1)]
    assert len(read_keys(write(tmp_path / "keys", *lines[:-1]))) == MOST_KEYS
    with pytest.raises(ValueError, match=rf"line {MOST_KEYS + 1}: there may be {MOST_KEYS} keys at most"):
        read_keys(write(tmp_path / "keys", *lines))


def test_a_file_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        read_keys(write(tmp_path / "keys", "#" * 2**20))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-file"):
        read_keys(tmp_path / "no-such-file")


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, ""), (0o640, ""), (0o644, "may read it"), (0o602, "may change it")]
)
def test_who_else_may_see_the_file_is_warned_of(
    tmp_path: Path, mode: int, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys", line("s", "a"))
    path.chmod(mode)
    caplog.set_level(logging.WARNING)
    read_keys(path)
    assert warned in caplog.text
    assert bool(caplog.text) == bool(warned)


def test_new_keys_are_long_and_never_the_same() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"inferd_[\w-]{43}", one) for one in made)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    key = Key(name="a", sha256=HASH, scopes=("admin",), rate=0.5, expires=datetime(2030, 1, 31, tzinfo=UTC))
    assert read_keys(write(tmp_path / "keys", write_line(key))) == [key]
    assert write_line(Key(name="a", sha256=HASH, scopes=("predict",))) == (
        f'{{"name":"a","sha256":"{HASH}","scopes":["predict"]}}'
    )
