from __future__ import annotations

import asyncio
import shutil

import pytest

from service.errors import NotReady
from service.repository.control import VersionPolicy
from tests.service.repository.replicas import (
    LATEST,
    LONG_S,
    MemoryReplica,
    MemoryTrial,
    Shelf,
    a_round,
    polling,
)
from tests.virtual_clock import run


def test_a_poll_notices_new_changed_and_removed_versions_within_its_period(shelf: Shelf) -> None:
    for version in (1, 2):
        shelf.put(version=version)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with polling(shelf, *replicas, poll_s=30.0):
            loop = asyncio.get_running_loop()
            began = loop.time()
            shelf.put(version=1, title="changed")
            shelf.remove(version=2)
            shelf.put(version=3)
            shelf.put("other", 7)
            expected = {("tiny", 1): "changed", ("tiny", 3): "tiny 3", ("other", 7): "other 7"}
            for replica in replicas:
                await replica.until(lambda one: one.states() == dict.fromkeys(expected, "READY"))
                assert replica.serving == expected
            assert loop.time() - began <= 30.0
            shelf.remove("other", 7)
            for replica in replicas:
                await replica.until(lambda one: ("other", 7) not in one.states())
                assert replica.serving == {("tiny", 1): "changed", ("tiny", 3): "tiny 3"}
            assert loop.time() - began <= 60.0

    run(scenario())


def test_where_nothing_changes_nothing_is_loaded_tried_or_published_again(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b")
    shelf.put("c", broken=True)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with polling(shelf, replica, trial=trial):
            loads, tried, listing = list(replica.loads), list(trial.tried), replica.listing
            await asyncio.sleep(LONG_S)
            assert (replica.loads, trial.tried) == (loads, tried)
            assert replica.listing is listing

    run(scenario())


@pytest.mark.parametrize("policy", [VersionPolicy(), LATEST], ids=["all", "latest"])
def test_a_poll_that_finds_a_broken_version_leaves_the_old_one_serving_for_as_long_as_it_is_broken(
    shelf: Shelf, policy: VersionPolicy
) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with polling(shelf, replica, trial=trial, policy=policy):
            shelf.put(version=2, broken=True)
            await asyncio.sleep(LONG_S)
            assert trial.tried == [[("tiny", 1)], [("tiny", 2)]], "what is broken is not tried again and again"
            assert replica.serving == {("tiny", 1): "tiny 1"}
            assert replica.states() == {("tiny", 1): "READY", ("tiny", 2): "UNAVAILABLE"}
            assert replica.reason("tiny", 2).startswith("model.onnx: has ")
            shelf.put(version=2)
            await a_round()
            assert replica.serving == {("tiny", 2): "tiny 2"} | ({} if policy is LATEST else {("tiny", 1): "tiny 1"})

    run(scenario())


def test_a_poll_lets_a_changed_version_that_is_broken_serve_as_it_was(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with polling(shelf, replica, trial=trial):
            shelf.put(broken=True)
            for _ in range(3):
                await a_round()
                assert replica.serving == {("tiny", 1): "tiny 1"}
                assert "its folder has changed and is refused" in replica.reason("tiny", 1)
                assert trial.tried == [[("tiny", 1)], [("tiny", 1)]]
            shelf.put(title="mended")
            await a_round()
            assert replica.serving == {("tiny", 1): "mended"}
            assert replica.reason("tiny", 1) == ""

    run(scenario())


@pytest.mark.parametrize("policy", [VersionPolicy(), LATEST], ids=["all", "latest"])
def test_a_version_whose_folder_is_gone_is_kept_while_nothing_but_broken_ones_would_be_left(
    shelf: Shelf, policy: VersionPolicy
) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with polling(shelf, replica, policy=policy):
            shelf.remove(version=1)
            shelf.put(version=2, broken=True)
            for _ in range(3):
                await a_round()
                assert replica.serving == {("tiny", 1): "tiny 1"}
            shelf.put(version=2)
            await a_round()
            assert replica.serving == {("tiny", 2): "tiny 2"}
            assert replica.states() == {("tiny", 2): "READY"}

    run(scenario())


def test_a_version_whose_folder_is_gone_is_let_go_where_another_serves_beside_a_broken_one(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with polling(shelf, replica):
            shelf.remove(version=1)
            shelf.put(version=3, broken=True)
            await a_round()
            assert replica.serving == {("tiny", 2): "tiny 2"}
            assert replica.states() == {("tiny", 2): "READY", ("tiny", 3): "UNAVAILABLE"}

    run(scenario())


def test_the_last_version_is_let_go_with_its_folder(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2, broken=True)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with polling(shelf, replica):
            shutil.rmtree(shelf.folder / "tiny")
            await a_round()
            assert replica.serving == {}
            assert replica.listing.entries == ()

    run(scenario())


def test_a_version_that_the_policy_does_not_want_any_more_is_listed_and_one_that_it_never_wanted_too(
    shelf: Shelf,
) -> None:
    shelf.put(version=5)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with polling(shelf, replica, policy=LATEST):
            shelf.put(version=3)
            await a_round()
            assert replica.states() == {("tiny", 3): "UNAVAILABLE", ("tiny", 5): "READY"}
            shelf.put(version=6)
            await a_round()
            assert replica.states() == {
                ("tiny", 3): "UNAVAILABLE",
                ("tiny", 5): "UNAVAILABLE",
                ("tiny", 6): "READY",
            }
            assert replica.reason("tiny", 5) == "is not loaded"
            shelf.remove(version=6)
            await a_round()
            assert replica.serving == {("tiny", 5): "tiny 5"}
            assert replica.states() == {("tiny", 3): "UNAVAILABLE", ("tiny", 5): "READY"}

    run(scenario())


def test_an_error_in_one_round_does_not_end_the_rounds(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with polling(shelf, replica, trial=trial):
            away = shelf.folder.rename(shelf.folder.with_name("away"))
            await a_round()
            assert replica.serving == {("tiny", 1): "tiny 1"}
            away.rename(shelf.folder)
            shelf.put(version=2)
            trial.fails_with = LookupError("a defect")
            await a_round()
            assert set(replica.serving) == {("tiny", 1)}
            trial.fails_with = None
            await a_round()
            assert set(replica.serving) == {("tiny", 1), ("tiny", 2)}

    run(scenario())
    errors = [one for one in caplog.records if one.getMessage().startswith("looking for changed models failed")]
    assert [one.exc_info[0] for one in errors if one.exc_info] == [NotReady, LookupError]


def test_a_poll_that_tries_for_long_keeps_a_replacement_waiting_for_one_model_only(shelf: Shelf) -> None:
    shelf.put("a")

    async def scenario() -> None:
        replica, late, trial = MemoryReplica(), MemoryReplica(), MemoryTrial()
        async with polling(shelf, replica, trial=trial) as controller:
            shelf.put("b")
            shelf.put("c")
            trial.may_end.clear()
            await replica.until(lambda one: ("b", 1) in one.states())
            joining = asyncio.create_task(controller.join(late))
            await asyncio.sleep(1)
            trial.may_end.set()
            await joining
            assert set(late.serving) == {("a", 1), ("b", 1)}
            await a_round()
            assert late.serving == replica.serving == {("a", 1): "a 1", ("b", 1): "b 1", ("c", 1): "c 1"}

    run(scenario())
