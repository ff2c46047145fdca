from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from training.core.data import RemoteFile, cache_dir, fetch, sha256_of

CONTENT = bytes(range(256)) * 40


class _Publisher(ThreadingHTTPServer):
    """A web server on this machine's loopback that publishes one file and counts who asks."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content = CONTENT
        self.requests: list[str] = []

    def file(self, digest: str, name: str = "file.bin") -> RemoteFile:
        return RemoteFile("some_data", name, f"http://127.0.0.1:{self.server_port}/{name}", digest)


class _Answer(BaseHTTPRequestHandler):
    server: _Publisher

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path != "/file.bin":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with _Publisher() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _digest(algorithm: str, content: bytes = CONTENT) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `INFERD_DATA_DIR` that holds the file."""
    path = tmp_path / "given" / "some_data" / "file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "given"))
    return path


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_in_the_data_folder_is_taken_from_there(given: Path, publisher: _Publisher, algorithm: str) -> None:
    assert fetch(publisher.file(_digest(algorithm))) == given
    assert publisher.requests == []


def test_a_file_in_the_data_folder_with_another_digest_is_refused_by_name(given: Path, publisher: _Publisher) -> None:
    given.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ValueError, match=r"file\.bin has sha256 [0-9a-f]{64}, not [0-9a-f]{64}"):
        fetch(publisher.file(_digest("sha256")))
    assert publisher.requests == []


def test_what_the_data_folder_lacks_is_downloaded(given: Path, publisher: _Publisher) -> None:
    given.unlink()
    path = fetch(publisher.file(_digest("sha256")))
    assert path.read_bytes() == CONTENT
    assert not path.is_relative_to(given.parents[1])


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_download_is_kept_in_the_cache_and_made_once(publisher: _Publisher, algorithm: str) -> None:
    file = publisher.file(_digest(algorithm))
    path = fetch(file)
    assert path == cache_dir() / "some_data" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(file) == path
    assert publisher.requests == ["/file.bin"]


def test_a_download_shows_its_progress(publisher: _Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(publisher.file(_digest("sha256")))
    assert "100%" in capsys.readouterr().err


def test_a_download_with_another_digest_is_refused_and_not_kept(publisher: _Publisher) -> None:
    with pytest.raises(ValueError, match="hash"):
        fetch(publisher.file(_digest("sha256", b"something else")))
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []


def test_a_damaged_file_in_the_cache_is_downloaded_anew(publisher: _Publisher) -> None:
    file = publisher.file(_digest("sha256"))
    fetch(file).write_bytes(b"cut o")
    assert fetch(file).read_bytes() == CONTENT
    assert len(publisher.requests) == 2


def test_a_file_that_is_no_longer_published_is_an_error_of_the_system(publisher: _Publisher) -> None:
    with pytest.raises(OSError, match="404"):
        fetch(publisher.file(_digest("sha256"), name="gone.bin"))


def test_the_cache_is_in_the_home_folder_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INFERD_CACHE_DIR", "~/elsewhere")
    assert cache_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("INFERD_CACHE_DIR")
    assert cache_dir() == tmp_path / ".cache" / "inferd" / "data"


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # The example of FIPS 180-2, appendix B.1.
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
