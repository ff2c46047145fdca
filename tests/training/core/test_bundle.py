from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import BundleRefused
from service.manifest import MANIFEST_FILE, FileEntry, Manifest, read_manifest, verify_files
from service.repository.scan import scan
from tests.bundles import LABELS, manifest_of
from training.core.bundle import file_entries, new_bundle, write_manifest

FILES = ("golden.npz", "labels.json", "model.int8.onnx", "model.onnx")


def _manifest(title: str = "A tiny model") -> Manifest:
    no_file = {"sha256": "0" * 64, "bytes": 0}
    return Manifest.model_validate(manifest_of(title=title, files=dict.fromkeys(FILES, no_file)))


def _write(folder: Path, title: str = "A tiny model") -> None:
    """Write what a bundle must hold; its files are only names here."""
    for name in FILES:
        (folder / name).write_text(f"{name} of {title}, with {len(LABELS)} labels", encoding="utf-8")
    write_manifest(folder, _manifest(title))


def _make(
    models: Path,
    version: int = 1,
    *,
    name: str = "tiny",
    title: str = "A tiny model",
    replace: bool = False,
    then: Callable[[Path], None] = lambda _: None,
) -> None:
    """Make a bundle; `then` is called with its temporary folder once all of it is written."""
    with new_bundle(models, name, version, replace=replace) as folder:
        _write(folder, title)
        then(folder)


def _titles(models: Path) -> dict[tuple[str, int], str]:
    """What the server would find, by name and version."""
    return {(one.name, one.version): read_manifest(one.path).title for one in scan(models)}


def _everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_bundle_appears_as_a_whole_at_the_end(tmp_path: Path) -> None:
    models = tmp_path / "models"
    _make(models, 2, then=lambda _: _check_that_nothing_is_seen(models))
    assert _titles(models) == {("tiny", 2): "A tiny model"}
    assert _everything(models / "tiny") == ["2", *sorted(f"2/{name}" for name in (*FILES, MANIFEST_FILE))]
    verify_files(models / "tiny" / "2", read_manifest(models / "tiny" / "2"))


def _check_that_nothing_is_seen(models: Path) -> None:
    assert _titles(models) == {}


def test_everybody_may_read_a_bundle(tmp_path: Path) -> None:
    _make(tmp_path)
    assert (tmp_path / "tiny" / "1").stat().st_mode & 0o777 == 0o755


def _interrupt(_: Path) -> None:
    raise KeyboardInterrupt


def _fail(_: Path) -> None:
    raise RuntimeError("as it may happen half way")


@pytest.mark.parametrize(("then", "problem"), [(_fail, RuntimeError), (_interrupt, KeyboardInterrupt)])
def test_a_bundle_that_fails_half_way_leaves_nothing_behind(
    tmp_path: Path, then: Callable[[Path], None], problem: type[BaseException]
) -> None:
    with pytest.raises(problem):
        _make(tmp_path, then=then)
    assert _everything(tmp_path) == []


def test_a_bundle_that_fails_half_way_leaves_the_other_versions_alone(tmp_path: Path) -> None:
    _make(tmp_path)
    before = _everything(tmp_path)
    with pytest.raises(RuntimeError):
        _make(tmp_path, 2, then=_fail)
    assert _everything(tmp_path) == before


def _change_labels(folder: Path) -> None:
    content = (folder / "labels.json").read_bytes()
    (folder / "labels.json").write_bytes(content[:-1] + b"!")


def _remove_the_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def _remove_the_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


@pytest.mark.parametrize(
    ("then", "problem"),
    [
        (_change_labels, r"labels\.json: has sha256"),
        (_remove_the_graph, r"model\.onnx: can't be read \(No such file"),
        (_remove_the_manifest, r"manifest\.json: can't be read"),
    ],
)
def test_a_bundle_that_breaks_its_contract_is_never_seen(
    tmp_path: Path, then: Callable[[Path], None], problem: str
) -> None:
    with pytest.raises(BundleRefused, match=problem):
        _make(tmp_path, then=then)
    assert _everything(tmp_path) == []


def test_a_version_that_is_there_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    _make(tmp_path)
    before = _everything(tmp_path)
    with pytest.raises(FileExistsError, match=r"tiny/1 exists"):
        _make(tmp_path, then=_fail)
    assert _everything(tmp_path) == before


def _leave_a_file_more(folder: Path) -> None:
    (folder / "left-over.txt").write_text("only in the first", encoding="utf-8")
    write_manifest(folder, _manifest("The first"))


def test_a_version_that_is_there_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    def check_that_the_first_is_seen(_: Path) -> None:
        assert _titles(tmp_path) == {("tiny", 1): "The first"}

    _make(tmp_path, title="The first", replace=True, then=_leave_a_file_more)
    _make(tmp_path, title="The second", replace=True, then=check_that_the_first_is_seen)
    assert _titles(tmp_path) == {("tiny", 1): "The second"}
    assert _everything(tmp_path) == ["tiny", "tiny/1", *sorted(f"tiny/1/{name}" for name in (*FILES, MANIFEST_FILE))]


def test_a_replacement_that_fails_leaves_the_old_bundle(tmp_path: Path) -> None:
    _make(tmp_path, title="The first")
    before = _everything(tmp_path)
    with pytest.raises(BundleRefused):
        _make(tmp_path, title="The second", replace=True, then=_remove_the_graph)
    assert _titles(tmp_path) == {("tiny", 1): "The first"}
    assert _everything(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "version"), [("Tiny", 1), ("a/b", 1), ("..", 1), ("", 1), ("x" * 65, 1), ("tiny", 0), ("tiny", -1)]
)
def test_a_bundle_that_the_server_would_never_find_is_refused(tmp_path: Path, name: str, version: int) -> None:
    with pytest.raises(ValueError, match="a model's name"):
        _make(tmp_path, version, name=name)
    assert _everything(tmp_path) == []


def test_every_file_but_the_manifest_has_its_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "a.txt").write_bytes(b"abc")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / MANIFEST_FILE).write_text("{}", encoding="utf-8")
    assert file_entries(tmp_path) == {
        "assets/a.txt": FileEntry(sha256=hashlib.sha256(b"abc").hexdigest(), bytes=3),
        "empty": FileEntry(sha256=hashlib.sha256(b"").hexdigest(), bytes=0),
    }
