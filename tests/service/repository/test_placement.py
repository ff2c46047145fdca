from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from service.repository.placement import Placement, Tuning, fingerprint
from service.repository.scan import BundleFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle = tmp_path / "1"
    (bundle / "parts").mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(b"a graph")
    (bundle / "parts" / "labels.json").write_bytes(b"[]")
    return bundle


def replace(path: Path, content: bytes) -> None:
    """Rename a new file over an old one, whose times it takes on."""
    before = path.stat()
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


def grow(path: Path) -> None:
    """Write more into a file, and set its time back."""
    before = path.stat()
    path.write_bytes(path.read_bytes() + b" and more")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda folder: (folder / "README.md").touch(),
    "a new file further down": lambda folder: (folder / "parts" / "more").touch(),
    "a longer file of the same time": lambda folder: grow(folder / "model.onnx"),
    "a file written again": lambda folder: os.utime(folder / "model.onnx", ns=(1, 1)),
    "a file of the same size and time renamed over another": lambda folder: replace(folder / "model.onnx", b"A GRAPH"),
    "a removed file": lambda folder: (folder / "model.onnx").unlink(),
    "a removed folder": lambda folder: shutil.rmtree(folder / "parts"),
    "a renamed file": lambda folder: (folder / "model.onnx").rename(folder / "graph.onnx"),
    "a file that may be read now": lambda folder: (folder / "model.onnx").chmod(0o640),
    "nothing left": lambda folder: shutil.rmtree(folder),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_fingerprint_tells_of_every_change(folder: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_a_fingerprint_stays_while_nothing_changes(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "model.onnx").read_bytes()
    assert fingerprint(folder) == before
    moved = folder.rename(folder.with_name("elsewhere"))
    moved.rename(folder)
    assert fingerprint(folder) == before


def test_what_can_not_be_read_has_a_fingerprint_too(tmp_path: Path) -> None:
    lost = tmp_path / "1"
    without = fingerprint(lost)
    lost.mkdir()
    empty = fingerprint(lost)
    (lost / "model.onnx").symlink_to(tmp_path / "nowhere")
    broken = fingerprint(lost)
    (tmp_path / "nowhere").write_bytes(b"a graph")
    mended = fingerprint(lost)
    assert len({without, empty, broken, mended}) == 4
    assert all((without, empty, broken, mended)), "an empty one would mean: never looked at"


def test_a_folder_that_can_not_be_listed_has_a_fingerprint_that_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(folder)
    scandir = os.scandir

    def forbidding(path: str) -> object:
        if os.fspath(path) == str(folder / "parts"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    assert fingerprint(folder) not in {before, fingerprint(folder / "parts")}
    assert fingerprint(folder / "parts")


def test_a_folder_of_very_many_files_is_not_read_to_its_end(folder: Path) -> None:
    for index in range(3):
        (folder / f"part{index}").mkdir()
        for number in range(600):
            (folder / f"part{index}" / f"{number}").touch()
    assert 1000 < len(fingerprint(folder).splitlines()) < 1300


def test_a_placement_travels_with_all_that_loading_needs() -> None:
    placement = Placement("tiny", 10, "/models/tiny/10", Tuning({"model": ((1, 0.25), (8, 1.0))}, 2))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(placement), type=Placement) == placement
    assert placement.key == ("tiny", 10)
    assert placement.folder == BundleFolder("tiny", 10, Path("/models/tiny/10"))
