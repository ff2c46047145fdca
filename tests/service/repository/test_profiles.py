"""How long graphs take: said by a file, kept from the last time, measured; and what a measurement depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from service.machine import processor
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.placement import Points
from service.repository.profiles import Profiling
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.bundles import make_bare, make_bundle
from tests.image_bundles import make_image_bundle

OPTIONS = LoadOptions.of(Settings(device="cpu", threads=1))
SAID: Points = ((1, 0.5), (8, 2.0))


def loaded(path: Path) -> Bundle:
    return load_bundle(BundleFolder(path.parent.name, int(path.name), path), OPTIONS)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "profiles"


@pytest.fixture
def tiny(models: Path) -> Bundle:
    return loaded(make_bundle(models))


def timings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note whenever a graph is timed: the names of those that were."""
    timed: list[str] = []
    measure = Bundle.measure_latency

    def noted(bundle: Bundle, role: str | None = None, *, budget_s: float = 1.0) -> Points:
        timed.append(str(role))
        return measure(bundle, role, budget_s=budget_s)

    monkeypatch.setattr(Bundle, "measure_latency", noted)
    return timed


def test_every_graph_is_timed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timings(monkeypatch)
    profiles = Profiling().profiles_of(loaded(make_image_bundle(models)))
    assert timed == list(profiles) == ["text", "generator"]
    for points in profiles.values():
        rows = [rows for rows, _ in points]
        assert rows[0] == 1
        assert rows == sorted(set(rows))
        assert all(seconds > 0 for _, seconds in points)


def test_what_was_measured_is_found_again(tiny: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timings(monkeypatch)
    first = Profiling(cache=cache).profiles_of(tiny)
    assert Profiling(cache=cache).profiles_of(tiny) == first
    assert timed == ["model"]
    (file,) = cache.iterdir()
    assert file.name.startswith("tiny-")
    kept = json.loads(file.read_bytes())
    assert kept["profiles"] == {"model": [list(point) for point in first["model"]]}
    assert kept["of"]["processor"] == processor()
    assert kept["of"]["provider"] == "CPUExecutionProvider"


def test_nothing_is_kept_where_there_is_no_cache(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timings(monkeypatch)
    for _ in range(2):
        Profiling().profiles_of(tiny)
    assert timed == ["model", "model"]


def changes(bundle: Bundle, models: Path) -> Iterator[tuple[str, Bundle]]:
    yield "threads", loaded_with_threads(bundle, 2)
    yield "rows", replace(bundle, max_batch_rows=4)
    yield "variant", replace(bundle, variant="other")
    manifest = bundle.folder.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    yield "files", loaded(bundle.folder.path)
    yield "a bare graph", loaded(make_bare(models, "tiny-bare"))


def _give(value: str | int) -> str | int:
    return value


def loaded_with_threads(bundle: Bundle, threads: int) -> Bundle:
    return load_bundle(bundle.folder, replace(OPTIONS, threads=threads))


def test_a_measurement_holds_for_just_what_was_measured(
    tiny: Bundle, models: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiling = Profiling(cache=cache)
    profiling.profiles_of(tiny)
    timed = timings(monkeypatch)
    for number, (what, changed) in enumerate(changes(tiny, models), start=1):
        profiling.profiles_of(changed)
        assert len(timed) == number, what
        profiling.profiles_of(changed)
        assert len(timed) == number, what
    machine: dict[str, str | int] = {"processor": "another", "runtime_version": "0.1", "cpu_quota": 77}
    for name, value in machine.items():
        before = len(timed)
        with monkeypatch.context() as other:
            other.setattr(f"service.repository.profiles.{name}", partial(_give, value))
            profiling.profiles_of(tiny)
        assert len(timed) == before + 1, name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"of": {}, "profiles": {"model": [[1, 0.5]]}}',
        b'{"of": {}, "profiles": {"model": []}}',
        b'{"of": {}, "profiles": {"model": [[1, -1]]}}',
        b'{"of": {}, "profiles": {"model": [[1, 1e999]]}}',
    ],
    ids=["empty", "half", "another kind", "of another", "no points", "negative", "endless"],
)
def test_what_makes_no_sense_is_measured_anew(tiny: Bundle, cache: Path, content: bytes) -> None:
    profiling = Profiling(cache=cache)
    measured = profiling.profiles_of(tiny)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    again = profiling.profiles_of(tiny)
    assert [rows for rows, _ in again["model"]] == [rows for rows, _ in measured["model"]]
    assert json.loads(file.read_bytes())["profiles"] == {"model": [list(point) for point in again["model"]]}


def test_a_disk_that_takes_nothing_is_no_reason_to_fail(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    profiling = Profiling(cache=tmp_path / "file" / "profiles")
    assert profiling.profiles_of(tiny)["model"]


def test_nothing_half_written_is_left_behind(tiny: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert Profiling(cache=cache).profiles_of(tiny)["model"]
    assert not list(cache.iterdir())


def test_what_was_said_needs_no_measuring(models: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timings(monkeypatch)
    bundle = loaded(make_image_bundle(models))
    name = bundle.folder.name
    of_one = Profiling(given={name: {"generator": SAID}}, cache=cache)
    assert of_one.profiles_of(bundle)["generator"] == SAID
    assert timed == ["text"]
    of_version = Profiling(given={name: {}, f"{name}/1": {"generator": SAID, "text": SAID}})
    assert of_version.profiles_of(bundle) == {"generator": SAID, "text": SAID}
    assert timed == ["text"]


def test_switched_off_nothing_is_known_but_what_was_said(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timings(monkeypatch)
    bundle = loaded(make_image_bundle(models))
    assert Profiling.of(Settings(profile="off")).profiles_of(bundle) == {}
    said = Profiling(measures=False, given={bundle.folder.name: {"text": SAID}})
    assert said.profiles_of(bundle) == {"text": SAID}
    assert timed == []


# Settings


def test_settings_say_it(tmp_path: Path) -> None:
    file = tmp_path / "profiles.json"
    file.write_text('{"tiny": {"model": [[1, 0.5], [8, 2.0]]}, "other/2": {"step": [[1, 0.1]]}}')
    profiling = Profiling.of(Settings(profile=file, profile_cache=tmp_path))
    assert profiling == Profiling(given={"tiny": {"model": SAID}, "other/2": {"step": ((1, 0.1),)}}, cache=tmp_path)
    assert Profiling.of(Settings()) == Profiling()  # the tests' environment has no cache


def test_a_home_folder_is_meant_by_its_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Profiling.of(Settings(profile_cache=Path("~/kept"))).cache == tmp_path / "kept"


def test_who_has_no_home_keeps_nothing() -> None:
    home_of_nobody = Path("~there-is-no-such-user/kept")
    assert Profiling.of(Settings(profile_cache=home_of_nobody)).cache is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "must have"),
        ('{"tiny": [[1, 0.5]]}', "must have"),
        ('{"tiny": {"model": [[1]]}}', "must have"),
        ('{"tiny": {"model": [[8, 0.5], [1, 0.5]]}}', "tiny, model: a latency profile needs rising batch sizes"),
        ('{"tiny": {"model": [[1, 0]]}}', "tiny, model: a latency profile needs positive, finite seconds"),
    ],
)
def test_a_file_without_sense_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "profiles.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"profiles\.json \(INFERD_PROFILE\)") as refused:
        Profiling.of(Settings(profile=file))
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Profiling.of(Settings(profile=tmp_path / "nowhere"))
