from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.errors import BundleRefused, NotFound, NotReady
from service.repository.control import Listed, Listing
from service.runtime.session import OnnxSession
from tests.bundles import HEIGHT, WIDTH, make_bundle, slow_graph, truncate
from tests.image_bundles import make_image_bundle
from tests.service.repository.serving import placed, replica, serve
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import make_translation_bundle

PICTURE = {"image": np.full((2, 1, HEIGHT, WIDTH), 0.9, np.float32)}


def test_what_is_prepared_serves_from_the_commit_on_and_not_before(models: Path) -> None:
    async def run() -> None:
        async with replica() as repository:
            await serve(repository, make_bundle(models, version=1))
            assert await repository.prepare([placed(make_bundle(models, version=2))]) == [None]
            assert repository.versions("tiny") == [1]
            await repository.commit([("tiny", 2)], [("tiny", 1)])
            assert repository.versions("tiny") == [2]
            assert repository.get("tiny").version == 2

    asyncio.run(run())


def test_what_is_prepared_and_not_taken_is_gone(models: Path) -> None:
    async def run() -> None:
        async with replica() as repository:
            await repository.prepare([placed(make_bundle(models, version=1))])
            await repository.commit([], [])
            with pytest.raises(KeyError):
                await repository.commit([("tiny", 1)], [])

    asyncio.run(run())


def test_one_that_can_not_be_loaded_is_told_and_the_others_can_be_taken(models: Path) -> None:
    broken = make_bundle(models, version=2)
    truncate(broken / "model.onnx")

    async def run() -> None:
        async with replica() as repository:
            outcomes = await repository.prepare([placed(make_bundle(models)), placed(broken)])
            assert outcomes[0] is None
            assert isinstance(outcomes[1], BundleRefused)
            assert outcomes[1].file == "model.onnx"
            await repository.commit([("tiny", 1)], [])
            assert repository.versions("tiny") == [1]

    asyncio.run(run())


def test_a_version_that_is_replaced_finishes_what_it_has_begun(models: Path) -> None:
    async def run() -> None:
        async with replica() as repository:
            await serve(repository, make_bundle(models, version=1, graph=slow_graph()))
            old = repository.get("tiny")
            with old.measured():
                await repository.prepare([placed(make_bundle(models, version=2))])
                await repository.commit([("tiny", 2)], [("tiny", 1)])
                await asyncio.sleep(0)  # the old one is being let go, but this request had begun
                with pytest.raises(NotFound):
                    repository.get("tiny", "1")
                answer = await old.submit(PICTURE)
            assert answer.outputs["logits"].shape == (2, 3)

    asyncio.run(run())


def test_a_version_that_is_replaced_does_not_wait_for_ever(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def run() -> None:
        async with replica(let_go_s=0.05) as repository:
            await serve(repository, make_bundle(models, version=1))
            old = repository.get("tiny")
            with old.measured():
                await repository.commit([], [("tiny", 1)])
                while not any("unfinished" in one.getMessage() for one in caplog.records):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # the log is what there is to wait for
                with pytest.raises(NotReady):
                    old.submit(PICTURE)

    asyncio.run(run())


@pytest.mark.parametrize("make", [make_bundle, make_text_bundle, make_translation_bundle, make_image_bundle])
def test_nothing_of_a_version_that_was_let_go_is_kept_in_memory(models: Path, make: Callable[[Path], Path]) -> None:
    """Without waiting for the collector, whose turn may come in hours."""

    def sessions() -> int:
        return sum(type(one) is OnnxSession for one in gc.get_objects())  # isinstance would ask, and some complain

    async def run() -> None:
        async with replica() as repository:
            folder = make(models)
            before = sessions()
            await serve(repository, folder)
            assert sessions() > before
            await repository.commit([], [placed(folder).key])
            while repository._background:  # noqa: ASYNC110 - until it is let go
                await asyncio.sleep(0.01)
            assert sessions() == before

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_requests_runs_and_rows_are_counted_as_triton_counts_them(models: Path) -> None:
    async def run() -> None:
        async with replica() as repository:
            await serve(repository, make_bundle(models))
            served = repository.get("tiny")
            for _ in range(3):
                with served.measured():
                    served.observe(await served.submit(PICTURE))
            with pytest.raises(NotReady), served.measured():
                raise NotReady("as a request fails")
            await asyncio.sleep(0)
            (counted,) = repository.statistics()
            assert (counted.name, counted.version) == ("tiny", 1)
            assert (counted.inference_count, counted.execution_count) == (6, 3)
            assert (counted.success.count, counted.fail.count) == (3, 1)
            assert counted.queue.count == counted.compute_infer.count == 3
            assert counted.batches.keys() == {2}
            assert counted.batches[2].compute_infer.count == 3
            parts = counted.queue.ns + counted.compute_input.ns + counted.compute_infer.ns + counted.compute_output.ns
            assert 0 < parts <= counted.success.ns

    asyncio.run(run())


def test_a_changed_version_goes_on_counting_and_one_that_is_gone_starts_anew(models: Path) -> None:
    folder = make_bundle(models)

    async def run() -> None:
        async with replica() as repository:

            async def ask() -> int:
                served = repository.get("tiny")
                with served.measured():
                    served.observe(await served.submit(PICTURE))
                await asyncio.sleep(0.01)
                return repository.statistics()[0].execution_count

            await serve(repository, folder)
            assert await ask() == 1
            await serve(repository, folder)
            assert await ask() == 2
            await repository.commit([], [("tiny", 1)])
            while 'model="tiny"' in repository._metrics.render().decode():  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # until the old one is let go
            await serve(repository, folder)
            assert await ask() == 1

    asyncio.run(run())


def test_what_does_not_serve_is_told_by_what_was_published(models: Path) -> None:
    async def run() -> None:
        async with replica() as repository:
            with pytest.raises(NotFound, match="there is no model 'tiny'; models: none"):
                repository.get("tiny")
            rows = tuple(Listed("tiny", version, "UNAVAILABLE", "is broken") for version in (1, 2))
            await repository.publish(Listing((*rows, Listed("other", 1, "LOADING", "is being loaded"))))
            assert not repository.is_ready
            with pytest.raises(NotReady, match="'tiny' version 2 is not ready: is broken"):
                repository.get("tiny")
            with pytest.raises(NotFound, match="no version '3'; versions: 1, 2"):
                repository.get("tiny", "3")
            with pytest.raises(NotFound, match="models: other, tiny"):
                repository.get("nobody")
            await repository.publish(Listing(rows, ready=True))
            assert repository.is_ready
            repository.begin_drain()
            assert not repository.is_ready

    asyncio.run(run())


def test_messages_name_some_of_many_models(models: Path) -> None:
    async def run() -> None:
        async with replica() as repository:
            rows = tuple(Listed(f"m{number:03}", 1, "LOADING") for number in range(500))
            await repository.publish(Listing(rows))
            with pytest.raises(NotFound) as caught:
                repository.get("nobody")
            assert str(caught.value).endswith("m009, ...")

    asyncio.run(run())
