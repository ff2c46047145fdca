"""Bundles that were made to do harm: refused by name before a session is made, or contained where one is made."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.errors import BundleRefused, OutOfMemory
from service.manifest import Manifest, read_file, read_manifest
from service.repository.bundle import LoadOptions, load_bundle, verify_bundle
from service.repository.scan import scan
from service.tasks.base import TaskLimits
from tests.bundles import edit, make_bare, make_bundle, sign
from tests.hostile_graphs import large, lying

OPTIONS = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=64, limits=TaskLimits(max_pixels=10_000))


def refusal(models: Path) -> BundleRefused:
    """Load the only bundle there, quickly, and give why it is refused."""
    (folder,) = scan(models)
    before = time.monotonic()
    with pytest.raises(BundleRefused) as loading:
        load_bundle(folder, OPTIONS)
    with pytest.raises(BundleRefused) as verifying:
        verify_bundle(folder, OPTIONS)
    assert str(loading.value) == str(verifying.value)
    assert time.monotonic() - before < 10
    return loading.value


# Files that are none, or lie elsewhere


def as_a_link_out(file: Path) -> None:
    elsewhere = file.parents[3] / f"elsewhere-{file.name}"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


def as_a_link_to_another_model(file: Path) -> None:
    other = file.parents[2] / "other" / file.name
    other.parent.mkdir()
    shutil.move(file, other)
    file.symlink_to(Path("../../other") / file.name)


def as_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_a_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def as_what_the_kernel_tells(file: Path) -> None:
    file.unlink()
    file.symlink_to("/proc/self/environ")


def as_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link out": (as_a_link_out, "a link leads out of it"),
    "a link to another model": (as_a_link_to_another_model, "a link leads out of it"),
    "a pipe": (as_a_pipe, "is missing or no plain file"),
    "a folder": (as_a_folder, "is missing or no plain file"),
    "a device": (as_a_device, "a link leads out of it"),
    "what the kernel tells": (as_what_the_kernel_tells, "a link leads out of it"),
    "itself": (as_itself, "can't be read"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "labels.json", "golden.npz", "README.md"])
def test_no_file_of_a_bundle_may_be_anything_but_a_plain_file_in_its_folder(models: Path, file: str, way: str) -> None:
    change, problem = WAYS[way]
    change(make_bundle(models) / file)
    error = refusal(models)
    assert error.file == file
    assert re.search(problem, error.problem)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["model.onnx", "labels.json"])
def test_nor_may_one_beside_a_graph_without_a_manifest(models: Path, file: str, way: str) -> None:
    change, problem = WAYS[way]
    folder = make_bare(models)
    (folder / "labels.json").write_text('["a", "b", "c"]', encoding="utf-8")
    change(folder / file)
    error = refusal(models)
    assert error.file in (file, "manifest.json")  # a graph that leads nowhere is none, and then a manifest is missed
    assert re.search(problem, error.problem) or error.file == "manifest.json"


def test_a_version_at_the_end_of_a_link_out_of_the_models_folder_is_refused(models: Path, tmp_path: Path) -> None:
    elsewhere = make_bundle(tmp_path / "elsewhere")
    (models / "tiny").mkdir()
    (models / "tiny" / "1").symlink_to(elsewhere)
    assert str(refusal(models)) == "bundle: lies outside of the models folder, at the end of a link"


def test_so_is_a_model_at_the_end_of_one(models: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "elsewhere")
    (models / "tiny").symlink_to(tmp_path / "elsewhere" / "tiny")
    assert str(refusal(models)) == "bundle: lies outside of the models folder, at the end of a link"


def test_a_models_folder_at_the_end_of_a_link_is_the_operators_own(models: Path, tmp_path: Path) -> None:
    make_bundle(models)
    (tmp_path / "link").symlink_to(models)
    (folder,) = scan(tmp_path / "link")
    load_bundle(folder, OPTIONS)


def test_what_kubernetes_mounts_behind_links_loads(models: Path) -> None:
    """A ConfigMap: each file is a link to `..data`, which is a link to a folder named by the time of its change."""
    bundle = make_bundle(models)
    written = bundle / "..2026_01_01_00_00_00.1"
    written.mkdir()
    for file in [one for one in bundle.iterdir() if one.is_file()]:
        shutil.move(file, written / file.name)
        file.symlink_to(Path("..data") / file.name)
    (bundle / "..data").symlink_to(written.name)
    (folder,) = scan(models)
    load_bundle(folder, OPTIONS)

    # The same with the whole of the models folder: then models are links.
    whole = models.parent / "mounted"
    (whole / "..1").mkdir(parents=True)
    make_bundle(whole / "..1")
    (whole / "..data").symlink_to("..1")
    (whole / "tiny").symlink_to("..data/tiny")
    (folder,) = scan(whole)
    load_bundle(folder, OPTIONS)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../../etc/passwd", "a/../../b", "..", ".", "", "a//b", "C:\\a", "a\0b"]
)
@pytest.mark.parametrize(
    "keys", [("golden",), ("postprocessing", "labels"), ("variants", "fp32", "graphs", "model", "file")]
)
def test_no_path_of_a_manifest_leads_out(models: Path, keys: tuple[str, ...], name: str) -> None:
    edit(make_bundle(models), *keys, to=name)
    error = refusal(models)
    assert error.file == "manifest.json"
    assert "inside the bundle folder" in error.problem


def test_a_file_that_is_listed_by_a_path_out_is_refused(models: Path) -> None:
    bundle = make_bundle(models)
    edit(bundle, "files", "../../../passwd", to={"sha256": "0" * 64, "bytes": 1})
    assert "inside the bundle folder" in refusal(models).problem


# What changes between the check and the reading


def test_what_is_read_is_what_the_manifest_says_though_it_was_changed_after_it_was_verified(models: Path) -> None:
    bundle = make_bundle(models)
    manifest: Manifest = read_manifest(bundle)
    (bundle / "labels.json").write_text(json.dumps(["evil"] * 3), encoding="utf-8")
    with pytest.raises(BundleRefused, match=r"labels\.json: has \d+ bytes, the manifest says"):
        read_file(bundle, "labels.json", most=10**6, entry=manifest.files["labels.json"])


def test_a_graph_that_is_exchanged_while_a_bundle_loads_is_never_run(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(models)
    content = (bundle / "model.onnx").read_bytes()

    def verify_and_exchange(folder: Path, manifest: Manifest) -> None:
        (folder / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr("service.repository.bundle.verify_files", verify_and_exchange)
    (folder,) = scan(models)
    with pytest.raises(BundleRefused, match=r"model\.onnx: has sha256 .*, the manifest says"):
        load_bundle(folder, OPTIONS)


# Bombs


def test_a_golden_file_that_overlaps_itself_is_measured_by_what_it_says(models: Path) -> None:
    """Many entries that share the bytes of one: small, and yet far over the limit."""
    bundle = make_bundle(models)
    array = io.BytesIO()
    np.save(array, np.zeros(2**22, np.float32))
    with zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", array.getvalue())
        (one,) = archive.infolist()
        for number in range(30):
            other = zipfile.ZipInfo(f"b{number}.npy")
            for key in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(other, key, getattr(one, key))
            archive.filelist.append(other)
    sign(bundle)
    assert (bundle / "golden.npz").stat().st_size < 200_000
    assert re.fullmatch(r"golden\.npz: has \d+ bytes unpacked, the limit is 268435456", str(refusal(models)))


def test_a_golden_file_that_lies_about_what_it_unpacks_to_is_refused(models: Path) -> None:
    bundle = make_bundle(models)
    array = io.BytesIO()
    np.save(array, np.zeros(2**22, np.float32))
    with zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs/model/image.npy", array.getvalue())
        archive.infolist()[0].file_size = 300
    sign(bundle)
    error = refusal(models)
    assert (error.file, error.problem.partition(" (")[0]) == ("golden.npz", "can't be read")


@pytest.mark.parametrize(("file", "limit"), [("labels.json", 2**24), ("golden.npz", 2**28)])
def test_a_file_over_its_limit_is_refused_unread(models: Path, file: str, limit: int) -> None:
    bundle = make_bundle(models)
    with (bundle / file).open("wb") as grown:
        grown.truncate(limit + 1)
    sign(bundle)
    assert str(refusal(models)) == f"{file}: has {limit + 1} bytes, the limit is {limit}"


# Graphs


def test_a_graph_whose_answers_are_not_as_it_declares_them_is_refused(models: Path) -> None:
    make_bare(models, graph=lying())
    assert str(refusal(models)) == ("model.onnx: output 'y' has the shape (3, 6), and is declared as ('batch', 3)")


def test_a_graph_that_fills_more_memory_than_there_is_is_refused(models: Path) -> None:
    make_bare(models, graph=large(10**15))
    (folder,) = scan(models)
    with pytest.raises(OutOfMemory, match="Failed to allocate memory"):
        load_bundle(folder, OPTIONS)
