from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.repository.scan import scan


def found(models: Path, *folders: str) -> list[tuple[str, int]]:
    for folder in folders:
        (models / folder).mkdir(parents=True)
    return [(one.name, one.version) for one in scan(models)]


def test_bundles_come_by_name_and_by_the_number_of_their_version(models: Path) -> None:
    assert found(models, "b/9", "b/10", "b/2", "a/1", "b/100") == [("a", 1), ("b", 2), ("b", 9), ("b", 10), ("b", 100)]


def test_a_bundle_is_told_with_its_folder(models: Path) -> None:
    (models / "a" / "1").mkdir(parents=True)
    (one,) = scan(models)
    assert one.path == models / "a" / "1"


@pytest.mark.parametrize(
    "folder",
    [
        ".tmp/1",
        "A/1",
        "a b/1",
        "-a/1",
        "_a/1",
        "a" * 65 + "/1",
        "\u00e4/1",
        "a/v1",
        "a/0",
        "a/01",
        "a/-1",
        "a/1.0",
        "a/.tmp-1-x",
        "a/latest",
        "a/1234567890",
        "a/\u0661",
    ],
)
def test_what_is_named_otherwise_is_passed_over(models: Path, folder: str) -> None:
    assert found(models, folder, "good/1") == [("good", 1)]


@pytest.mark.parametrize("name", ["a", "0", "a.b-c_d", "a" * 64, "1-2"])
def test_names_may_have_small_letters_digits_and_three_signs(models: Path, name: str) -> None:
    assert found(models, f"{name}/1") == [(name, 1)]


def test_files_among_the_folders_are_passed_over(models: Path) -> None:
    (models / "README.md").write_text("text", encoding="utf-8")
    (models / "a").mkdir()
    (models / "a" / "1").write_text("text", encoding="utf-8")
    assert found(models, "a/2") == [("a", 2)]


def test_a_graph_without_a_manifest_is_told_from_a_bundle(models: Path) -> None:
    assert found(models, "bare/1", "bundle/1", "empty/1", "lost/1")
    for name in ("bare", "bundle", "lost"):
        (models / name / "1" / "model.onnx").write_bytes(b"")
    (models / "bundle" / "1" / "manifest.json").write_bytes(b"")
    (models / "lost" / "1" / "manifest.json").symlink_to(models / "nowhere")
    assert {one.name: one.is_bare for one in scan(models)} == {
        "bare": True,
        "bundle": False,
        "empty": False,
        "lost": False,
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_is_no_bare_graph(models: Path) -> None:
    assert found(models, "closed/1")
    (folder,) = scan(models)
    folder.path.chmod(0)
    try:
        assert not folder.is_bare
    finally:
        folder.path.chmod(0o755)


def test_an_empty_folder_has_no_bundles(models: Path) -> None:
    assert found(models) == []


def test_a_folder_that_is_not_there_is_an_error_that_names_it_and_its_setting(models: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist \(INFERD_MODELS\)"):
        scan(models / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_known_and_the_others_are_found(models: Path) -> None:
    assert found(models, "closed/1", "open/1")
    (models / "closed").chmod(0)
    try:
        assert [(one.name, one.version) for one in scan(models)] == [("closed", 0), ("open", 1)]
    finally:
        (models / "closed").chmod(0o755)
