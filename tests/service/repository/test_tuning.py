"""On how many threads a bundle runs: by what was measured, which these tests say in place of a clock."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import BundleRefused
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.placement import Points, Profiles, Tuning
from service.repository.profiles import Profiling
from service.repository.scan import BundleFolder
from service.repository.tuning import LONG_S, SHORT_S, WORTH, load_as_tuned, load_tuned, tuning_of
from service.runtime.runs import Runs
from service.settings import Settings
from service.tasks.base import TaskLimits
from tests.bundles import identities_graph, make_bare, make_bundle
from tests.image_bundles import make_image_bundle
from tests.service.test_threads import wait_until
from tests.text_bundles import make_text_bundle


class Said(Profiling):
    """Says how long a row takes by the number of threads."""

    def __init__(self, row_s: Mapping[int, float | None]) -> None:
        super().__init__()
        object.__setattr__(self, "row_s", row_s)
        object.__setattr__(self, "asked", [])

    row_s: Mapping[int, float | None]
    asked: list[int]

    def profiles_of(self, bundle: Bundle) -> Profiles:
        threads = bundle.session.threads
        self.asked.append(threads)
        row_s = self.row_s[threads]
        points: Points | None = None if row_s is None else ((1, row_s), (8, 8 * row_s))
        return {role: points for role in bundle.task.graphs if points}


def options(threads: int = 1, most: int = 4) -> LoadOptions:
    limits = TaskLimits(max_pixels=10**6)
    return LoadOptions(("CPUExecutionProvider",), threads, max_batch_rows=8, limits=limits, most_threads=most)


def folder_of(path: Path) -> BundleFolder:
    return BundleFolder(path.parent.name, int(path.name), path)


@pytest.mark.parametrize(
    ("usual_s", "wide_s", "threads"),
    [
        pytest.param(0.02, 0.01, 4, id="twice as fast"),
        pytest.param(0.02, 0.02 * WORTH, 4, id="just fast enough"),
        pytest.param(0.02, 0.02 * WORTH + 1e-6, 1, id="not worth it"),
        pytest.param(0.02, None, 1, id="nobody knows"),
    ],
)
def test_long_runs_get_more_threads_if_those_are_worth_it(
    models: Path, usual_s: float, wide_s: float | None, threads: int
) -> None:
    said = Said({1: usual_s, 4: wide_s})
    bundle = load_tuned(folder_of(make_bundle(models)), options(), said)
    assert said.asked == [1, 4]
    assert bundle.session.threads == threads
    expected = usual_s if threads == 1 else wide_s
    assert bundle.profiles["model"][0] == (1, expected)
    assert tuning_of(bundle) == Tuning(dict(bundle.profiles), threads)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no nice value of their own")
def test_others_go_before_the_threads_of_long_runs(models: Path) -> None:
    folder = folder_of(make_bundle(models))
    before = {int(one) for one in os.listdir("/proc/self/task")}
    bundle = load_as_tuned(folder, options(), Tuning(threads=4))
    assert bundle.session.threads == 4
    own = os.getpriority(os.PRIO_PROCESS, 0)
    wait_until(lambda: sorted(nice_of_threads(but=before)) == [own + 10] * 3)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def nice_of_threads(but: Container[int] = ()) -> list[int]:
    """Of the threads of this process, which may end meanwhile."""
    found = []
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            if thread not in but:
                found.append(os.getpriority(os.PRIO_PROCESS, thread))
    return found


@pytest.mark.parametrize("row_s", [LONG_S, LONG_S / 100, None], ids=["just not long", "short", "unknown"])
def test_others_are_not_even_tried(models: Path, row_s: float | None) -> None:
    said = Said({1: row_s})
    assert load_tuned(folder_of(make_bundle(models)), options(), said).session.threads == 1
    assert said.asked == [1]


@pytest.mark.parametrize(
    ("row_s", "threads"),
    [
        pytest.param(SHORT_S, 4, id="just long enough"),
        pytest.param(LONG_S, 4, id="just not long"),
        pytest.param(SHORT_S * 0.99, 0, id="too short"),
        pytest.param(None, 0, id="nobody knows"),
    ],
)
def test_what_runs_alone_may_have_all_threads(models: Path, row_s: float | None, threads: int) -> None:
    bundle = load_tuned(folder_of(make_bundle(models)), options(), Said({1: row_s}))
    assert bundle.session.threads == 1
    assert (bundle.wide.threads if bundle.wide else 0) == threads
    assert tuning_of(bundle).wide_threads == threads
    other = load_as_tuned(folder_of(make_bundle(models, "other")), options(), tuning_of(bundle))
    assert (other.session.threads, other.wide.threads if other.wide else 0) == (1, threads)


def test_a_bundle_that_is_held_twice_answers_as_one(models: Path) -> None:
    runs = Runs(longest_s=60.0)
    bundle = load_tuned(folder_of(make_bundle(models)), replace(options(), runs=runs), Said({1: SHORT_S}))
    assert bundle.wide
    example = bundle.example_of(3)
    expected = bundle.session.run(example)["logits"].tobytes()
    assert {bundle.run(example)["logits"].tobytes() for _ in range(20)} == {expected}
    runs.close()


@pytest.mark.parametrize("graph", ["large", "of the worker's whole share"])
def test_some_are_never_held_twice(models: Path, monkeypatch: pytest.MonkeyPatch, graph: str) -> None:
    if graph == "large":
        monkeypatch.setattr("service.repository.tuning._MOST_PARAMETERS", 3)
    threads = 1 if graph == "large" else 2
    said = Said({threads: SHORT_S})
    assert load_tuned(folder_of(make_bundle(models)), options(threads=threads), said).wide is None


def test_what_can_not_be_held_twice_serves_as_it_is(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BundleRefused("model.onnx", "there is no memory for it")

    monkeypatch.setattr(Bundle, "load_wide", refuse)
    bundle = load_tuned(folder_of(make_bundle(models)), options(), Said({1: SHORT_S}))
    assert (bundle.session.threads, bundle.wide) == (1, None)


def test_pictures_are_drawn_on_one_core_each(models: Path) -> None:
    assert load_tuned(folder_of(make_image_bundle(models)), options(), Said({1: SHORT_S})).wide is None


@pytest.mark.parametrize("most", [0, 1])
def test_nothing_is_tried_where_there_are_no_more_threads(models: Path, most: int) -> None:
    said = Said({1: 1.0})
    assert load_tuned(folder_of(make_bundle(models)), options(most=most), said).session.threads == 1
    assert said.asked == [1]


def test_texts_that_grow_in_steps_keep_to_their_worker_s_share(models: Path) -> None:
    said = Said({1: 1.0})
    assert load_tuned(folder_of(make_text_bundle(models)), options(), said).session.threads == 1
    assert said.asked == [1]


@pytest.mark.parametrize(("threads", "used"), [(0, 2), (1, 1), (3, 3)])
def test_others_load_it_alike(models: Path, threads: int, used: int) -> None:
    tuning = Tuning({"model": ((1, 0.5),)}, threads)
    bundle = load_as_tuned(folder_of(make_bundle(models)), options(threads=2), tuning)
    assert bundle.session.threads == used
    assert bundle.profiles == tuning.profiles


@pytest.mark.parametrize(
    ("asked", "cores", "expected"),
    [
        ({"workers": 2}, 2, (1, 2)),
        ({"workers": 2}, 8, (4, 8)),
        ({"workers": 2}, 64, (8, 8)),
        ({"workers": 4}, 2, (1, 2)),
        ({"workers": 1}, 4, (4, 4)),
        ({"workers": 2, "threads": 3}, 8, (3, 3)),
    ],
)
def test_a_worker_s_share_of_the_cores_and_all_of_them(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, int], cores: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr("service.repository.bundle.cpu_quota", lambda: cores)
    found = LoadOptions.of(Settings.model_validate({"device": "cpu", **asked}))
    assert (found.threads, found.most_threads) == expected


def test_answers_are_the_same_whatever_the_threads(models: Path) -> None:
    folder = folder_of(make_bundle(models))
    narrow, wide = (load_bundle(folder, options(threads=threads)) for threads in (1, 4))
    example = narrow.examples["model"]
    assert narrow.session.run(example)["logits"].tobytes() == wide.session.run(example)["logits"].tobytes()


def test_a_graph_of_which_nothing_is_known_is_loaded_once(models: Path) -> None:
    graph = identities_graph({"x": ("FP32", ["batch", "length"])})
    bundle = load_tuned(folder_of(make_bare(models, graph=graph)), options(), Profiling())
    assert bundle.session.threads == 1
    assert bundle.profiles == {}
