from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.batching.sampling import Sampling
from service.errors import (
    BadInput,
    BundleRefused,
    DeadlineExceeded,
    InferdError,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
)
from service.repository.bundle import LoadOptions, load_bundle, verify_bundle
from service.repository.generation import Generation, grow_alone
from service.repository.golden import GoldenMismatch
from service.repository.placement import Tuning
from service.repository.repository import Repository
from service.repository.scan import BundleFolder
from service.repository.text_model import TextModel
from service.settings import Settings
from service.tasks.text_generation import TextRequest
from tests.bundles import edit, flip_a_byte, make_bundle, manifest_in, read_golden, sign, write_golden
from tests.service.batching.step_graphs import StepModel, sampled_slots
from tests.service.repository.serving import placed, replica, serve
from tests.text_bundles import Reference, decode, encode, graph_entry, make_text_bundle

OPTIONS = LoadOptions.of(Settings(threads=1))
PATIENCE_S = 30
LONG = 4000
"""So many tokens are not there before a test has done something about them."""


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(bounded())


def folder_of(bundle: Path) -> BundleFolder:
    return BundleFolder(bundle.parent.name, int(bundle.name), bundle)


def asked(prompt: str = "hello", max_tokens: int = 20, **others: Any) -> TextRequest:
    return TextRequest([encode(prompt)], Sampling(temperature=0), max_tokens, seed=1, **others)


def expected(prompt: str, length: int, seed: int = 3) -> str:
    """The likeliest continuation, by the network in float64."""
    tokens = encode(prompt)
    for _ in range(length):
        *_, logits = Reference(seed).logits(tokens)
        tokens.append(int(logits.argmax()))
    return decode(tokens[len(prompt) :])


def text_model(repository: Repository, version: str | None = None) -> TextModel:
    model = repository.get("tiny-text", version)
    assert isinstance(model, TextModel)
    return model


async def text_of(generation: Generation) -> str:
    ((choice,),) = await generation.answer()
    return choice.text


async def idle(model: TextModel) -> None:
    """Wait until nothing lives or waits in the model."""
    while model._stepper.statistics().live or model.queued_rows():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.001)


def with_int8(bundle: Path) -> Path:
    """Give the bundle a variant int8, which is its default and is as exact as fp32."""
    shutil.copy(bundle / "step.onnx", bundle / "step.int8.onnx")
    golden = read_golden(bundle)
    golden |= {name.replace("fp32", "int8"): array for name, array in golden.items() if "fp32" in name}
    write_golden(bundle, golden)
    variant = {
        **manifest_in(bundle)["variants"]["fp32"],
        "graphs": {"step": {**graph_entry(), "file": "step.int8.onnx"}},
    }
    edit(bundle, "variants", "int8", to=variant)
    edit(bundle, "default_variant", to="int8")
    sign(bundle)
    return bundle


# Loading


def test_a_text_bundle_is_loaded_replayed_and_timed(models: Path) -> None:
    bundle = load_bundle(folder_of(make_text_bundle(models)), OPTIONS)
    assert (bundle.variant, bundle.batched, bundle.max_batch_rows) == ("fp32", True, 64)
    points = bundle.measure_latency()
    assert [rows for rows, _ in points][:3] == [1, 2, 4]
    assert points[-1][0] == 64
    assert "".join(bundle.generate("hello", {"temperature": 0, "max_new_tokens": 12})) == expected("hello", 12)


def test_a_bundle_whose_logits_or_states_differ_from_its_golden_ones_is_refused(models: Path) -> None:
    for version, name in enumerate(("logits", "next_state"), 1):
        for origin in ("framework", "runtime/fp32"):
            bundle = make_text_bundle(models, f"{name.replace('_', '-')}-{origin.partition('/')[0]}", version)
            golden = read_golden(bundle)
            golden[f"{origin}/step/{name}"][5, 3] += 0.01
            write_golden(bundle, golden)
            sign(bundle)
            with pytest.raises(
                GoldenMismatch, match=rf"step\.onnx: golden replay of variant 'fp32': output '{name}' d"
            ):
                load_bundle(folder_of(bundle), OPTIONS)


def test_a_damaged_vocabulary_is_refused_by_its_digest_and_another_one_by_its_size(models: Path) -> None:
    bundle = make_text_bundle(models)
    flip_a_byte(bundle / "vocab.json")
    with pytest.raises(BundleRefused, match=r"vocab\.json: has sha256"):
        load_bundle(folder_of(bundle), OPTIONS)
    other = make_text_bundle(models, "other", vocabulary=["\n", " ", ".", "a"])
    with pytest.raises(BundleRefused, match=r"vocab\.json: has 4 characters, but output 'logits' of step\.onnx is"):
        load_bundle(folder_of(other), OPTIONS)


def test_a_manifest_that_names_other_shapes_than_the_graph_has_is_refused(models: Path) -> None:
    bundle = make_text_bundle(models)
    for kind, place in (("inputs", 1), ("outputs", 1)):
        edit(bundle, "variants", "fp32", "graphs", "step", kind, place, "shape", to=["batch", 17])
    with pytest.raises(BundleRefused, match=r"step\.onnx: "):
        load_bundle(folder_of(bundle), OPTIONS)


def test_a_text_bundle_needs_exactly_one_graph_called_step(models: Path) -> None:
    bundle = make_text_bundle(models)
    edit(bundle, "variants", "fp32", "graphs", to={"model": graph_entry()})
    with pytest.raises(BundleRefused, match="text-generation needs exactly one graph, called 'step'"):
        load_bundle(folder_of(bundle), OPTIONS)


def test_float32_serves_where_int8_fails_its_replay(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = with_int8(make_text_bundle(models))
    bad = with_int8(make_text_bundle(models, version=2))
    golden = read_golden(bad)
    golden["runtime/int8/step/logits"] += np.float32(0.5)
    write_golden(bad, golden)
    sign(bad)

    async def main() -> None:
        async with replica() as repository:
            await serve(repository, good, bad)
            assert text_model(repository, "1").bundle.variant == "int8"
            assert text_model(repository, "2").bundle.variant == "fp32"
            texts = [await text_of(text_model(repository, one).generate(asked())) for one in ("1", "2")]
            assert texts == [expected("hello", 20)] * 2
            series = repository._metrics.render().decode()
            assert 'inferd_variant_fallback_total{model="tiny-text",version="2"} 1' in series
            assert 'inferd_variant_fallback_total{model="tiny-text",version="1"} 0' in series

    run(main)
    assert any("tiny-text version 2 serves fp32 in place of its default" in one.getMessage() for one in caplog.records)
    with pytest.raises(GoldenMismatch, match="variant 'int8'"):
        verify_bundle(folder_of(bad), OPTIONS)


# Answers


def test_prompts_choices_and_the_best_of_many_are_told_apart(models: Path) -> None:
    async def main() -> None:
        async with replica(max_batch_rows=16) as repository:
            await serve(repository, make_text_bundle(models))
            model = text_model(repository)
            request = TextRequest(
                [encode("abc"), encode("x")], Sampling(), 8, seed=5, choices=20, best_of=20, top_scores=0
            )
            every = await model.generate(request).answer()
            assert [[(one.prompt, one.choice) for one in choices] for choices in every] == [
                [(prompt, choice) for choice in range(20)] for prompt in range(2)
            ]
            for prompt, choices in zip(request.prompts, every, strict=True):
                for one in choices:
                    places = Reference().logprobs([*prompt, *one.tokens])[len(prompt) - 1 :]
                    said = [score.logprob for score in one.scores]
                    assert said == pytest.approx([p[t] for p, t in zip(places, one.tokens, strict=False)], abs=1e-4)
            best = await model.generate(
                TextRequest(request.prompts, Sampling(), 8, seed=5, choices=3, best_of=20)
            ).answer()
            for choices, chosen in zip(every, best, strict=True):
                likely = sorted(choices, key=lambda one: -sum(score.logprob for score in one.scores))
                assert [one.text for one in chosen] == [one.text for one in likely[:3]]

    run(main)


def test_the_scores_of_prompts_are_whole_when_their_answers_come(models: Path) -> None:
    prompts = ["abcdefgh", "a", "hello world"]

    async def main() -> None:
        async with replica() as repository:
            await serve(repository, make_text_bundle(models))
            request = TextRequest(
                [encode(one) for one in prompts], Sampling(), 0, seed=0, top_scores=1, scores_prompt=True
            )
            generation = text_model(repository).generate(request, streamed=True)
            told = []
            async for parts in generation.parts():
                for part in parts:
                    scores = generation.prompt_scores(part.prompt)
                    tokens = request.prompts[part.prompt]
                    places = Reference().logprobs(tokens)
                    assert [one.logprob for one in scores] == pytest.approx(
                        [places[place][token] for place, token in enumerate(tokens[1:])], abs=1e-4
                    )
                    told.append((part.prompt, part.finish, part.tokens))
            assert sorted(told) == [(prompt, "length", []) for prompt in range(3)]
            assert generation.timings().runs == len("hello world")

    run(main)


def test_an_idle_model_takes_any_request_that_may_wait_however_long_it_would_take(models: Path) -> None:
    async def main() -> None:
        async with replica(max_batch_rows=2) as repository:
            bundle = make_text_bundle(models)
            placement = placed(bundle)
            slow = type(placement)(
                placement.name, placement.version, placement.path, Tuning({"step": ((1, 30.0), (2, 30.0))})
            )
            assert await repository.prepare([slow]) == [None]
            await repository.commit([slow.key], [])
            model = text_model(repository)
            request = TextRequest([encode("ab")] * 10, Sampling(), 6, seed=0, best_of=2, choices=2)
            answers = await model.generate(request).answer()
            assert len(answers) == 10
            going = model.generate(replace(request, max_tokens=LONG))
            with pytest.raises(Overloaded, match="the predicted wait is"):
                model.generate(asked())
            going.cancel()
            await idle(model)
            with pytest.raises(TooLarge, match=r"at most 100 texts \(INFERD_MAX_QUEUE_ROWS\); this one has 101"):
                model.generate(TextRequest([encode("a")] * 101, Sampling(), 1, seed=0))

    run(main)


def test_a_deadline_fails_the_request_and_frees_its_slot(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            await serve(repository, make_text_bundle(models))
            model = text_model(repository)
            with pytest.raises(DeadlineExceeded):
                await model.generate(asked(), deadline=0.0).answer()
            await idle(model)

    run(main)


# Leaving


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_request_that_is_cancelled_frees_its_slot_even_before_anybody_waited(models: Path, passes: int) -> None:
    async def main() -> None:
        async with replica(max_new_tokens=10**6) as repository:
            await serve(repository, make_text_bundle(models))
            model = text_model(repository)
            prompts = np.array(["hello"] * 3, object)
            future = model.submit({"text_input": prompts}, parameters={"max_tokens": 10**6})
            for _ in range(passes):
                await asyncio.sleep(0)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            await idle(model)

    run(main)


def test_a_stream_that_nobody_reads_on_frees_its_slots(models: Path) -> None:
    async def main() -> None:
        async with replica(max_new_tokens=10**6) as repository:
            await serve(repository, make_text_bundle(models))
            model = text_model(repository)
            parts = model.generate(asked(max_tokens=10**6, best_of=3, choices=3), streamed=True).parts()
            assert await anext(parts)
            assert model._stepper.statistics().live == 3
            await parts.aclose()
            await idle(model)

    run(main)


# Changing


async def read(generation: Generation, first: asyncio.Event | None = None) -> str | InferdError:
    """The whole text of a stream, or what it failed with."""
    text = ""
    try:
        async for (part,) in generation.parts():
            text += part.text
            if first:
                first.set()
    except InferdError as error:
        return error
    return text


def test_streams_end_on_the_version_that_they_began_on(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            await serve(repository, make_text_bundle(models))
            old = text_model(repository)
            first = asyncio.Event()
            with old.measured():
                streams = [asyncio.create_task(read(old.generate(asked(max_tokens=300), streamed=True), first))]
                streams += [asyncio.create_task(read(old.generate(asked(max_tokens=300), streamed=True)))]
                await first.wait()
                await repository.prepare([placed(make_text_bundle(models, version=2, seed=4))])
                await repository.commit([("tiny-text", 2)], [("tiny-text", 1)])
                new = text_model(repository)
                with new.measured():
                    assert await read(new.generate(asked(), streamed=True)) == expected("hello", 20, seed=4)
                texts = await asyncio.gather(*streams)
            assert texts == [expected("hello", 300)] * 2
            while repository._background:  # noqa: ASYNC110 - until the old one is let go
                await asyncio.sleep(0.001)
            with pytest.raises(NotReady):
                old.generate(asked())
            assert 'version="1"' not in repository._metrics.render().decode()

    run(main)


def test_the_same_version_that_was_loaded_anew_goes_on_counting_and_has_its_own_slots(models: Path) -> None:
    bundle = make_text_bundle(models)

    async def main() -> None:
        async with replica() as repository:
            await serve(repository, bundle)
            for runs in (1, 2, 3):
                model = text_model(repository)
                with model.measured():
                    generation = model.generate(asked(max_tokens=2))
                    await text_of(generation)
                    model.count(generation)
                assert repository.statistics()[0].inference_count == runs
                await serve(repository, bundle)
            series = repository._metrics.render().decode()
            assert 'inferd_live_slots{model="tiny-text",version="1"} 0' in series
            assert 'inferd_time_to_first_token_seconds_count{model="tiny-text",version="1"} 3' in series

    run(main)


def test_streams_that_take_too_long_for_a_change_are_told(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with replica(let_go_s=0.05, max_new_tokens=10**9) as repository:
            await serve(repository, make_text_bundle(models))
            old = text_model(repository)
            first = asyncio.Event()
            with old.measured():
                stream = asyncio.create_task(read(old.generate(asked(max_tokens=10**9), streamed=True), first))
                await first.wait()
                await repository.commit([], [("tiny-text", 1)])
                error = await stream
                assert isinstance(error, NotReady)
                assert str(error) == "model 'tiny-text' version 1 serves no longer"
            while repository._background:  # noqa: ASYNC110 - until the old one is let go
                await asyncio.sleep(0.001)
            assert old._stepper.statistics().live == 0
            assert not repository.versions("tiny-text")

    run(main)
    assert any("is let go, with requests unfinished after 0.05 s" in one.getMessage() for one in caplog.records)


def test_closing_waits_for_streams_that_have_begun(models: Path) -> None:
    texts = []

    async def main() -> None:
        async with replica() as repository:
            await serve(repository, make_text_bundle(models))
            model = text_model(repository)
            first = asyncio.Event()
            stream = asyncio.create_task(read(model.generate(asked(max_tokens=200), streamed=True), first))
            await first.wait()
        texts.append(await stream)

    run(main)
    assert texts == [expected("hello", 200)]


# Counting


def test_requests_texts_runs_and_tokens_add_up(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            await serve(repository, make_text_bundle(models))
            model = text_model(repository)
            for prompts, length in ((["abc"], 4), (["a", "bc"], 3)):
                with model.measured():
                    array = np.array(prompts, object)
                    model.observe(await model.submit({"text_input": array}, parameters={"max_tokens": length}))
            with model.measured():
                generation = model.generate(asked("hello", 5, best_of=2, choices=2))
                await generation.answer()
                timings = model.count(generation)
            with pytest.raises(BadInput), model.measured():
                model.submit({"text_input": np.array(["Q"], object)})
            (counted,) = repository.statistics()
            runs = (3 + 4 - 1) + (2 + 3 - 1) + (5 + 5 - 1)
            async with asyncio.timeout(20):
                while counted.execution_count < runs:  # noqa: ASYNC110 - a thread tells of the last ones a bit later
                    await asyncio.sleep(0.001)
            assert (counted.success.count, counted.fail.count) == (3, 1)
            assert counted.inference_count == 1 + 2 + 2
            assert counted.queue.count == counted.compute_infer.count == 3
            assert counted.execution_count == runs
            assert sum(one.compute_infer.count for one in counted.batches.values()) == counted.execution_count
            rows = sum(size * one.compute_infer.count for size, one in counted.batches.items())
            assert rows == 6 + (3 + 4) + (5 + 4 * 2)
            assert counted.compute_infer.ns <= counted.success.ns
            assert (timings.runs, timings.rows) == (9, pytest.approx((5 + 4 * 2) / 9))
            series = repository._metrics.render().decode()
            tokens = 4 + 6 + 10
            assert f'inferd_generated_tokens_total{{model="tiny-text",version="1"}} {tokens}' in series
            assert 'inferd_time_to_first_token_seconds_count{model="tiny-text",version="1"} 3' in series
            assert 'inferd_inter_token_seconds_count{model="tiny-text",version="1"} 19' in series
            assert 'inferd_request_failures_total{model="tiny-text",reason="invalid",version="1"} 1' in series

    run(main)


def test_a_model_of_pictures_beside_it_is_none_of_its_business(models: Path) -> None:
    async def main() -> None:
        async with replica() as repository:
            await serve(repository, make_text_bundle(models), make_bundle(models))
            assert 'inferd_live_slots{model="tiny"' not in repository._metrics.render().decode()
            await repository.commit([], [("tiny-text", 1), ("tiny", 1)])
            while repository._background:  # noqa: ASYNC110 - until both are let go
                await asyncio.sleep(0.001)
            assert 'model="tiny' not in repository._metrics.render().decode()

    run(main)


# Without a stepper


def test_a_text_that_is_made_with_no_stepper_ends_where_the_graph_has_no_numbers() -> None:
    model = StepModel()
    model.diverges_at = 7
    slots = sampled_slots(model, capacity=1)
    request = TextRequest([[1, 7]], Sampling(temperature=0), 5, seed=0)
    with pytest.raises(RuntimeFailure, match="numbers that are not finite"):
        list(grow_alone(request, slots, "abcdefghijk"))
