from __future__ import annotations

import socket

import pytest

from service.bench.address import Address, path_of_model
from tests.service.bench.scripted import answer, scripted


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("http://127.0.0.1:8000", Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        ("http://localhost", Address("localhost", 80), "http://localhost:80"),
        ("http://example.org:81/a b/", Address("example.org", 81, "/a%20b"), "http://example.org:81/a%20b"),
        ("HTTP://[::1]:8000/", Address("::1", 8000), "http://[::1]:8000"),
    ],
)
def test_an_address_is_read(url: str, expected: Address, shown: str) -> None:
    assert Address.of(url) == expected
    assert str(expected) == shown


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "https://127.0.0.1",
        "ftp://a",
        "http://",
        "http://a?b=c",
        "http://a#b",
        "http://a:b",
        "http://[::1",
    ],
)
def test_what_is_no_address_of_plain_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"Port|URL|--url must be like http://127\.0\.0\.1:8000"):
        Address.of(url)


def test_a_server_is_asked_below_the_path_of_its_address() -> None:
    with scripted(lambda _: [answer(b'{"a": 1}')]) as server:
        assert Address("127.0.0.1", server.address.port, "/below").get("/x") == {"a": 1}
        assert server.requests[0].startswith(b"GET /below/x HTTP/1.1\r\n")


def test_what_a_server_answers_else_is_an_error_that_shows_it() -> None:
    answers = [answer(b"no such thing", 404), answer(b"<html>"), answer(b'{"ready": false}', 503)]
    with scripted(lambda number: [answers[number]]) as server:
        with pytest.raises(ValueError, match=r"/x answered 404: no such thing"):
            server.address.get("/x")
        with pytest.raises(ValueError, match=r"/x answered no JSON"):
            server.address.get("/x")
        assert server.address.get("/x", allowed=(200, 503)) == {"ready": False}


def test_a_server_that_can_not_be_reached_is_an_error_that_names_it() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = Address("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(OSError, match=rf"{address} can't be reached: .*refused"):
            address.get("/x")


def test_a_host_that_nobody_knows_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"http://nowhere\.invalid:1 can't be found"):
        Address("nowhere.invalid", 1).resolved()


def test_of_several_addresses_of_a_host_that_is_taken_at_which_somebody_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with scripted(lambda _: [answer()]) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound, but nobody listens
        ports = [silent.getsockname()[1], server.address.port]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert Address("localhost", 1).resolved() == (socket.AF_INET, ("127.0.0.1", server.address.port))
        found[1] = found[0]
        with pytest.raises(OSError, match=r"http://localhost:1 can't be reached: .*refused"):
            Address("localhost", 1).resolved()


def test_a_model_has_a_path_with_its_version_or_without() -> None:
    assert path_of_model("a/b", None, "/predict") == "/predict/a%2Fb"
    assert path_of_model("a", 3, "/v2/models") == "/v2/models/a/versions/3"
