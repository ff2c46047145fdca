from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from service.errors import (
    BadInput,
    BundleRefused,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
    Unsupported,
)
from service.latents import latents_of
from service.repository.bundle import Bundle, LoadOptions, load_bundle, verify_bundle
from service.repository.golden import GoldenMismatch
from service.repository.image_model import ImageModel
from service.repository.placement import Placement, Tuning
from service.repository.repository import Repository
from service.repository.scan import BundleFolder
from service.settings import Settings
from service.tasks.image_graphs import GENERATOR, TEXT
from service.tasks.image_parameters import MOST_IMAGES
from service.tasks.image_requests import Drawings, ImageRequest
from tests.bundles import LABELS, edit, logits_of, make_bundle, read_golden, sign, write_golden
from tests.image_bundles import LATENT, WORDS, drawn, generator_entry, make_image_bundle, one_hot
from tests.service.repository.serving import replica
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import make_translation_bundle

OPTIONS = LoadOptions.of(Settings(threads=1))
Points: TypeAlias = tuple[tuple[int, float], ...]

PATIENCE_S = 60
SLOW = 400
"""So many idle steps make a run last long enough for a test to do something about it."""


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(bounded())


def folder_of(bundle: Path) -> BundleFolder:
    return BundleFolder(bundle.parent.name, int(bundle.name), bundle)


def loaded(bundle: Path) -> Bundle:
    return load_bundle(folder_of(bundle), OPTIONS)


async def serve(
    repository: Repository,
    folder: Path,
    profile: Points = ((1, 0.0001), (64, 0.0005)),
    reading: Points | None = ((1, 0.0001),),
) -> ImageModel:
    profiles = {GENERATOR: profile, **({TEXT: reading} if reading else {})}
    placement = Placement(folder.parent.name, int(folder.name), str(folder), Tuning(profiles))
    assert await repository.prepare([placement]) == [None]
    await repository.commit([placement.key], [])
    model = repository.get(folder.parent.name)
    assert isinstance(model, ImageModel)
    return model


def asked(model: ImageModel, inputs: object = "", **parameters: object) -> ImageRequest:
    return model.task.parse(inputs, parameters)


def requests_of(model: ImageModel) -> list[ImageRequest]:
    """64 requests that differ in everything that may be asked for, of 95 pictures together."""
    words = [word for several in WORDS.values() for word in several]
    requests = []
    for number in range(64):
        parameters: dict[str, Any] = {"seed": number % 7, "width": 12 if number % 5 == 0 else None}
        if number % 4 == 1:
            parameters["interpolate"] = {"to": {"label": "left", "seed": number}, "steps": 2}
        elif number % 4 == 2:
            terms = [{}, {"seed": number, "weight": -0.3}, {"inputs": words[number % 5], "weight": 0.7}]
            parameters["arithmetic"] = terms
        elif number % 12 == 0:
            parameters["num_images"] = 1 + number // 12
        requests.append(asked(model, f"something {words[number % len(words)]} of {number}", **parameters))
    assert sum(one.count for one in requests) == 95
    return requests


def same(one: Drawings, other: Drawings) -> bool:
    return one.pixels.tobytes() == other.pixels.tobytes() and one.latents.tobytes() == other.latents.tobytes()


# Drawing


@pytest.mark.parametrize("channels", [1, 3])
def test_a_request_is_answered_with_what_the_generator_draws(models: Path, channels: int) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models, channels=channels))
            drawings, answer = await model.draw(asked(model, "a bright day", seed=3, num_images=16))
            latents = latents_of(3, 16, LATENT)
            expected = drawn(latents, one_hot("bright").repeat(16, 0), channels=channels)
            assert np.array_equal(drawings.pixels, expected)
            assert np.array_equal(drawings.latents, latents)
            assert drawings.seed == 3
            assert answer.batch_rows == 16
            assert answer.compute_s > 0

    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no nice value")
def test_runs_let_other_threads_go_first(models: Path) -> None:
    folder = make_image_bundle(models)

    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, folder, profile=((1, 0.002), (64, 0.004)))
            await model.draw(asked(model, "a bright day", seed=1))
            (thread,) = [one for one in threading.enumerate() if f"run-{model.name}" in one.name]
            assert thread.native_id
            own = os.getpriority(os.PRIO_PROCESS, 0)
            assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(19, own + 10)

    run(main)


def test_no_picture_is_drawn_while_others_are_written(models: Path) -> None:
    folder = make_image_bundle(models)

    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, folder, profile=((1, 0.002), (64, 0.004)))
            writes, may_end, events = threading.Event(), threading.Event(), list[str]()

            def write() -> None:
                writes.set()
                assert may_end.wait(PATIENCE_S)
                events.append("written")

            writing = asyncio.ensure_future(model.offload(write))
            await asyncio.to_thread(writes.wait, PATIENCE_S)
            drawing = asyncio.ensure_future(model.draw(asked(model, "a bright day", seed=1)))
            drawing.add_done_callback(lambda _: events.append("drawn"))
            await asyncio.sleep(0.1)
            assert events == []
            may_end.set()
            await asyncio.gather(writing, drawing)
            assert events == ["written", "drawn"]

    run(main)


def test_every_class_is_drawn_as_what_it_is(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            for label, words in WORDS.items():
                for word in words:
                    drawings, _ = await model.draw(asked(model, f"it is {word}", seed=1, num_images=MOST_IMAGES))
                    scores = logits_of(drawings.pixels.transpose(0, 3, 1, 2) / 255)
                    assert set(scores.argmax(1)) == {LABELS.index(label)}

    run(main)


def test_models_that_read_no_texts_or_have_no_classes_draw_too(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            by_label = await serve(repository, make_image_bundle(models, "by-label", texts=False))
            drawings, _ = await by_label.draw(asked(by_label, label="left", seed=3))
            assert np.array_equal(drawings.pixels, drawn(latents_of(3, 1, LATENT), one_hot("left")))
            of_anything = await serve(repository, make_image_bundle(models, "anything", classes=False))
            drawings, _ = await of_anything.draw(asked(of_anything, seed=3))
            assert np.array_equal(drawings.pixels, drawn(latents_of(3, 1, LATENT)))
            assert drawings.conditions is None

    run(main)


def test_a_request_gets_the_same_bytes_alone_and_among_63_others(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            requests = requests_of(model)
            alone = [(await model.draw(one))[0] for one in requests]
            together = await asyncio.gather(*(model.draw(one) for one in requests))
            assert all(same(one, other) for one, (other, _) in zip(alone, together, strict=True))
            assert len({one.pixels.tobytes() for one in alone}) > 50, "there is much to tell apart"
            assert max(answer.batch_rows for _, answer in together) > 50, "they shared runs"
            few, many = [(await model.draw(asked(model, "dark", seed=9, num_images=n)))[0] for n in (1, MOST_IMAGES)]
            assert few.pixels.tobytes() == many.pixels[:1].tobytes()

    run(main)


def test_a_text_that_means_nothing_is_refused_and_its_neighbours_are_answered(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            texts = ["dark", "an elephant", "day"]
            found = await asyncio.gather(*(model.draw(asked(model, one)) for one in texts), return_exceptions=True)
            assert [isinstance(one, BadInput) for one in found] == [False, True, False]
            with pytest.raises(BadInput, match="what can be drawn: dark, bright, left"):
                await model.draw(asked(model, "an elephant"))
            await model.draw(asked(model, "an elephant", strict=False))

    run(main)


def test_more_pictures_than_a_batch_has_rows_are_too_large(models: Path) -> None:
    async def main() -> None:
        async with replica(max_batch_rows=8) as repository:
            model = await serve(repository, make_image_bundle(models))
            drawings, _ = await model.draw(asked(model, "dark", num_images=8))
            assert len(drawings.pixels) == 8
            with pytest.raises(TooLarge, match="at most 8 rows; this one has 9"):
                await model.draw(asked(model, "dark", num_images=9))

    run(main)


# Threads


def test_long_texts_are_read_in_a_thread_and_short_ones_are_not(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            gate = threading.Event()
            busy = [asyncio.create_task(model.offload(gate.wait)) for _ in range(4)]  # as many as may be
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await model.draw(asked(model, "dark ".ljust(600, "x")))
            await model.draw(asked(model, "dark"))
            gate.set()
            await asyncio.gather(*busy)
            drawings, _ = await model.draw(asked(model, "dark ".ljust(600, "x"), seed=2))
            assert np.array_equal(drawings.pixels, drawn(latents_of(2, 1, LATENT), one_hot("dark")))

    run(main)


@pytest.mark.parametrize("reading", [((1, 0.05),), None])
def test_so_are_texts_of_an_encoder_that_takes_long_or_nobody_knows_how_long(
    models: Path, reading: Points | None
) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models), reading=reading)
            gate = threading.Event()
            busy = [asyncio.create_task(model.offload(gate.wait)) for _ in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await model.draw(asked(model, "dark"))
            await model.draw(asked(model, label="dark"))
            gate.set()
            await asyncio.gather(*busy)
            drawings, _ = await model.draw(asked(model, "day", seed=2))
            assert np.array_equal(drawings.pixels, drawn(latents_of(2, 1, LATENT), one_hot("bright")))

    run(main)


def test_many_large_pictures_are_made_in_a_thread(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            request = asked(model, "dark", seed=2, num_images=MOST_IMAGES, width=96)
            gate = threading.Event()
            busy = [asyncio.create_task(model.offload(gate.wait)) for _ in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await model.draw(request)
            gate.set()
            await asyncio.gather(*busy)
            drawings, _ = await model.draw(request)
            assert drawings.pixels.shape == (MOST_IMAGES, 64, 96, 1)

    run(main)


# Queue


def test_a_deadline_that_can_not_be_met_ends_a_request(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models, idle_steps=SLOW), profile=((1, 0.05),))
            with pytest.raises(DeadlineExceeded):
                await model.draw(asked(model, "dark"), deadline=time.monotonic())
            assert model.queued_rows() == 0

    run(main)


def test_what_nobody_waits_for_any_more_is_withdrawn(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models, idle_steps=SLOW), profile=((1, 0.05),))
            running = asyncio.create_task(model.draw(asked(model, "dark", seed=1)))
            while model.is_idle or model.queued_rows():  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
            waiting = asyncio.create_task(model.draw(asked(model, "dark", num_images=5)))
            while not model.queued_rows():  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert model.queued_rows() == 5
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert model.queued_rows() == 0
            drawings, _ = await running
            assert np.array_equal(drawings.pixels, drawn(latents_of(1, 1, LATENT), one_hot("dark")))

    run(main)


def test_a_model_that_drains_finishes_what_it_has_begun_and_takes_nothing_new(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models, idle_steps=SLOW), profile=((1, 0.05),))
            begun = [asyncio.create_task(model.draw(asked(model, "dark", seed=n))) for n in range(5)]
            await asyncio.sleep(0)
            draining = asyncio.create_task(model.drain())
            await asyncio.sleep(0)
            with pytest.raises(NotReady, match="is being stopped"):
                await model.draw(asked(model, "dark"))
            for seed, (drawings, _) in enumerate(await asyncio.gather(*begun)):
                assert np.array_equal(drawings.pixels, drawn(latents_of(seed, 1, LATENT), one_hot("dark")))
            await draining

    run(main)


def test_a_generator_that_fails_fails_the_request_and_the_next_is_answered(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))

            def broken(_: object) -> None:
                raise ZeroDivisionError("it broke")

            with monkeypatch.context() as patch:
                patch.setattr(model._batcher._runner, "_run", broken)
                with pytest.raises(RuntimeFailure, match="it broke"):
                    await model.draw(asked(model, "dark"))
            await model.draw(asked(model, "dark"))

    run(main)


def test_what_was_drawn_is_counted(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            with model.measured():
                await model.draw(asked(model, "dark", num_images=6))
            await asyncio.sleep(0)  # a batch is reported by the loop
            (statistics,) = repository.statistics()
            assert (statistics.inference_count, statistics.execution_count) == (6, 1)
            told = repository._metrics.render().decode()
            for name in ("request_duration", "queue", "preprocess", "compute"):
                assert f'inferd_{name}_seconds_count{{model="tiny-painter",version="1"}} 1.0' in told
            assert 'inferd_batch_size_sum{model="tiny-painter",version="1"} 6.0' in told

    run(main)


# As tensors


def test_as_tensors_latents_and_conditions_go_in_and_bytes_come_out(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models))
            assert [one.name for one in model.graph.inputs] == ["latent", "condition"]
            assert model.labels is None, "pixels have no classes"
            latents, conditions = latents_of(4, 3, LATENT), one_hot(*LABELS)
            answer = await model.submit({"latent": latents, "condition": conditions})
            assert np.array_equal(answer.outputs["image"], drawn(latents, conditions))
            nothing = np.full_like(conditions, np.nan)
            answer = await model.submit({"latent": latents, "condition": nothing})
            assert answer.outputs["image"].dtype == np.uint8, "whatever they are"

    run(main)


# Without a server


@pytest.mark.parametrize("max_batch_size", [1, 5, 64])
def test_a_bundle_draws_what_the_server_draws(models: Path, max_batch_size: int) -> None:
    folder = make_image_bundle(models, batching={"max_batch_size": max_batch_size})
    bundle = loaded(folder)

    async def main() -> None:
        async with replica() as repository:
            model = await serve(repository, make_image_bundle(models, "other"))
            for inputs, parameters in (
                ("a dark night", {"seed": 1, "num_images": 12}),
                ("white", {"seed": 1, "interpolate": {"to": {"inputs": "west"}, "steps": 7}, "height": 8}),
            ):
                served, _ = await model.draw(asked(model, inputs, **parameters))
                assert same(bundle.draw(inputs, parameters), served)

    run(main)


def test_a_bundle_without_a_text_encoder_draws_by_label(models: Path) -> None:
    drawings = loaded(make_image_bundle(models, texts=False)).draw(None, {"label": "left", "seed": 3})
    assert np.array_equal(drawings.pixels, drawn(latents_of(3, 1, LATENT), one_hot("left")))


def test_a_bundle_says_which_command_asks_it(models: Path) -> None:
    painter = loaded(make_image_bundle(models))
    with pytest.raises(Unsupported, match="tiny-painter draws pictures: inferd draw asks it"):
        painter.predict("dark", {})
    for ask in (painter.generate, painter.translate):
        with pytest.raises(Unsupported, match="inferd"):
            ask("dark", {})
    for make in (make_bundle, make_text_bundle, make_translation_bundle):
        with pytest.raises(Unsupported, match="draws no pictures: inferd predict, generate or translate asks it"):
            loaded(make(models)).draw("dark", {})


# Loading


def test_a_good_bundle_is_loaded_and_verified(models: Path) -> None:
    for number, kind in enumerate(({}, {"texts": False}, {"classes": False}, {"channels": 3}), 1):
        folder = make_image_bundle(models, version=number, **kind)
        assert verify_bundle(folder_of(folder), OPTIONS).schema_version == 5
        bundle = loaded(folder)
        assert (bundle.batched, bundle.max_batch_rows) == (True, 64)
        assert list(bundle.sessions) == list(bundle.task.graphs)


@pytest.mark.parametrize(
    ("array", "file"), [("runtime/fp32/text/meant", "text.onnx"), ("framework/text/conditions", "text.onnx")]
)
def test_a_text_encoder_that_reads_otherwise_than_it_did_is_refused(models: Path, array: str, file: str) -> None:
    folder = make_image_bundle(models)
    arrays = read_golden(folder)
    arrays[array] = arrays[array] * np.float32(0.5)
    write_golden(folder, arrays)
    sign(folder)
    with pytest.raises(GoldenMismatch, match=f"{file}: golden replay of variant 'fp32'"):
        loaded(folder)


def test_so_is_a_generator_with_other_classes_in_place_of_its_own(models: Path) -> None:
    folder = make_image_bundle(models)
    arrays = read_golden(folder)
    arrays["inputs/generator/condition"] = arrays["inputs/generator/condition"][:, ::-1]
    write_golden(folder, arrays)
    sign(folder)
    with pytest.raises(GoldenMismatch, match="output 'image' differs by"):
        loaded(folder)


def test_a_graph_that_is_there_for_nothing_is_refused(models: Path) -> None:
    folder = make_image_bundle(models)
    edit(folder, "variants", "fp32", "graphs", "other", to=generator_entry())
    with pytest.raises(
        BundleRefused, match=r"text-to-image needs the graphs \['generator', 'text'\], not \['generator', 'other'"
    ):
        loaded(folder)
