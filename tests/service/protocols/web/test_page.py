from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.bundles import make_bundle
from tests.conftest import Serve

PAGE = ["/", "/playground/static/main.js", "/playground/static/style/base.css", "/playground/static/favicon.svg"]
MOST_BYTES = 150_000


@pytest.mark.parametrize("path", PAGE)
def test_a_browser_may_do_nothing_with_the_page_but_what_it_is_for(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].partition(";")[0] in (
        "text/html",
        "text/javascript",
        "text/css",
        "image/svg+xml",
    )


def test_what_a_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/playground/static/main.js")
    again = client.get("/playground/static/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = client.get("/playground/static/main.js", headers={"if-none-match": '"other"'})
    assert other.content == first.content


def test_the_page_is_compressed_for_who_can_read_it(client: TestClient) -> None:
    with client.stream("GET", "/", headers={"accept-encoding": "gzip"}) as answer:
        sent = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(sent) == plain.content
    assert plain.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    "path",
    ["nothing.js", "", "../page.py", "..%2Fpage.py", "%2e%2e/page.py", "/etc/passwd", "style", "cards%2F..%2Fmain.js"],
)
def test_there_is_nothing_but_the_files_of_the_page(client: TestClient, path: str) -> None:
    answer = client.get(f"/playground/static/{path}")
    assert answer.status_code == 404
    assert "there is nothing at" in answer.json()["error"]


def test_the_head_of_the_page_can_be_asked_for(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_page_can_be_left_out(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models, playground="off")
    for path in ("/", "/playground/static/main.js", "/playground/models/tiny/versions/1/manifest"):
        assert client.get(path).status_code == 404
    assert not any("playground" in path for path in client.get("/openapi.json").json()["paths"])


def test_the_page_is_light_and_asks_nobody_else() -> None:
    static = Path(str(files("service.protocols.web") / "static"))
    content = {path: path.read_bytes() for path in static.rglob("*") if path.is_file()}
    assert sum(map(len, content.values())) < MOST_BYTES
    for path, one in content.items():
        for address in one.decode().replace("http://www.w3.org/2000/svg", "").split("://")[1:]:
            # Only words about addresses, such as what a link in a model's card looks like.
            assert path.suffix == ".js", path
            assert not address[:1].isalnum(), (path, address[:40])
