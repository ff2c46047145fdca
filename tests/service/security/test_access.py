from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from service.errors import Forbidden, InferdError, LimitReached, Unauthenticated
from service.metrics import Metrics
from service.security.access import Access, presented
from service.security.keys import Scope
from service.settings import Settings
from tests.service.requests import parsed
from tests.service.security.keys import line, write

SCOPES: tuple[Scope, ...] = ("predict", "metrics", "admin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def access_of(path: Path | None, *lines: str, **changes: Any) -> Access:
    metrics = changes.pop("metrics", None) or Metrics("0")
    return Access.of(Settings(api_keys_file=path and write(path, *lines), **changes), metrics)


def opened_by(access: Access, secret: bytes | None) -> set[str]:
    def opens(scope: Scope) -> bool:
        try:
            with access.admit(scope, secret):
                return True
        except InferdError:
            return False

    return {scope for scope in SCOPES if opens(scope)}


# What needs no key


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"predict", "metrics"}),
        ({"host": "localhost"}, {"predict", "metrics"}),
        ({"host": "::1"}, {"predict", "metrics"}),
        ({"admin_key": "k"}, {"predict", "metrics"}),
        ({"host": "0.0.0.0"}, {"predict"}),
        ({"host": "a.example"}, {"predict"}),
        ({"host": "0.0.0.0", "metrics_access": "open"}, {"predict", "metrics"}),
        ({"metrics_access": "key"}, {"predict"}),
        ({"predict_access": "key"}, {"metrics"}),
    ],
)
def test_without_a_file_only_control_is_closed_unless_others_can_connect(
    settings: dict[str, Any], expected: set[str]
) -> None:
    assert opened_by(access_of(None, **settings), None) == expected
    assert opened_by(access_of(None, **settings), b"anything") == expected  # as OpenAI's clients always bring one


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, set()), ({"predict_access": "open"}, {"predict"}), ({"metrics_access": "open"}, {"metrics"})],
)
def test_with_a_file_everything_is_closed_unless_said_otherwise(
    path: Path, settings: dict[str, Any], expected: set[str]
) -> None:
    assert opened_by(access_of(path, line("s", "a"), **settings), None) == expected


def test_a_port_of_metrics_that_asks_for_keys_is_not_to_be_had(path: Path) -> None:
    with pytest.raises(ValueError, match="INFERD_METRICS_ACCESS=key is of /metrics beside"):
        access_of(None, metrics_access="key", metrics_port=9000)


# Keys


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        (["predict"], {"predict"}),
        (["metrics"], {"metrics"}),
        (["predict", "metrics"], {"predict", "metrics"}),
        (["admin"], {"predict", "metrics", "admin"}),
    ],
)
def test_a_key_opens_its_scopes(path: Path, scopes: list[str], expected: set[str]) -> None:
    assert opened_by(access_of(path, line("s", "a", *scopes)), b"s") == expected


def test_the_admin_key_is_one_of_them(path: Path) -> None:
    access = access_of(path, line("s", "a"), admin_key="root")
    assert opened_by(access, b"root") == set(SCOPES)
    assert access.admit("admin", b"root").name == "INFERD_ADMIN_KEY"
    assert access.admit("predict", b"s").name == "a"
    assert opened_by(access_of(None, admin_key="root", metrics_access="key"), b"root") == set(SCOPES)


@pytest.mark.parametrize("secret", [b"S", b"s ", b"ss", b"", b"\xff", b"s" * 100_000, b"\x00s"])
def test_another_key_opens_nothing_and_is_not_repeated(path: Path, secret: bytes) -> None:
    access = access_of(path, line("s", "a", "admin"))
    for scope in SCOPES:
        with pytest.raises(Unauthenticated) as caught:
            access.admit(scope, secret)
        expected = "this key is not known here" if secret else f"this call needs a key with the scope {scope}: "
        assert str(caught.value).startswith(expected)


def test_who_brings_none_is_told_how(path: Path) -> None:
    with pytest.raises(Unauthenticated, match="scope predict: Authorization: Bearer <key>, or x-api-key: <key>"):
        access_of(path, line("s", "a")).admit("predict", None)


def test_a_key_without_the_scope_is_told_which(path: Path) -> None:
    access = access_of(path, line("s", "shop", "metrics", "predict"), line("t", "root", "admin"))
    with pytest.raises(Forbidden, match="'shop' has the scope predict, metrics; this call needs admin"):
        access.admit("admin", b"s")


@pytest.mark.parametrize("secret", [None, b"s", b"t"])
def test_what_no_key_opens_is_closed_to_everybody(path: Path, secret: bytes | None) -> None:
    with pytest.raises(Forbidden, match=r"control is closed: .*INFERD_ADMIN_KEY.*INFERD_API_KEYS_FILE"):
        access_of(path, line("s", "a")).admit("admin", secret)
    with pytest.raises(Forbidden, match=r"metrics are closed here .*INFERD_METRICS_ACCESS=open"):
        access_of(path, line("s", "a")).admit("metrics", secret)


def test_a_key_ends_when_it_was_said_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = access_of(path, line("s", "a", expires="2030-01-31T00:00:00Z"))
    monkeypatch.setattr(time, "time", lambda: 1896047999.0)
    assert access.admit("predict", b"s").name == "a"
    monkeypatch.setattr(time, "time", lambda: 1896048000.0)
    with pytest.raises(Unauthenticated, match="the key 'a' has expired"):
        access.admit("predict", b"s")


@pytest.mark.parametrize(
    ("authorization", "api_key", "expected"),
    [
        (None, None, None),
        (b"Bearer s", None, b"s"),
        (b"bearer  s ", None, b"s"),
        (b"BEARER s", None, b"s"),
        (b"Bearer ", None, None),
        (b"Bearer", None, None),
        (b"s", None, None),
        (b"Basic s", None, None),
        (b"Bearers", None, None),
        (None, b" s ", b"s"),
        (None, b"", None),
        (b"Bearer of-a-gateway", b"s", b"s"),
        (b"Bearer s", b"", b"s"),
        (b"Basic x", b"s", b"s"),
    ],
)
def test_a_key_comes_by_either_header(
    authorization: bytes | None, api_key: bytes | None, expected: bytes | None
) -> None:
    assert presented(authorization, api_key) == expected


# Limits


def test_a_rate_is_held_and_says_whose_it_is_and_when_to_come_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = access_of(path, line("s", "shop", rate=2, burst=3), line("t", "other"))
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    for _ in range(3):
        access.admit("predict", b"s")
    with pytest.raises(LimitReached, match="'shop' may make 2 requests a second, 3 at once") as caught:
        access.admit("predict", b"s")
    assert caught.value.retry_after_s == pytest.approx(0.5)
    for _ in range(10):
        access.admit("predict", b"t")
    monkeypatch.setattr(time, "monotonic", lambda: 50.5)
    access.admit("predict", b"s")
    with pytest.raises(LimitReached):
        access.admit("predict", b"s")


def test_without_a_burst_it_is_what_comes_in_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = access_of(path, line("s", "a", rate=5), line("t", "b", rate=0.1))
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    for secret, most in ((b"s", 5), (b"t", 1)):
        for _ in range(most):
            access.admit("predict", secret)
        with pytest.raises(LimitReached):
            access.admit("predict", secret)


def test_so_many_requests_are_in_work_at_a_time(path: Path) -> None:
    access = access_of(path, line("s", "shop", concurrency=2))
    with access.admit("predict", b"s"):
        for _ in range(3):  # what was refused is not in work
            with access.admit("predict", b"s"), pytest.raises(LimitReached, match="'shop' may have 2 requests in work"):
                access.admit("predict", b"s")
    with access.admit("predict", b"s"), access.admit("predict", b"s"):
        pass


def test_requests_are_counted_by_the_name_of_their_key(path: Path) -> None:
    metrics = Metrics("0")
    access = access_of(path, line("s", "shop", rate=0.001), line("t", "other"), metrics=metrics)
    access.admit("predict", b"s")
    for _ in range(2):
        with pytest.raises(LimitReached):
            access.admit("predict", b"s")
    for secret in (None, b"unknown"):
        with pytest.raises(Unauthenticated):
            access.admit("predict", secret)
    counted = parsed(metrics.render().decode())
    assert {key: value for key, value in counted.items() if "key_requests_total" in key} == {
        'inferd_key_requests_total{key="other",outcome="admitted"}': 0,
        'inferd_key_requests_total{key="other",outcome="limited"}': 0,
        'inferd_key_requests_total{key="shop",outcome="admitted"}': 1,
        'inferd_key_requests_total{key="shop",outcome="limited"}': 2,
    }


# Reading again


def look(access: Access) -> None:
    assert access.watched
    access.watched.look()
    access.watched.look()


def test_keys_come_and_go_with_the_file(path: Path) -> None:
    metrics = Metrics("0")
    access = access_of(path, line("s", "a"), admin_key="root", metrics=metrics)
    write(path, line("t", "b", "metrics"))
    look(access)
    assert opened_by(access, b"s") == set()
    assert opened_by(access, b"t") == {"metrics"}
    assert opened_by(access, b"root") == set(SCOPES)
    names = {key for key in parsed(metrics.render().decode()) if "key_requests_total" in key}
    assert not any('key="a"' in one for one in names)
    assert any('key="b"' in one for one in names)


@pytest.mark.parametrize("text", ["{", line("t", "b", "root")])
def test_a_file_that_breaks_leaves_the_keys_as_they_were(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    access = access_of(path, line("s", "a"))
    write(path, line("t", "new"), text)
    look(access)
    assert "line 2" in caplog.text
    assert opened_by(access, b"s") == {"predict"}
    assert opened_by(access, b"t") == set()


def test_a_file_that_is_gone_leaves_the_keys_as_they_were(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    access = access_of(path, line("s", "a"))
    path.unlink()
    look(access)
    assert str(path) in caplog.text
    assert opened_by(access, b"s") == {"predict"}


def test_what_a_key_has_used_outlives_the_reading(path: Path) -> None:
    access = access_of(path, line("s", "a", rate=0.001, concurrency=1))
    grant = access.admit("predict", b"s")
    write(path, line("t", "b"), line("s", "a", rate=0.001, concurrency=1))
    look(access)
    with pytest.raises(LimitReached, match="1 requests in work"):
        access.admit("predict", b"s")
    with grant:
        pass
    for _ in range(2):  # what was refused is not in work
        with pytest.raises(LimitReached, match=r"0\.001 requests a second"):
            access.admit("predict", b"s")


def test_a_file_that_is_broken_keeps_the_server_from_being_made(path: Path) -> None:
    with pytest.raises(ValueError, match="line 1"):
        access_of(path, "{}")
    with pytest.raises(OSError, match="nowhere"):
        Access.of(Settings(api_keys_file=path.with_name("nowhere")), Metrics("0"))
