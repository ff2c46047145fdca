"""The process that runs graphs alone, without its process."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.bench.bare import Loop, answer, loop_of, run
from service.bench.lines import Done, Order, Ready, Task
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.bundles import HEIGHT, WIDTH, edit, entangled_graph, lengths_graph, lookup_graph, make_bare, make_bundle
from tests.image_bundles import LATENT, make_image_bundle
from tests.text_bundles import HIDDEN, make_text_bundle
from tests.translation_bundles import make_translation_bundle

SETTINGS = Settings(device="cpu", threads=1, workers=1)


def folder_of(path: Path) -> BundleFolder:
    return BundleFolder(path.parent.name, int(path.name), path)


def loaded(path: Path) -> Bundle:
    return load_bundle(folder_of(path), LoadOptions.of(SETTINGS))


def told(path: Path, *tasks: Task) -> tuple[Ready, list[Done]]:
    """What is answered to an order and to tasks."""
    order = Order(SETTINGS.to_json().decode(), path.parent.name, int(path.name), str(path))
    given = io.BytesIO(b"".join(msgspec.json.encode(one) + b"\n" for one in (order, *tasks)))
    taken = io.BytesIO()
    answer(given, taken)
    ready, *done = taken.getvalue().splitlines()
    return msgspec.json.decode(ready, type=Ready), [msgspec.json.decode(one, type=Done) for one in done]


class Counted:
    """A session that counts its runs, and the rows of each."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run
        self.rows: list[int] = []

    def __call__(self, inputs: dict[str, np.ndarray]) -> Any:
        self.rows.append(len(next(iter(inputs.values()))))
        return self._run(inputs)


def counted(bundle: Bundle, role: str) -> Counted:
    session = bundle.sessions[role]
    session.run = Counted(session.run)  # type: ignore[method-assign]
    return session.run


def test_what_is_run_is_run_for_at_least_so_long_after_a_warm_up() -> None:
    now, runs = 0.0, 0

    def once() -> None:
        nonlocal now, runs
        now += 0.25
        runs += 1

    assert run(Loop(once, 8), 1.1, lambda: now) == Done(runs=5, seconds=1.25, units=40)
    assert runs == 8
    assert run(Loop(once, 8), 0, lambda: now) == Done(runs=1, seconds=0.25, units=8)


def test_a_stateless_model_is_run_with_as_many_rows_as_are_asked_for(models: Path) -> None:
    bundle = loaded(make_bundle(models))
    runs = counted(bundle, "model")
    loop = loop_of(bundle, Task(rows=7, seconds=0))
    loop.once()
    assert (runs.rows, loop.units) == ([7], 7)


def test_a_model_without_a_batch_is_run_alone(models: Path) -> None:
    bundle = loaded(make_bare(models, graph=entangled_graph()))
    runs = counted(bundle, "model")
    loop = loop_of(bundle, Task(rows=7, seconds=0))
    loop.once()
    assert loop.units == 1
    assert len(runs.rows) == 1


def test_a_model_of_texts_is_run_a_step_at_a_time_with_what_it_answered_before(models: Path) -> None:
    bundle = loaded(make_text_bundle(models))
    seen: list[np.ndarray] = []
    session = bundle.sessions["step"]
    ask = session.run

    def watched(inputs: dict[str, np.ndarray]) -> Any:
        outputs = ask(inputs)
        seen.extend([inputs["state"], outputs["next_state"]])
        return outputs

    session.run = watched  # type: ignore[method-assign]
    loop = loop_of(bundle, Task(rows=5, seconds=0))
    loop.once()
    loop.once()
    assert loop.units == 5
    assert seen[0].shape == (5, HIDDEN)
    assert not seen[0].any()
    assert seen[2] is seen[1]
    assert seen[1].any()


@pytest.mark.parametrize(("parameters", "beams"), [({}, 5), ({"num_beams": 2}, 2)])
def test_a_translator_reads_and_then_writes_as_many_steps_as_translations_have_on_average(
    models: Path, parameters: dict[str, Any], beams: int
) -> None:
    bundle = loaded(make_translation_bundle(models))
    texts = ["cat\ncat", "two cat"]  # three sentences
    loop = loop_of(bundle, Task(4, 0, texts, parameters))
    found = bundle.translate(texts, parameters)
    assert len(found) == 2
    encoder, decoder = counted(bundle, "encoder"), counted(bundle, "decoder")
    times = 30
    for _ in range(times):
        loop.once()
    assert encoder.rows == [4] * times
    assert set(decoder.rows) == {4 * beams}
    assert loop.units == pytest.approx(4 * 2 / 3)
    steps = len(decoder.rows) / times
    lengths = mean_steps(models, texts, parameters)
    assert steps == pytest.approx(lengths, abs=1 / times + 1e-9)


def mean_steps(models: Path, texts: Sequence[str], parameters: dict[str, Any]) -> float:
    """How many steps the search of each sentence alone takes, on average."""
    bundle = loaded(models / "tiny-en-de" / "1")
    request, _ = bundle.task.parse(texts, parameters)
    lengths = []
    for source in request.sources:
        (translated,) = bundle.translate(source.text, {**parameters, "return_alignment": True})
        (alignment,) = translated.alignment
        lengths.append(len(alignment["target"]))  # the end among them
    return sum(lengths) / len(lengths)


def test_a_process_says_what_it_has_loaded_and_answers_each_line(models: Path) -> None:
    path = make_bundle(models)
    ready, done = told(path, Task(8, 0.01), Task(1, 0.0), Task(8, 0.0))
    assert ready == Ready(variant="fp32", batched=True, shapes={"image": [1, HEIGHT, WIDTH]})
    assert [one.units for one in done[1:]] == [1, 8]
    assert done[0].units == 8 * done[0].runs
    assert done[0].seconds >= 0.01


def test_sizes_that_were_found_for_axes_of_any_size_are_told(models: Path) -> None:
    assert told(make_bare(models, graph=lengths_graph()))[0].shapes == {"x": [8]}
    assert told(make_bare(models, "alone", graph=entangled_graph()))[0] == Ready(
        variant="original", batched=False, shapes={"x": [3, 3]}
    )


def test_of_a_painter_the_generator_is_run(models: Path) -> None:
    ready, (done,) = told(make_image_bundle(models), Task(4, 0))
    assert ready.shapes == {"latent": [LATENT], "condition": [3]}
    assert done.units == 4


def test_a_model_that_is_refused_or_runs_on_nothing_that_was_made_up_says_so_and_is_asked_nothing(models: Path) -> None:
    refused = make_bundle(models)
    edit(refused, "surprise", to=1)
    ready, done = told(refused, Task(1, 0))
    assert "Extra inputs are not permitted" in ready.error
    assert done == []
    ready, done = told(make_bare(models, "picky", graph=lookup_graph(low=9)), Task(1, 0))
    assert ready.error == "it runs on no inputs that could be made up for it"
    assert done == []
