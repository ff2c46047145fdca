from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleRefused, Forbidden, InferdError, NotFound, NotReady
from service.metrics import Metrics
from service.repository.bundle import LoadOptions
from service.repository.control import Listing, VersionPolicy
from service.repository.controller import Controller, ControlOptions
from service.repository.repository import QueueLimits, Repository
from service.settings import Settings
from service.tasks.base import TaskLimits
from service.threads import BoundedThreads
from tests.bundles import flip_a_byte, golden_inputs, logits_of, make_bundle, truncate
from tests.service.repository.replicas import (
    LATEST,
    LONG_S,
    TUNING,
    MemoryReplica,
    MemoryTrial,
    Shelf,
    a_round,
    controlled,
    explicit,
    only,
    polling,
    states,
)
from tests.virtual_clock import run

# What is asked for


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ControlOptions("none", VersionPolicy(), None, 5.0)),
        ({"model_control": "poll", "poll_s": 0.5}, ControlOptions("poll", VersionPolicy(), None, 0.5)),
        ({"version_policy": "latest"}, ControlOptions(policy=LATEST)),
        ({"load_at_start": " * "}, ControlOptions(load_at_start=None)),
        ({"load_at_start": ""}, ControlOptions(load_at_start=frozenset())),
        ({"load_at_start": " a, b,,c "}, ControlOptions(load_at_start=frozenset("abc"))),
    ],
)
def test_settings_say_how_models_are_controlled(settings: dict[str, Any], options: ControlOptions) -> None:
    assert ControlOptions.of(Settings(**settings)) == options


# Start


def test_what_is_found_is_listed_as_loading_and_then_serves_everywhere(shelf: Shelf) -> None:
    for name, version in (("b", 1), ("a", 10), ("a", 9)):
        shelf.put(name, version)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with controlled(shelf, *replicas, start=False) as controller:
            for replica in replicas:
                assert states(list(replica.listing.entries)) == [
                    ("a", 9, "LOADING", "is being loaded"),
                    ("a", 10, "LOADING", "is being loaded"),
                    ("b", 1, "LOADING", "is being loaded"),
                ]
                assert replica.serving == {}
            await controller.start(tried=True)
            for replica in replicas:
                assert replica.serving == {("a", 9): "a 9", ("a", 10): "a 10", ("b", 1): "b 1"}
                assert set(replica.states().values()) == {"READY"}
                assert replica.listing == controller.listing()
            assert await controller.index() == list(controller.listing().entries)

    run(scenario())


def test_all_that_is_found_is_tried_at_once_and_replicas_are_told_what_was_measured(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b")

    async def scenario() -> None:
        trial, early, late = MemoryTrial(), MemoryReplica(), MemoryReplica()
        async with controlled(shelf, early, trial=trial, start=False) as controller:
            await controller.start(tried=True)
            await controller.join(late)
            assert trial.tried == [[("a", 1), ("b", 1)]]
            for replica in (early, late):
                assert [one.key for one in replica.placements] == [("a", 1), ("b", 1)]
                assert all(one.tuning == TUNING for one in replica.placements)
                assert {one.folder.path for one in replica.placements} == {
                    shelf.folder / "a" / "1",
                    shelf.folder / "b" / "1",
                }

    run(scenario())


def test_untried_each_model_answers_as_soon_as_it_is_loaded(shelf: Shelf) -> None:
    shelf.put("a", broken=True)
    shelf.put("b")
    shelf.put("c")

    async def scenario() -> None:
        trial, replica = MemoryTrial(), MemoryReplica()
        async with controlled(shelf, replica, trial=trial, start=False) as controller:
            starting = asyncio.create_task(controller.start(tried=False))
            await replica.until(lambda one: one.serving)
            assert replica.serving == {("b", 1): "b 1"}
            assert replica.states() == {("a", 1): "UNAVAILABLE", ("b", 1): "LOADING", ("c", 1): "LOADING"}
            await starting
            assert replica.serving == {("b", 1): "b 1", ("c", 1): "c 1"}
            assert replica.loads == [("b", 1), ("c", 1)]
            assert {one.tuning for one in replica.placements} == {None}
            assert trial.tried == []

    run(scenario())


def test_what_is_refused_at_the_start_is_logged_once_and_does_not_stop_the_others(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("a", broken=True)
    shelf.put("b")

    async def scenario() -> None:
        replica = MemoryReplica()
        async with controlled(shelf, replica):
            assert replica.serving == {("b", 1): "b 1"}
            assert replica.states() == {("a", 1): "UNAVAILABLE", ("b", 1): "READY"}
            assert replica.reason("a", 1).startswith("model.onnx: has ")

    run(scenario())
    (error,) = (one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR)
    assert error.startswith("model a version 1 is refused: model.onnx: has ")


def test_without_a_models_folder_there_is_no_start(tmp_path: Path) -> None:
    controller = Controller(tmp_path / "nothing", ControlOptions(), trial=None)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run(controller.discover())


def test_an_empty_folder_is_logged_and_the_server_is_ready(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        replica = MemoryReplica()
        async with controlled(shelf, replica):
            assert replica.listing == Listing((), ready=True)

    run(scenario())
    assert f"no models under {shelf.folder}" in caplog.text


@pytest.mark.parametrize(
    ("names", "serving"), [(None, {"a", "b"}), (frozenset(), set()), (frozenset({"b", "lost"}), {"b"})]
)
def test_only_the_models_named_are_loaded_at_the_start_if_any_are(
    shelf: Shelf, names: frozenset[str] | None, serving: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("a")
    shelf.put("b")

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica, load_at_start=names) as controller:
            assert {name for name, _ in replica.serving} == serving
            assert replica.listing.ready
            for one in await controller.index():
                expected = ("READY", "") if one.name in serving else ("UNAVAILABLE", "is not loaded")
                assert (one.state, one.reason) == expected

    run(scenario())
    assert ("there is no model 'lost'" in caplog.text) == (names is not None and "lost" in names)


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_in_the_other_modes_nothing_need_be_named(shelf: Shelf, mode: str) -> None:
    shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with controlled(shelf, replica, mode=mode, load_at_start=frozenset()):
            assert replica.serving == {("tiny", 1): "tiny 1"}

    run(scenario())


# Policies


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        (VersionPolicy(), [2, 9, 10]),
        (LATEST, [10]),
        (VersionPolicy(latest=2), [9, 10]),
        (VersionPolicy(latest=5), [2, 9, 10]),
        (only(9), [9]),
        (only(2, 10), [2, 10]),
    ],
)
def test_a_policy_chooses_the_versions_that_serve(shelf: Shelf, policy: VersionPolicy, versions: list[int]) -> None:
    for version in (9, 10, 2):
        shelf.put(version=version)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with controlled(shelf, replica, policy=policy):
            assert sorted(version for _, version in replica.serving) == versions
            assert replica.listing.ready, "what is not wanted need not be ready"
            for version in {2, 9, 10} - set(versions):
                assert replica.reason("tiny", version) == "is not loaded"
        told = MemoryReplica()
        async with explicit(shelf, told, load_at_start=frozenset()) as controller:
            await controller.load("tiny", policy)
            assert sorted(version for _, version in told.serving) == versions

    run(scenario())


def test_a_call_without_a_policy_takes_the_one_of_the_server(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica, policy=LATEST) as controller:
            await controller.load("tiny", VersionPolicy())
            assert set(replica.serving) == {("tiny", 1), ("tiny", 2)}
            await controller.load("tiny", None)
            assert set(replica.serving) == {("tiny", 2)}

    run(scenario())


def test_with_the_latest_alone_a_new_version_takes_the_place_of_the_old_one_in_one_switch(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica = MemoryReplica()
        switches: list[tuple[list[Any], list[Any]]] = []
        commit = replica.commit

        async def recorded(taken: Any, dropped: Any) -> None:
            switches.append((list(taken), list(dropped)))
            await commit(taken, dropped)

        async with explicit(shelf, replica, policy=LATEST) as controller:
            replica.commit = recorded  # type: ignore[method-assign]
            shelf.put(version=2)
            await controller.load("tiny", None)
            assert switches == [([("tiny", 2)], [("tiny", 1)])]
            assert replica.reason("tiny", 1) == "is not loaded"

    run(scenario())


# Loading and unloading


def test_load_takes_what_is_new_or_changed_lets_go_of_what_is_gone_and_leaves_the_rest(shelf: Shelf) -> None:
    for version in (1, 2, 3):
        shelf.put(version=version)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        trial = MemoryTrial()
        async with explicit(shelf, *replicas, trial=trial) as controller:
            shelf.put(version=2, title="changed")
            shelf.remove(version=3)
            shelf.put(version=4)
            for replica in replicas:
                replica.loads.clear()
            await controller.load("tiny", None)
            for replica in replicas:
                assert replica.serving == {("tiny", 1): "tiny 1", ("tiny", 2): "changed", ("tiny", 4): "tiny 4"}
                assert sorted(replica.loads) == [("tiny", 2), ("tiny", 4)]
                assert replica.states() == dict.fromkeys(replica.serving, "READY")
            assert sorted(trial.tried[-1]) == [("tiny", 2), ("tiny", 4)]

    run(scenario())


def test_load_of_what_serves_already_does_nothing(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            await controller.load("tiny", None)
            assert replica.loads == [("tiny", 1)]
            assert trial.tried == [[("tiny", 1)]]

    run(scenario())


def test_unload_ends_every_version_and_load_brings_them_back(shelf: Shelf) -> None:
    shelf.put("a", 1)
    shelf.put("a", 2)
    shelf.put("b", 1)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with explicit(shelf, *replicas) as controller:
            await controller.unload("a")
            for replica in replicas:
                assert replica.serving == {("b", 1): "b 1"}
                assert replica.states() == {("a", 1): "UNAVAILABLE", ("a", 2): "UNAVAILABLE", ("b", 1): "READY"}
                assert replica.reason("a", 2) == "is not loaded"
            await controller.unload("a")  # once more does no harm
            await controller.load("a", None)
            for replica in replicas:
                assert set(replica.serving) == {("a", 1), ("a", 2), ("b", 1)}
                assert set(replica.states().values()) == {"READY"}

    run(scenario())


def test_what_was_tried_once_and_is_as_it_was_is_not_tried_again(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            trial.tried.clear()
            await controller.unload("tiny")
            shelf.put(version=2, title="changed")
            await controller.load("tiny", None)
            assert trial.tried == [[("tiny", 2)]]
            assert replica.serving == {("tiny", 1): "tiny 1", ("tiny", 2): "changed"}
            assert [one.tuning for one in replica.placements[-2:]] == [TUNING, TUNING]
            await controller.load("tiny", only(1))
            shelf.remove(version=2)
            await controller.load("tiny", None)
            shelf.put(version=2, broken=True)
            for _ in range(2):
                with pytest.raises(BundleRefused):
                    await controller.load("tiny", None)
            assert trial.tried == [[("tiny", 2)]] * 3

    run(scenario())


def test_a_change_of_one_model_says_nothing_of_another(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b")

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put("b", broken=True)
            shelf.put("a", 2)
            await controller.load("a", None)
            assert set(replica.serving) == {("a", 1), ("a", 2), ("b", 1)}
            assert replica.reason("b", 1) == ""

    run(scenario())


def test_what_is_not_there_is_not_found(shelf: Shelf) -> None:
    shelf.put("a", 1)
    shelf.put("a", 3)
    (shelf.folder / "empty").mkdir()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            for name in ("lost", "empty", "../a", ""):
                with pytest.raises(NotFound, match="there is no model"):
                    await controller.load(name, None)
                with pytest.raises(NotFound, match="there is no model"):
                    await controller.unload(name)
            with pytest.raises(NotFound, match="model 'a' has no version 2; versions: 1, 3"):
                await controller.load("a", only(3, 2))
            with pytest.raises(NotFound, match="has no version"):
                await controller.load("a", only())
            assert set(replica.serving) == {("a", 1), ("a", 3)}
            for version in (1, 3):
                shelf.remove("a", version)
            with pytest.raises(NotFound, match="model 'a' has no version"):
                await controller.load("a", None)
            assert set(replica.serving) == {("a", 1), ("a", 3)}, "who wants it gone unloads it"

    run(scenario())


def test_what_was_unloaded_and_has_no_folder_any_more_is_forgotten(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.remove(version=1)
            await controller.unload("tiny")
            assert replica.states() == {("tiny", 2): "UNAVAILABLE"}
            shelf.remove(version=2)
            assert await controller.index() == []
            await controller.unload("tiny")
            assert replica.listing.entries == ()
            with pytest.raises(NotFound):
                await controller.unload("tiny")

    run(scenario())


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_calls_are_closed_where_they_do_not_control(shelf: Shelf, mode: str) -> None:
    shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with controlled(shelf, replica, mode=mode) as controller:
            for call in (controller.load("tiny", None), controller.unload("tiny"), controller.load("lost", None)):
                with pytest.raises(Forbidden, match=f"INFERD_MODEL_CONTROL=explicit; it is {mode}"):
                    await call
            assert replica.serving == {("tiny", 1): "tiny 1"}

    run(scenario())


@pytest.mark.parametrize("mode", ["none", "explicit"])
def test_where_the_folder_is_not_followed_it_may_change_unnoticed(shelf: Shelf, mode: str) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with controlled(shelf, replica, mode=mode):
            shelf.put(version=1, title="changed")
            shelf.put(version=2)
            await asyncio.sleep(LONG_S)
            assert replica.serving == {("tiny", 1): "tiny 1"}

    run(scenario())


def test_the_index_shows_what_was_never_asked_for(shelf: Shelf) -> None:
    shelf.put("a")

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put("a", 10)
            shelf.put("a", 2)
            shelf.put("0", 1)
            assert states(await controller.index()) == [
                ("0", 1, "UNAVAILABLE", "is not loaded"),
                ("a", 1, "READY", ""),
                ("a", 2, "UNAVAILABLE", "is not loaded"),
                ("a", 10, "UNAVAILABLE", "is not loaded"),
            ]
            assert replica.states() == {("a", 1): "READY"}

    run(scenario())


def test_a_models_folder_that_is_gone_for_a_while_is_told_and_takes_nothing_away(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            away = shelf.folder.rename(shelf.folder.with_name("away"))
            for call in (controller.index(), controller.load("tiny", None), controller.unload("tiny")):
                with pytest.raises(NotReady, match=r"the models folder can't be read: .* does not exist"):
                    await call
            assert replica.serving == {("tiny", 1): "tiny 1"}
            away.rename(shelf.folder)
            await controller.load("tiny", None)
            assert replica.loads == [("tiny", 1)]

    run(scenario())


# Readiness


def test_the_server_is_ready_when_it_has_started_and_all_replicas_have_joined(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        first, second = MemoryReplica(), MemoryReplica()
        async with controlled(shelf, awaited=2, start=False) as controller:
            assert not controller.listing().ready
            await controller.join(first)
            assert not first.listing.ready
            await controller.start(tried=True)
            assert set(first.states().values()) == {"READY"}
            assert not first.listing.ready
            await controller.join(second)
            assert first.listing.ready
            assert second.listing.ready
        async with controlled(shelf, first, second, start=False) as controller:
            assert not first.listing.ready
            await controller.start(tried=True)
            assert first.listing.ready
            assert second.listing.ready

    run(scenario())


@pytest.mark.parametrize("empty", [True, False])
def test_the_server_is_not_ready_before_it_has_started(shelf: Shelf, empty: bool) -> None:
    if not empty:
        shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        controller = Controller(shelf.folder, ControlOptions(), trial=None)
        await controller.join(replica)
        assert not replica.listing.ready
        await controller.discover()
        assert not replica.listing.ready
        await controller.start(tried=False)
        assert replica.listing.ready

    run(scenario())


def test_the_server_is_not_ready_while_a_version_that_is_wanted_is_refused(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b", broken=True)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            assert not replica.listing.ready
            shelf.put("b")
            await controller.load("b", None)
            assert replica.listing.ready

    run(scenario())


def test_readiness_once_reached_stays_whatever_a_later_change_does(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica, late = MemoryReplica(), MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put(version=2, broken=True)
            with pytest.raises(BundleRefused):
                await controller.load("tiny", None)
            assert replica.listing.ready
            replica.gone = True
            controller.leave(replica)
            await controller.join(late)
            assert late.listing.ready
            await controller.unload("tiny")
            assert late.listing.ready

    run(scenario())


def test_what_is_refused_keeps_no_readiness_back_once_it_is_unloaded(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b", broken=True)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            assert not replica.listing.ready
            await controller.unload("b")
            assert replica.listing.ready
            assert replica.reason("b", 1) == "is not loaded"

    run(scenario())


def test_what_is_refused_keeps_no_readiness_back_once_it_is_not_wanted(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2, broken=True)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            assert not replica.listing.ready
            await controller.load("tiny", only(1))
            assert replica.listing.ready
            assert replica.reason("tiny", 2) == "is not loaded"
        followed = MemoryReplica()
        async with polling(shelf, followed, policy=LATEST):
            assert not followed.listing.ready
            shelf.put(version=3)
            await a_round()
            assert followed.serving == {("tiny", 3): "tiny 3"}
            assert followed.listing.ready

    run(scenario())


# With models that run


@pytest.fixture
def decoding() -> Iterator[BoundedThreads]:
    threads = BoundedThreads(1, max_pending=8, name="decode")
    yield threads
    threads.close()


def test_real_models_are_changed_while_they_answer(models: Path, decoding: BoundedThreads) -> None:
    make_bundle(models, version=1)
    inputs = golden_inputs()

    async def scenario() -> None:
        repository = Repository(
            options=LoadOptions(("CPUExecutionProvider",), 1, 64, TaskLimits(max_pixels=10_000)),
            queue=QueueLimits(max_s=10.0, max_rows=1000),
            metrics=Metrics("0"),
            decoding=decoding,
            let_go_s=10.0,
        )
        controller = Controller(models, ControlOptions("explicit"), trial=None)
        await controller.join(repository)
        await controller.discover()
        await controller.start(tried=False)
        assert repository.is_ready
        assert repository.versions("tiny") == [1]

        async def answered(version: str | None = None) -> int:
            model = repository.get("tiny", version)
            with model.measured():
                answer = await model.submit({"image": inputs})
            assert abs(answer.outputs["logits"] - logits_of(inputs)).max() < 1e-4
            return model.version

        assert await answered() == 1
        bundle = make_bundle(models, version=2)
        truncate(bundle / "model.onnx")
        with pytest.raises(BundleRefused):
            await controller.load("tiny", LATEST)
        assert await answered() == 1
        with pytest.raises(NotReady, match=r"version 2 is not ready: model\.onnx: has "):
            repository.get("tiny", "2")
        shutil.rmtree(bundle)
        make_bundle(models, version=2)

        begun = repository.get("tiny", "1")
        with begun.measured():
            await controller.load("tiny", LATEST)
            assert await answered() == 2
            with pytest.raises(NotReady, match="version 1 is not ready: is not loaded"):
                repository.get("tiny", "1")
            answer = await begun.submit({"image": inputs})
            assert abs(answer.outputs["logits"] - logits_of(inputs)).max() < 1e-4

        await controller.unload("tiny")
        with pytest.raises(NotReady, match="is not loaded"):
            repository.get("tiny")
        await controller.load("tiny", None)
        assert repository.versions("tiny") == [1, 2]
        flip_a_byte(models / "tiny" / "2" / "model.onnx")
        with pytest.raises(InferdError):
            await controller.load("tiny", None)
        assert await answered("2") == 2
        await controller.close()
        await repository.close()

    asyncio.run(scenario())
