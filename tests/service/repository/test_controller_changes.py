from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from service.errors import BundleRefused, NotReady, RuntimeFailure
from service.repository.control import Listing, VersionPolicy
from tests.service.repository.replicas import (
    LATEST,
    LONG_S,
    MemoryReplica,
    MemoryTrial,
    Shelf,
    a_round,
    explicit,
    only,
    polling,
    states,
)
from tests.virtual_clock import run

# What is broken


@pytest.mark.parametrize("policy", [None, LATEST, only(2)], ids=["all", "latest", "specific"])
def test_a_new_version_that_is_broken_leaves_the_old_one_serving_and_says_why(
    shelf: Shelf, policy: VersionPolicy | None
) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with explicit(shelf, *replicas) as controller:
            shelf.put(version=2, broken=True)
            for _ in range(2):
                with pytest.raises(BundleRefused, match=r"model\.onnx: has "):
                    await controller.load("tiny", policy)
                for replica in replicas:
                    assert replica.serving == {("tiny", 1): "tiny 1"}
                    assert replica.states() == {("tiny", 1): "READY", ("tiny", 2): "UNAVAILABLE"}
                    assert replica.reason("tiny", 1) == ""
                    assert replica.reason("tiny", 2).startswith("model.onnx: has ")
            shelf.put(version=2)
            await controller.load("tiny", policy)
            expected = {("tiny", 2): "tiny 2"} | ({} if policy else {("tiny", 1): "tiny 1"})
            for replica in replicas:
                assert replica.serving == expected

    run(scenario())


def test_of_several_that_serve_a_broken_one_takes_none_away(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2)

    async def scenario() -> None:
        replica = MemoryReplica()
        async with polling(shelf, replica, policy=VersionPolicy(latest=2)):
            shelf.put(version=3, broken=True)
            for _ in range(3):
                await a_round()
                assert set(replica.serving) == {("tiny", 1), ("tiny", 2)}
            shelf.put(version=3)
            await a_round()
            assert set(replica.serving) == {("tiny", 2), ("tiny", 3)}

    run(scenario())


def test_of_several_new_versions_those_that_are_whole_serve(shelf: Shelf) -> None:
    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put(version=1)
            shelf.put(version=2, broken=True)
            shelf.put(version=3)
            with pytest.raises(BundleRefused):
                await controller.load("tiny", None)
            assert set(replica.serving) == {("tiny", 1), ("tiny", 3)}

    run(scenario())


def test_a_version_that_is_changed_and_broken_serves_as_it_was_and_says_so_until_it_is_mended(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put(broken=True)
            with pytest.raises(BundleRefused):
                await controller.load("tiny", None)
            assert replica.serving == {("tiny", 1): "tiny 1"}
            assert replica.states() == {("tiny", 1): "READY"}
            assert replica.reason("tiny", 1).startswith(
                "serves as it was loaded; its folder has changed and is refused: model.onnx: has "
            )
            shelf.put(title="mended")
            await controller.load("tiny", None)
            assert replica.serving == {("tiny", 1): "mended"}
            assert replica.reason("tiny", 1) == ""

    run(scenario())


def test_what_was_refused_is_tried_again_by_a_call_though_its_folder_is_as_it_was(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        replica.refuses["tiny", 1] = NotReady("no memory is left")
        async with explicit(shelf, replica, load_at_start=frozenset()) as controller:
            with pytest.raises(NotReady, match="no memory is left"):
                await controller.load("tiny", None)
            assert replica.reason("tiny", 1) == "no memory is left"
            replica.refuses.clear()
            await controller.load("tiny", None)
            assert replica.serving == {("tiny", 1): "tiny 1"}
            assert replica.reason("tiny", 1) == ""

    run(scenario())


def test_a_folder_without_any_file_is_refused_like_another(shelf: Shelf) -> None:
    shelf.put(version=1)
    (shelf.folder / "tiny" / "2").mkdir()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            assert replica.states() == {("tiny", 1): "READY", ("tiny", 2): "UNAVAILABLE"}
            assert replica.reason("tiny", 2).startswith("manifest.json: ")
            assert not replica.listing.ready
            with pytest.raises(BundleRefused):
                await controller.load("tiny", None)

    run(scenario())


def test_an_error_of_the_trial_itself_is_told_and_the_next_change_goes_well(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            shelf.put(version=2)
            trial.fails_with = LookupError("a defect")
            with pytest.raises(LookupError, match="a defect"):
                await controller.load("tiny", None)
            assert set(replica.serving) == {("tiny", 1)}
            trial.fails_with = None
            await controller.load("tiny", None)
            assert set(replica.serving) == {("tiny", 1), ("tiny", 2)}
            assert set(replica.states().values()) == {"READY"}

    run(scenario())


# Several replicas


def test_what_one_replica_refuses_no_replica_serves(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica(), MemoryReplica()]
        async with explicit(shelf, *replicas) as controller:
            replicas[1].refuses["tiny", 2] = RuntimeFailure("no memory is left")
            shelf.put(version=1, title="changed")
            shelf.put(version=2)
            shelf.put(version=3)
            with pytest.raises(RuntimeFailure, match="no memory is left"):
                await controller.load("tiny", None)
            for replica in replicas:
                assert replica.serving == {("tiny", 1): "changed", ("tiny", 3): "tiny 3"}
                assert replica.reason("tiny", 2) == "no memory is left"
                assert replica.prepared == {}, "what was loaded for nothing is let go"

    run(scenario())


@pytest.mark.parametrize("policy", [None, LATEST], ids=["all", "latest"])
def test_where_a_replica_refuses_all_that_is_new_nothing_changes_in_any_and_nothing_is_kept_loaded(
    shelf: Shelf, policy: VersionPolicy | None
) -> None:
    shelf.put()

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with explicit(shelf, *replicas) as controller:
            replicas[0].refuses["tiny", 2] = RuntimeFailure("no memory is left")
            shelf.put(version=2)
            with pytest.raises(RuntimeFailure):
                await controller.load("tiny", policy)
            for replica in replicas:
                assert replica.serving == {("tiny", 1): "tiny 1"}
                assert replica.prepared == {}

    run(scenario())


@pytest.mark.parametrize("step", ["prepare", "commit", "publish"])
def test_a_replica_that_goes_away_in_a_change_does_not_stop_it_and_its_replacement_gets_the_new_state(
    shelf: Shelf, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        dying, other, replacement = MemoryReplica(), MemoryReplica(), MemoryReplica()
        async with explicit(shelf, dying, other) as controller:
            shelf.put(version=2)
            dying.dies_at = step
            await controller.load("tiny", LATEST)
            assert dying.gone
            assert other.serving == {("tiny", 2): "tiny 2"}
            controller.leave(dying)
            await controller.join(replacement)
            assert replacement.serving == other.serving
            assert replacement.listing == other.listing == controller.listing()
            shelf.put(version=3)
            await controller.load("tiny", None)
            assert replacement.serving == other.serving == {("tiny", v): f"tiny {v}" for v in (1, 2, 3)}

    run(scenario())
    assert "a worker went away during a change" in caplog.text


def test_with_no_replica_left_a_change_is_made_for_those_to_come(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        only_one, replacement = MemoryReplica(), MemoryReplica()
        async with explicit(shelf, only_one) as controller:
            only_one.gone = True
            controller.leave(only_one)
            controller.leave(only_one)  # who never joined, or has left, may leave
            shelf.put(version=2)
            await controller.load("tiny", None)
            await controller.join(replacement)
            assert replacement.serving == {("tiny", 1): "tiny 1", ("tiny", 2): "tiny 2"}

    run(scenario())


@pytest.mark.parametrize("step", ["prepare", "commit", "publish"])
def test_a_replica_that_goes_away_while_it_joins_is_no_part_of_the_next_change(shelf: Shelf, step: str) -> None:
    shelf.put()

    async def scenario() -> None:
        replica, dying = MemoryReplica(), MemoryReplica()
        async with explicit(shelf, replica) as controller:
            dying.dies_at = step
            with pytest.raises(ConnectionError):
                await controller.join(dying)
            controller.leave(dying)
            shelf.put(version=2)
            await controller.load("tiny", None)
            assert set(replica.serving) == {("tiny", 1), ("tiny", 2)}

    run(scenario())


def test_a_replica_that_can_not_load_what_the_others_serve_does_not_join(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b")

    async def scenario() -> None:
        replica, late = MemoryReplica(), MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put("a", broken=True)
            with pytest.raises(BundleRefused):
                await controller.join(late)
            assert late.serving == {}
            assert replica.serving == {("a", 1): "a 1", ("b", 1): "b 1"}
            assert set(replica.states().values()) == {"READY"}
            shelf.put("b", 2)
            await controller.load("b", None)
            assert late.serving == {}
            assert late.loads == [("b", 1)], "it takes part in nothing"
            shelf.put("a", title="mended")
            await controller.join(late)
            assert set(late.serving) == set(replica.serving)

    run(scenario())


def test_where_no_replica_is_left_what_the_next_one_can_not_load_does_not_keep_the_rest_from_serving(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("a")
    shelf.put("b")

    async def scenario() -> None:
        first, second, third = MemoryReplica(), MemoryReplica(), MemoryReplica()
        async with polling(shelf, first) as controller:
            shelf.put("a", broken=True)
            await a_round()
            assert first.serving == {("a", 1): "a 1", ("b", 1): "b 1"}
            first.gone = True
            controller.leave(first)
            for replica in (second, third):
                await controller.join(replica)
                assert replica.serving == {("b", 1): "b 1"}
                assert replica.states() == {("a", 1): "UNAVAILABLE", ("b", 1): "READY"}
                assert replica.reason("a", 1).startswith("model.onnx: has ")
            shelf.put("a", title="mended")
            await a_round()
            assert second.serving == third.serving == {("a", 1): "mended", ("b", 1): "b 1"}

    run(scenario())
    assert "model a version 1 serves no longer: model.onnx: has " in caplog.text


def test_until_it_has_joined_a_replica_is_told_that_it_does_not_serve_yet(shelf: Shelf) -> None:
    shelf.put("a")
    shelf.put("b", broken=True)

    async def scenario() -> None:
        replica, late = MemoryReplica(), MemoryReplica()
        async with explicit(shelf, replica, load_at_start=frozenset({"a"})) as controller:
            with pytest.raises(BundleRefused):
                await controller.load("b", None)
            assert replica.listing.ready
            late.may_load.clear()
            joining = asyncio.create_task(controller.join(late))
            await late.until(lambda one: one.listing.entries)
            assert late.states() == {("a", 1): "LOADING", ("b", 1): "UNAVAILABLE"}
            assert late.reason("a", 1) == "is being loaded"
            assert not late.listing.ready
            late.may_load.set()
            await joining
            assert late.listing == replica.listing
            assert late.listing.ready

    run(scenario())


# One change at a time


def test_a_replica_that_joins_during_a_change_waits_for_it(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, late, trial = MemoryReplica(), MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            shelf.put(version=2)
            trial.may_end.clear()
            loading = asyncio.create_task(controller.load("tiny", LATEST))
            await replica.until(lambda one: "LOADING" in one.states().values())
            joining = asyncio.create_task(controller.join(late))
            await asyncio.sleep(LONG_S)
            assert not joining.done()
            assert late.loads == []
            trial.may_end.set()
            await asyncio.gather(loading, joining)
            assert late.serving == replica.serving == {("tiny", 2): "tiny 2"}
            assert late.loads == [("tiny", 2)]

    run(scenario())


def test_a_change_waits_for_a_replica_that_joins(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, late = MemoryReplica(), MemoryReplica()
        async with explicit(shelf, replica) as controller:
            shelf.put(version=2)
            late.may_load.clear()
            joining = asyncio.create_task(controller.join(late))
            await asyncio.sleep(1)
            loading = asyncio.create_task(controller.load("tiny", None))
            await asyncio.sleep(LONG_S)
            assert replica.serving == {("tiny", 1): "tiny 1"}
            late.may_load.set()
            await asyncio.gather(joining, loading)
            assert late.serving == replica.serving == {("tiny", 1): "tiny 1", ("tiny", 2): "tiny 2"}

    run(scenario())


def test_changes_asked_for_at_once_are_made_one_after_the_other(shelf: Shelf) -> None:
    for name in ("a", "b", "c"):
        shelf.put(name, 1)
        shelf.put(name, 2)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with explicit(shelf, *replicas, load_at_start=frozenset({"c"})) as controller:
            for replica in replicas:
                replica.may_load.clear()
            changes = [
                asyncio.create_task(one)
                for one in (
                    controller.load("a", LATEST),
                    controller.load("b", None),
                    controller.load("a", only(1)),
                    controller.unload("c"),
                )
            ]
            await asyncio.sleep(LONG_S)
            assert not any(one.done() for one in changes)
            for replica in replicas:
                replica.may_load.set()
            await asyncio.gather(*changes)
            for replica in replicas:
                assert set(replica.serving) == {("a", 1), ("b", 1), ("b", 2)}
                assert replica.loading == [0, 1]
                assert replica.loads[-4:] == [("a", 2), ("b", 1), ("b", 2), ("a", 1)]

    run(scenario())


def test_a_load_is_finished_though_who_asked_for_it_goes_away(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            shelf.put(version=2)
            trial.may_end.clear()
            loading = asyncio.create_task(controller.load("tiny", LATEST))
            await replica.until(lambda one: "LOADING" in one.states().values())
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            trial.may_end.set()
            await replica.until(lambda one: one.serving == {("tiny", 2): "tiny 2"})

    run(scenario())


def test_a_load_that_nobody_waits_for_any_more_may_be_refused_in_silence(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            shelf.put(broken=True)
            trial.may_end.clear()
            loading = asyncio.create_task(controller.load("tiny", None))
            await replica.until(lambda one: "LOADING" in one.states().values())
            loading.cancel()
            trial.may_end.set()
            await replica.until(lambda one: "UNAVAILABLE" in one.states().values())
            with pytest.raises(asyncio.CancelledError):
                await loading

    run(scenario())
    gc.collect()
    assert [one.name for one in caplog.records if one.levelno >= logging.ERROR] == ["service.repository.controller"]


def test_a_change_that_is_cancelled_anywhere_leaves_no_call_that_nobody_made(shelf: Shelf) -> None:
    class Called(MemoryReplica):
        """Keeps what it was called for, whether or not anybody went on with it."""

        def publish(self, listing: Listing) -> Coroutine[Any, Any, None]:
            calls.append(super().publish(listing))
            return calls[-1]

    calls: list[Coroutine[Any, Any, None]] = []
    shelf.put()

    async def scenario() -> None:
        for steps in range(100):
            async with explicit(shelf, MemoryReplica()) as controller:
                joining = asyncio.create_task(controller.join(Called()))
                for _ in range(steps):
                    await asyncio.sleep(0)
                finished = joining.done()
                joining.cancel()
                await asyncio.gather(joining, return_exceptions=True)
                assert {inspect.getcoroutinestate(call) for call in calls} <= {inspect.CORO_CLOSED}
            if finished:
                return
        pytest.fail("it never came to its end")

    run(scenario())
    assert calls


def test_what_serves_goes_on_while_a_change_is_made(shelf: Shelf) -> None:
    shelf.put(version=1)

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with explicit(shelf, replica, trial=trial) as controller:
            shelf.put(version=1, title="changed")
            shelf.put(version=2)
            trial.may_end.clear()
            loading = asyncio.create_task(controller.load("tiny", None))
            await replica.until(lambda one: ("tiny", 2) in one.states())
            assert replica.serving == {("tiny", 1): "tiny 1"}
            assert replica.states() == {("tiny", 1): "READY", ("tiny", 2): "LOADING"}
            assert states(await controller.index()) == [
                ("tiny", 1, "READY", ""),
                ("tiny", 2, "LOADING", "is being loaded"),
            ]
            trial.may_end.set()
            await loading

    run(scenario())


def test_the_end_does_not_wait_for_changes(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica, trial = MemoryReplica(), MemoryTrial()
        async with polling(shelf, replica, trial=trial) as controller:
            shelf.put(version=2)
            trial.may_end.clear()
            await replica.until(lambda one: "LOADING" in one.states().values())
            await controller.close()
            trial.may_end.set()
            await asyncio.sleep(LONG_S)
            assert replica.serving == {("tiny", 1): "tiny 1"}
        async with explicit(shelf, MemoryReplica(), trial=trial, load_at_start=frozenset()) as controller:
            trial.may_end.clear()
            loading = asyncio.create_task(controller.load("tiny", None))
            await asyncio.sleep(1)
            await controller.close()
            with pytest.raises(asyncio.CancelledError):
                await loading

    run(scenario())


# Quarantine


def test_a_version_that_is_quarantined_serves_in_no_replica_until_a_call_asks_for_it(shelf: Shelf) -> None:
    shelf.put(version=1)
    shelf.put(version=2)

    async def scenario() -> None:
        replicas = [MemoryReplica(), MemoryReplica()]
        async with explicit(shelf, *replicas) as controller:
            await controller.quarantine(("tiny", 2), "two workers died of it")
            assert controller.count_quarantined() == 1
            for replica in replicas:
                assert replica.serving == {("tiny", 1): "tiny 1"}
                assert replica.states() == {("tiny", 1): "READY", ("tiny", 2): "UNAVAILABLE"}
                assert replica.reason("tiny", 2) == "quarantined: two workers died of it"
                assert replica.listing.ready
            await controller.load("tiny", None)
            assert controller.count_quarantined() == 0
            for replica in replicas:
                assert replica.serving == {("tiny", 1): "tiny 1", ("tiny", 2): "tiny 2"}
                assert replica.reason("tiny", 2) == ""

    run(scenario())


def test_what_is_quarantined_is_not_loaded_by_whoever_joins_nor_by_looking_but_once_it_changes(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica, joining = MemoryReplica(), MemoryReplica()
        async with polling(shelf, replica) as controller:
            await controller.quarantine(("tiny", 1), "two workers died of it")
            await controller.join(joining)
            await a_round()
            assert replica.serving == joining.serving == {}
            shelf.put(title="mended")
            await a_round()
            assert replica.serving == joining.serving == {("tiny", 1): "mended"}
            assert controller.count_quarantined() == 0

    run(scenario())


def test_what_serves_no_longer_is_not_quarantined(shelf: Shelf) -> None:
    shelf.put()

    async def scenario() -> None:
        replica = MemoryReplica()
        async with explicit(shelf, replica) as controller:
            await controller.unload("tiny")
            await controller.quarantine(("tiny", 1), "two workers died of it")
            assert controller.count_quarantined() == 0
            assert replica.reason("tiny", 1) == "is not loaded"

    run(scenario())
