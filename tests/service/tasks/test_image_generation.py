from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInput, BundleRefused, RuntimeFailure, TooLarge
from service.latents import LARGEST_SEED, between, latents_of, total
from service.manifest import Manifest, read_manifest
from service.tasks import TASKS
from service.tasks.base import TaskLimits
from service.tasks.image_generation import FACTORS, ImageGeneration
from service.tasks.image_parameters import LARGEST_NUMBER, MOST_IMAGES, Parameters
from service.tasks.image_requests import Drawings, ImageRequest, Reading, Sketch
from tests.bundles import HEIGHT, LABELS, WIDTH, make_bundle, sign, with_edit
from tests.image_bundles import (
    BUCKETS,
    LATENT,
    THRESHOLD,
    drawn,
    make_image_bundle,
    meant_by,
    numbers_of,
    one_hot,
)
from tests.text_bundles import make_text_bundle

LIMITS = TaskLimits(max_pixels=64 * 16 * 16 * WIDTH * HEIGHT, max_text_characters=200)
GENERATOR = ("variants", "fp32", "graphs", "generator")
TEXT = ("variants", "fp32", "graphs", "text")
NAN = float("nan")


def task_of(bundle: Path, limits: TaskLimits = LIMITS) -> ImageGeneration:
    return ImageGeneration(bundle, read_manifest(bundle), limits)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def task(bundle: Path) -> ImageGeneration:
    return task_of(bundle)


@pytest.fixture(scope="module")
def by_label(tmp_path_factory: pytest.TempPathFactory) -> ImageGeneration:
    """Give the task of a model that has classes and reads no texts."""
    return task_of(make_image_bundle(tmp_path_factory.mktemp("models"), texts=False))


@pytest.fixture(scope="module")
def of_anything(tmp_path_factory: pytest.TempPathFactory) -> ImageGeneration:
    """Give the task of a model that has no classes."""
    return task_of(make_image_bundle(tmp_path_factory.mktemp("models"), classes=False))


def sketched(task: ImageGeneration, inputs: object = "", **parameters: object) -> Sketch:
    """What the pictures of a request are drawn from, its texts read without a graph."""
    return sketch(task, task.parse(inputs, parameters))


def sketch(task: ImageGeneration, request: ImageRequest) -> Sketch:
    readings = {}
    for text in request.texts:
        label, meant = meant_by(text)
        readings[text] = Reading(LABELS.index(label), meant)
    return task.sketch(request, readings)


def painted(task: ImageGeneration, inputs: object = "", **parameters: object) -> Drawings:
    """The answer to a request, drawn without a graph."""
    request = task.parse(inputs, parameters)
    made = sketch(task, request)
    arrays = task.inputs(made)
    return task.finish(request, made, {"image": drawn(arrays["latent"], arrays.get("condition"))})


def refusal(task: ImageGeneration, inputs: object = "dark", **parameters: object) -> str:
    with pytest.raises(BadInput) as caught:
        sketched(task, inputs, **parameters)
    return str(caught.value)


def test_the_table_of_tasks_has_both_by_their_names_on_the_hub() -> None:
    assert TASKS["text-to-image"] is TASKS["unconditional-image-generation"] is ImageGeneration


def test_a_task_knows_what_its_manifest_says(
    task: ImageGeneration, by_label: ImageGeneration, of_anything: ImageGeneration
) -> None:
    assert task.graphs == ("text", "generator")
    assert by_label.graphs == of_anything.graphs == ("generator",)
    assert task.labels == by_label.labels == LABELS
    assert of_anything.labels == ()
    assert (task.latent_size, task.slots_a_row) == (LATENT, 1)
    assert task.sizes == ((6, 4), (12, 8), (24, 16), (48, 32), (96, 64))


# What is drawn


def test_a_text_is_taken_for_its_likeliest_class_alone(task: ImageGeneration) -> None:
    for text, label in (("a dark night", "dark"), ("as BRIGHT as day!", "bright"), ("brihgt", "bright")):
        made = sketched(task, text)
        assert np.array_equal(made.conditions, one_hot(label))
        assert made.scores == pytest.approx([meant_by(text)[1]])


def test_a_text_is_read_as_its_ngrams(task: ImageGeneration) -> None:
    (name, tokens), *others = task.encode("a dark night").items()
    assert (name, others) == ("tokens", [])
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [numbers_of("a dark night")]
    assert tokens.max() < BUCKETS


def test_what_is_read_is_the_likeliest_class_and_how_sure_it_is(task: ImageGeneration) -> None:
    found = task.read({"conditions": np.array([[0.1, 0.7, 0.2]]), "meant": np.array([0.625], np.float32)})
    assert found == Reading(1, 0.625)


@pytest.mark.parametrize(("conditions", "meant"), [([0.5, NAN, 0.5], 1.0), ([0.5, 0.5, 0.0], NAN)])
def test_a_text_encoder_that_answers_with_no_numbers_is_at_fault(
    task: ImageGeneration, conditions: list[float], meant: float
) -> None:
    with pytest.raises(RuntimeFailure, match="not finite"):
        task.read({"conditions": np.array([conditions]), "meant": np.array([meant])})


def test_a_label_is_known_by_its_name_in_any_case(task: ImageGeneration, by_label: ImageGeneration) -> None:
    for one in (task, by_label):
        made = sketched(one, label="BriGHT")
        assert np.array_equal(made.conditions, one_hot("bright"))
        assert made.scores is None


def test_a_model_without_classes_draws_from_latents_alone(of_anything: ImageGeneration) -> None:
    for inputs in (None, "", "  \n"):
        made = sketched(of_anything, inputs, seed=3)
        assert made.conditions is None
        assert made.scores is None
        assert list(of_anything.inputs(made)) == ["latent"]


def test_inputs_may_be_the_bytes_of_a_text(task: ImageGeneration) -> None:
    assert sketched(task, "dark — night".encode(), seed=1).scores == sketched(task, "dark — night", seed=1).scores
    assert "the text is no UTF-8" in refusal(task, b"\xff\xfe")


@pytest.mark.parametrize("text", ["an elephant", "?!", "\ud800", "x" * 200])
def test_a_text_that_means_no_class_is_refused_with_those_there_are(task: ImageGeneration, text: str) -> None:
    sure = meant_by(text)[1]
    assert sure < THRESHOLD
    said = refusal(task, text)
    assert said.startswith(f"the text {text[:60]!r} means nothing that can be drawn (by {sure:.2f}, and 0.50 is needed")
    assert said.endswith("what can be drawn: dark, bright, left")
    said.encode()
    nearest = sketched(task, text, strict=False)
    assert np.array_equal(nearest.conditions, one_hot(meant_by(text)[0]))
    assert nearest.scores == pytest.approx([sure])


def test_what_means_a_class_just_as_surely_as_needed_is_drawn(task: ImageGeneration) -> None:
    request = task.parse("whatever", {})
    task.sketch(request, {"whatever": Reading(0, THRESHOLD)})
    with pytest.raises(BadInput, match="means nothing that can be drawn") as caught:
        task.sketch(request, {"whatever": Reading(0, np.nextafter(THRESHOLD, 0))})
    assert caught.value.parameter == "inputs"


@pytest.mark.parametrize("inputs", [None, "", " \t\n"])
def test_something_must_say_what_to_draw(task: ImageGeneration, by_label: ImageGeneration, inputs: object) -> None:
    for strict in (True, False):
        assert refusal(task, inputs, strict=strict) == (
            "nothing says what to draw; give a text or one of the labels: dark, bright, left"
        )
    assert refusal(by_label, inputs) == "nothing says what to draw; give a label: dark, bright, left"


@pytest.mark.parametrize("inputs", [3, ["dark"], {"text": "dark"}, True])
def test_what_is_no_text_is_refused(task: ImageGeneration, inputs: object) -> None:
    assert refusal(task, inputs) == "inputs must be a text"


def test_what_the_model_can_not_be_told_is_refused(by_label: ImageGeneration, of_anything: ImageGeneration) -> None:
    assert refusal(by_label, "dark") == "this model reads no texts; give a label: dark, bright, left"
    for inputs, parameters in (("dark", {}), ("", {"label": "dark"})):
        assert "it knows no classes, and reads no texts" in refusal(of_anything, inputs, **parameters)


def test_labels_that_are_not_there_are_refused_with_those_that_are(task: ImageGeneration) -> None:
    assert refusal(task, "", label="boot") == "there is no label 'boot'; labels: dark, bright, left"
    assert refusal(task, "", label="").startswith("there is no label ''; labels: ")
    assert len(refusal(task, "", label="x" * 200)) < 150
    assert refusal(task, "dark", label="dark") == "inputs and label say the same; give one"


def test_no_more_labels_are_told_than_a_message_has_room_for(models: Path) -> None:
    folder = make_image_bundle(models, texts=False)
    labels = [f"class {number}" for number in range(102)]
    (folder / "labels.json").write_text(json.dumps(labels))
    sign(folder)
    content = read_manifest(folder).model_dump(mode="json")
    content = with_edit(content, *GENERATOR, "inputs", 1, "shape", to=["batch", 102])
    many = ImageGeneration(folder, Manifest.model_validate(content), LIMITS)
    assert refusal(many, "", label="none").endswith("class 98, class 99 and 2 more")


def test_a_longer_text_than_allowed_is_too_large(task: ImageGeneration) -> None:
    sketched(task, "dark".ljust(200, "x"))
    for inputs, parameters in (
        ("dark".ljust(201), {}),
        (" " * 201, {"label": "dark"}),
        ("", {"label": "x" * 201}),
        ("", {"interpolate": {"to": {"inputs": "x" * 201}, "steps": 2}}),
        ("", {"arithmetic": [{"label": "x" * 201}, {}]}),
    ):
        with pytest.raises(TooLarge, match=r"at most 200 characters \(INFERD_MAX_TEXT_CHARACTERS\); this one has 201"):
            task.parse(inputs or "dark", parameters)


# Seeds and latents


@pytest.mark.parametrize("count", [1, 3, MOST_IMAGES])
def test_a_seed_says_which_latents(task: ImageGeneration, count: int) -> None:
    request = task.parse("dark", {"seed": 5, "num_images": count})
    made = sketch(task, request)
    assert (request.count, request.seed) == (count, 5)
    assert np.array_equal(made.latents, latents_of(5, count, LATENT))
    assert np.array_equal(made.conditions, one_hot("dark").repeat(count, 0))


@pytest.mark.parametrize("seed", [0, LARGEST_SEED, "7"])
def test_any_seed_of_63_bits_is_taken(task: ImageGeneration, seed: Any) -> None:
    assert task.parse("dark", {"seed": seed}).seed == int(seed)


def test_without_a_seed_there_is_a_new_one_which_is_told(task: ImageGeneration) -> None:
    seeds = [task.parse("dark", {}).seed for _ in range(20)]
    assert len(set(seeds)) == 20
    for seed in seeds:
        assert seed is not None
        assert 0 <= seed < 2**53
    again = task.parse("dark", {"seed": None})
    assert np.array_equal(sketch(task, again).latents, latents_of(again.seed or 0, 1, LATENT))


def test_latents_may_be_given_in_place_of_a_seed(task: ImageGeneration) -> None:
    several = latents_of(8, 3, LATENT).tolist()
    one = painted(task, "dark", latent=several[0])
    assert one.seed is None
    assert one.latents.tolist() == several[:1]
    assert painted(task, "dark", latent=several).latents.tolist() == several
    assert painted(task, "dark", latent=several, num_images=3).latents.tolist() == several
    for same in (several[0], several[:1]):
        assert painted(task, "dark", latent=same, num_images=2).latents.tolist() == several[:1] * 2
    whole = [0, 1, -10, 10, 2, 3, 4, 5]
    assert sketched(task, "dark", latent=whole).latents.tolist() == [whole]


@pytest.mark.parametrize(
    ("latent", "problem"),
    [
        ([1.0] * 7, "it has 7"),
        ([1.0] * 9, "it has 9"),
        ([], "it has 0"),
        ([[]], "list 0 has 0"),
        ([1.0] * 7 + [NAN], "it has nan"),
        ([float("inf")] * 8, "it has inf"),
        ([-float("inf")] * 8, "it has -inf"),
        ([0.0] * 7 + [1e9], "it has 1e+09"),
        ([0.0] * 7 + [-10.001], "it has -10.001"),
        ([0] * 7 + [11], "it has 11"),
        ([10**400] * 8, "it has a number of many digits"),
        ([True] * 8, "it has true or false"),
        (["1"] * 8, "it has a text"),
        ([None] * 8, "it has null"),
        ([{}] * 8, "it has an object"),
        ([b"1"] * 8, "it has something else"),
        ([0.0] * 7 + [[0.0]], "it has a list"),
        ([[0.0] * 8, [0.0] * 7], "list 1 has 7"),
        ([[0.0] * 8, 1.0], "list 1 is 1"),
        ([[0.0] * 8, [0.0] * 7 + [NAN]], "list 1 has nan"),
        ([[[0.0]] * 8], "list 0 has a list"),
        ([[0.0] * 8] * 65, "there are 65"),
        ("0,0,0,0,0,0,0,0", "it is a text"),
        (1.5, "it is 1.5"),
        ({"0": 1}, "it is an object"),
        (False, "it is true or false"),
    ],
)
def test_latents_that_are_none_are_refused_with_what_is_wanted(
    task: ImageGeneration, latent: object, problem: str
) -> None:
    wanted = "latent must be a list of 8 numbers from -10 to 10, or a list of 1 to 64 such lists"
    assert refusal(task, latent=latent) == f"{wanted}; {problem}"


def test_latents_go_with_no_seed_and_as_many_images(task: ImageGeneration) -> None:
    latent = [0.0] * LATENT
    assert refusal(task, latent=latent, seed=1) == "latent and seed can't be asked for together"
    assert "as many as there are latents, 3, or be left out; it is 2" in refusal(
        task, latent=[latent] * 3, num_images=2
    )


@given(
    st.lists(
        st.one_of(
            st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3), st.lists(st.floats(), max_size=3)
        ),
        max_size=10,
    )
)
def test_whatever_comes_as_a_latent_is_taken_as_it_is_or_refused(task: ImageGeneration, latent: list[Any]) -> None:
    numbers = [one for one in latent if type(one) in (int, float) and abs(one) <= LARGEST_NUMBER]
    if len(numbers) == len(latent) == LATENT:
        assert sketched(task, "dark", latent=latent).latents.tolist() == [np.array(latent, np.float32).tolist()]
    else:
        assert refusal(task, latent=latent).startswith("latent must be a list of 8 numbers")


def test_truncation_is_what_seeds_are_multiplied_by_and_latents_only_if_it_is_said(models: Path) -> None:
    task = task_of(make_image_bundle(models, truncation=0.5))
    of_seed = latents_of(3, 2, LATENT)
    assert np.array_equal(sketched(task, "dark", seed=3, num_images=2).latents, of_seed * np.float32(0.5))
    assert np.array_equal(sketched(task, "dark", seed=3, num_images=2, truncation=1).latents, of_seed)
    assert np.array_equal(sketched(task, "dark", latent=of_seed.tolist()).latents, of_seed)
    assert np.array_equal(
        sketched(task, "dark", latent=of_seed.tolist(), truncation=0.7).latents, of_seed * np.float32(0.7)
    )
    # Each end of a way has its own.
    (start, end) = of_seed
    way = sketched(task, "dark", seed=3, interpolate={"to": {"latent": end.tolist()}, "steps": 3}).latents
    assert np.array_equal(way, between(start * np.float32(0.5), end, 3))


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        ("dark", {"seed": 3, "num_images": 4}),
        ("dark", {"seed": 3, "interpolate": {"to": {"label": "left", "seed": 4}, "steps": 5}}),
        ("dark", {"num_images": 2, "arithmetic": [{"seed": 1}, {"seed": 2, "weight": -1.5}, {"seed": 3}]}),
        ("dark", {"latent": [10.0] * 4 + [-10.0] * 4, "arithmetic": [{}, {"latent": [10.0] * 8}]}),
    ],
)
def test_what_is_told_draws_the_same_again(task: ImageGeneration, inputs: str, parameters: dict[str, Any]) -> None:
    first = painted(task, inputs, truncation=0.75, **parameters)
    told = json.loads(json.dumps(first.latents.tolist()))
    assert np.abs(first.latents).max() <= LARGEST_NUMBER
    made = sketched(task, inputs, latent=told)
    assert np.array_equal(made.latents, first.latents)
    assert np.array_equal(drawn(made.latents, first.conditions), first.pixels)


# Between and sums


def test_between_a_text_and_another_there_are_pictures_of_both(task: ImageGeneration) -> None:
    request = task.parse("dark night", {"seed": 3, "interpolate": {"to": {"inputs": "bright"}, "steps": 5}})
    made = sketch(task, request)
    assert request.count == 5
    assert np.array_equal(made.latents, latents_of(3, 1, LATENT).repeat(5, 0)), "what is not said is the start's"
    assert made.conditions is not None
    assert made.conditions.tolist() == [[1, 0, 0], [0.75, 0.25, 0], [0.5, 0.5, 0], [0.25, 0.75, 0], [0, 1, 0]]
    sure = [meant_by(text)[1] for text in ("dark night", "bright")]
    assert made.scores == pytest.approx([sure[0], min(sure), min(sure), min(sure), sure[1]])


def test_between_two_latents_the_way_is_along_the_sphere(task: ImageGeneration, of_anything: ImageGeneration) -> None:
    start, end = (latents_of(seed, 1, LATENT)[0] for seed in (3, 4))
    for one, inputs in ((task, "dark"), (of_anything, "")):
        for to in ({"seed": 4}, {"latent": end.tolist()}):
            made = sketched(one, inputs, seed=3, interpolate={"to": to, "steps": MOST_IMAGES})
            assert np.array_equal(made.latents, between(start, end, MOST_IMAGES))
    assert made.conditions is None
    given = sketched(task, "dark", latent=start.tolist(), interpolate={"to": {"seed": 4}, "steps": 2})
    assert np.array_equal(given.latents, np.stack([start, end]))


def test_a_way_tells_the_seed_that_it_begins_with(task: ImageGeneration) -> None:
    way = {"to": {"seed": 4}, "steps": 3}
    assert task.parse("dark", {"seed": 3, "interpolate": way}).seed == 3
    request = task.parse("dark", {"interpolate": way})
    assert np.array_equal(sketch(task, request).latents[0], latents_of(request.seed or 0, 1, LATENT)[0])
    assert task.parse("dark", {"latent": [0.0] * LATENT, "interpolate": way}).seed is None


def test_a_text_less_a_label_plus_another_is_a_sum_of_classes(task: ImageGeneration) -> None:
    terms = [{}, {"label": "left", "weight": -0.5}, {"inputs": "white", "weight": 2}]
    made = sketched(task, "dark", seed=3, num_images=2, arithmetic=terms)
    assert made.conditions is not None
    assert made.conditions.tolist() == [[1, 2, -0.5]] * 2
    assert made.scores == pytest.approx([min(meant_by(text)[1] for text in ("dark", "white"))] * 2)


def test_the_sum_of_latents_is_one_for_each_picture(task: ImageGeneration, of_anything: ImageGeneration) -> None:
    terms = [{"seed": 1}, {"seed": 2, "weight": -1}, {"latent": [0.5] * LATENT}, {}]
    weights = [1, -1, 1, 1]
    for one, inputs in ((task, "dark"), (of_anything, None)):
        request = one.parse(inputs, {"seed": 9, "num_images": 3, "arithmetic": terms})
        made = sketch(one, request)
        assert request.seed == 9
        for number in range(3):
            several = [latents_of(seed, 3, LATENT)[number] for seed in (1, 2, 9)]
            several.insert(2, np.full(LATENT, 0.5, np.float32))
            assert np.array_equal(made.latents[number], total(np.stack(several), weights))
    alone = sketched(task, "dark", seed=9, arithmetic=terms)
    assert np.array_equal(alone.latents[0], sketched(task, "dark", seed=9, num_images=3, arithmetic=terms).latents[0])


def test_a_less_b_plus_b_is_a(task: ImageGeneration) -> None:
    b = {"seed": 2, "label": "left"}
    summed = painted(task, "", arithmetic=[{"seed": 1, "label": "dark"}, {**b, "weight": -1}, b], num_images=4)
    plain = painted(task, label="dark", seed=1, num_images=4)
    assert np.array_equal(summed.pixels, plain.pixels)
    assert summed.conditions is not None
    assert task.class_of(summed.conditions[0]) == "dark"


def test_a_sum_of_given_latents_has_as_many_pictures_as_there_are(task: ImageGeneration) -> None:
    several = latents_of(4, 3, LATENT).tolist()
    made = sketched(task, "dark", latent=several, arithmetic=[{}, {"seed": 1, "weight": 0}])
    assert np.array_equal(made.latents, np.array(several, np.float32))


def test_a_seed_that_no_term_needs_is_told_only_if_it_was_asked_for(task: ImageGeneration) -> None:
    terms = [{"seed": 1}, {"seed": 2}]
    assert task.parse("dark", {"arithmetic": terms}).seed is None
    assert task.parse("dark", {"arithmetic": terms, "seed": 5}).seed == 5


def test_each_text_is_read_once(task: ImageGeneration) -> None:
    terms = [{}, {"inputs": "dark"}, {"inputs": "day"}, {"label": "left"}, {"inputs": "day"}]
    assert task.parse("dark", {"arithmetic": terms}).texts == ("dark", "day")


def test_a_text_that_no_picture_is_drawn_from_is_not_read(task: ImageGeneration) -> None:
    terms = [{"label": "dark"}, {"label": "left"}]
    assert sketched(task, "an elephant", arithmetic=terms).conditions is not None


@pytest.mark.parametrize(
    ("inputs", "parameters", "said"),
    [
        ("", {"interpolate": {"to": {"label": "dark"}, "steps": 3}}, "nothing says what to draw"),
        ("", {"arithmetic": [{"label": "dark"}, {"seed": 1}]}, "nothing says what to draw"),
        (
            "dark",
            {"interpolate": {"to": {"inputs": "an elephant"}, "steps": 3}},
            "the text 'an elephant' means nothing",
        ),
        ("dark", {"interpolate": {"to": {"label": "x"}, "steps": 3}}, "there is no label 'x'"),
        (
            "dark",
            {"interpolate": {"to": {"label": "left", "inputs": "left"}, "steps": 3}},
            "interpolate.to.inputs and ",
        ),
        ("dark", {"interpolate": {"to": {"seed": 1, "latent": [0] * 8}, "steps": 3}}, "interpolate.to.latent and "),
        ("dark", {"interpolate": {"to": {"latent": [0] * 7}, "steps": 3}}, "interpolate.to.latent must be a list of 8"),
        ("dark", {"interpolate": {"to": {"latent": [[0] * 8]}, "steps": 3}}, "it is a list of lists"),
        ("dark", {"interpolate": {"to": {}, "steps": 3}, "num_images": 3}, "interpolate and num_images can't be"),
        (
            "dark",
            {"interpolate": {"to": {}, "steps": 3}, "arithmetic": [{}, {}]},
            "interpolate and arithmetic can't be",
        ),
        (
            "dark",
            {"interpolate": {"to": {}, "steps": 3}, "latent": [[0] * 8] * 2},
            "a way begins at one latent, not at 2",
        ),
        ("dark", {"arithmetic": [{"latent": [0] * 8, "seed": 1}, {}]}, "arithmetic.0.latent and arithmetic.0.seed say"),
        (
            "dark",
            {"arithmetic": [{}, {"latent": [1e9] * 8}]},
            "arithmetic.1.latent must be a list of 8 numbers from -10",
        ),
        (
            "dark",
            {"arithmetic": [{}, {"label": "left", "inputs": "left"}]},
            "arithmetic.1.inputs and arithmetic.1.label",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    task: ImageGeneration, inputs: str, parameters: dict[str, Any], said: str
) -> None:
    assert said in refusal(task, inputs, **parameters)


# Numbers and sizes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", 0),
        ("num_images", -1),
        ("num_images", MOST_IMAGES + 1),
        ("num_images", 10**6),
        ("num_images", 1.5),
        ("seed", -1),
        ("seed", LARGEST_SEED + 1),
        ("seed", "x"),
        ("label", 3),
        ("truncation", 0),
        ("truncation", 1.01),
        ("truncation", NAN),
        ("strict", "perhaps"),
        ("interpolate", 3),
        ("interpolate", {"steps": 3}),
        ("interpolate.to", {"to": "dark", "steps": 3}),
        ("interpolate.to.seed", {"to": {"seed": -1}, "steps": 3}),
        ("interpolate.to.inputs", {"to": {"inputs": 3}, "steps": 3}),
        ("interpolate.steps", {"to": {}, "steps": 1}),
        ("interpolate.steps", {"to": {}, "steps": MOST_IMAGES + 1}),
        ("interpolate.steps", {"to": {}}),
        ("interpolate.weight", {"to": {}, "steps": 3, "weight": 1}),
        ("arithmetic", []),
        ("arithmetic", [{}]),
        ("arithmetic", [{}] * 9),
        ("arithmetic", [3] * 9),
        ("arithmetic", {}),
        ("arithmetic.0", ["dark", "left"]),
        ("arithmetic.1.weight", [{}, {"weight": 10.5}]),
        ("arithmetic.1.weight", [{}, {"weight": NAN}]),
        ("arithmetic.0.wieght", [{"wieght": 1}, {}]),
        ("arithmetic.0", [{f"name_{number}": 1 for number in range(101)}, {}]),
        ("width", "wide"),
        ("height", 1.5),
        ("guidance", 7.5),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_name_with_those_there_are(
    task: ImageGeneration, name: str, value: object
) -> None:
    with pytest.raises(BadInput) as caught:
        task.parse("dark", {name.partition(".")[0]: value})
    assert str(caught.value).startswith(f"parameter '{name}")
    allowed = f"(allowed: {', '.join(Parameters.model_fields)})"
    inside = [part for part in str(caught.value.parameter).split(".")[1:] if not part.isdigit()]
    assert str(caught.value).endswith(allowed) == (not inside)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"interpolate": 3}, "parameter 'interpolate': Input should be an object (allowed: label,"),
        ({"interpolate": {"to": [1], "steps": 2}}, "parameter 'interpolate.to': Input should be an object"),
        ({"arithmetic": "a - b"}, "parameter 'arithmetic': Input should be a list (allowed: label,"),
        ({"arithmetic": [{}]}, "parameter 'arithmetic': a sum has 2 to 8 terms, not 1 (allowed: label,"),
        ({"arithmetic": [{"wieght": 1}, {}]}, "parameter 'arithmetic.0.wieght': Extra inputs are not permitted"),
    ],
)
def test_callers_are_told_in_the_words_of_json(task: ImageGeneration, parameters: dict[str, Any], said: str) -> None:
    told = refusal(task, "dark", **parameters)
    assert told == said if "(" not in said else told.startswith(said)


def test_null_is_what_is_not_said(task: ImageGeneration) -> None:
    said = dict.fromkeys(Parameters.model_fields) | {"seed": 3}
    assert task.parse("dark", said) == task.parse("dark", {"seed": 3})
    term = {"label": None, "inputs": None, "latent": None, "seed": 4, "weight": None}
    assert task.parse("dark", {"seed": 3, "arithmetic": [term, {}]}) == task.parse(
        "dark", {"seed": 3, "arithmetic": [{"seed": 4}, {}]}
    )


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("sides", [("width",), ("height",), ("width", "height")])
def test_a_picture_is_as_large_as_asked_for(task: ImageGeneration, factor: int, sides: tuple[str, ...]) -> None:
    native = {"width": WIDTH, "height": HEIGHT}
    large = painted(task, "dark", seed=3, num_images=2, **{side: native[side] * factor for side in sides}).pixels
    assert large.shape == (2, HEIGHT * factor, WIDTH * factor, 1)
    assert np.array_equal(large[:, ::factor, ::factor], painted(task, "dark", seed=3, num_images=2).pixels)


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"width": 7}, "7x?"),
        ({"height": 0}, "?x0"),
        ({"width": -6}, "-6x?"),
        ({"width": 12, "height": 4}, "12x4"),
        ({"width": 18, "height": 12}, "18x12"),
        ({"width": 192, "height": 128}, "192x128"),
        ({"width": 10**30}, "a number of many digitsx?"),
    ],
)
def test_other_sizes_are_refused_with_those_that_are_offered(
    task: ImageGeneration, parameters: dict[str, Any], wanted: str
) -> None:
    assert refusal(task, **parameters) == (
        f"pictures of {wanted} are not offered; sizes, as width x height: 6x4, 12x8, 24x16, 48x32, 96x64"
    )


def test_a_request_has_so_many_pixels_and_no_more(bundle: Path) -> None:
    task = task_of(bundle, TaskLimits(max_pixels=10 * 48 * 32))
    task.parse("dark", {"num_images": 10, "width": 48})
    with pytest.raises(TooLarge, match=r"11 pictures of 48x32 have 16896 pixels; .* is 15360 \(INFERD_MAX_PIXELS\)"):
        task.parse("dark", {"num_images": 11, "width": 48})


# Answers


def test_an_answer_has_all_that_draws_it_again(task: ImageGeneration) -> None:
    answer = painted(task, "a dark night", seed=3, num_images=2, width=12)
    assert answer.pixels.shape == (2, 8, 12, 1)
    assert answer.pixels.dtype == np.uint8
    assert np.array_equal(answer.latents, latents_of(3, 2, LATENT))
    assert np.array_equal(answer.conditions, one_hot("dark", "dark"))
    assert answer.scores is not None
    assert answer.scores.shape == (2,)
    assert answer.seed == 3


@pytest.mark.parametrize(
    ("conditions", "label"),
    [
        ([0, 1, 0], "bright"),
        ([0, 0, 1], "left"),
        ([0, 0.5, 0.5], None),
        ([1, 0, -0.5], None),
        ([0, 0, 0], None),
        ([0, 2, 0], None),
        ([1, 1, 0], None),
    ],
)
def test_one_class_alone_has_a_name(task: ImageGeneration, conditions: list[float], label: str | None) -> None:
    assert task.class_of(np.array(conditions, np.float32)) == label


@pytest.mark.parametrize(
    ("inputs", "parameters", "is_heavy"),
    [
        ("dark", {"num_images": 64}, False),
        ("dark", {"latent": [[0] * LATENT] * 64}, False),
        ("dark", {"interpolate": {"to": {"seed": 1}, "steps": 64}}, False),
        ("dark", {"num_images": 4, "arithmetic": [{}] * 8}, False),
        ("dark", {"num_images": 64, "arithmetic": [{}] * 3}, True),
        ("x" * 200, {}, False),
        ("x" * 200, {"arithmetic": [{"inputs": f"{number}".ljust(200)} for number in range(3)]}, True),
        ("x" * 200, {"arithmetic": [{}] * 8}, False),
    ],
)
def test_what_takes_long_belongs_in_a_thread(
    task: ImageGeneration, inputs: str, parameters: dict[str, Any], is_heavy: bool
) -> None:
    assert task.is_heavy(task.parse(inputs, parameters)) is is_heavy


@pytest.mark.parametrize(
    ("parameters", "is_large"),
    [
        ({}, False),
        ({"width": 96}, False),
        ({"width": 48, "num_images": 64}, False),
        ({"width": 96, "num_images": 64}, True),
    ],
)
def test_so_do_many_large_pictures(task: ImageGeneration, parameters: dict[str, Any], is_large: bool) -> None:
    assert task.is_large(task.parse("dark", parameters)) is is_large


def test_pictures_that_are_not_enlarged_are_not_touched(task: ImageGeneration) -> None:
    request = task.parse("dark", {"num_images": 64})
    made = sketch(task, request)
    pixels = drawn(made.latents, made.conditions)
    assert task.finish(request, made, {"image": pixels}).pixels is pixels
    assert not task.is_large(request)


def test_the_description_says_what_can_be_asked_for(task: ImageGeneration, of_anything: ImageGeneration) -> None:
    told = json.loads(json.dumps(task.describe()))
    assert told["labels"] == list(LABELS)
    assert told["sizes"] == ["6x4", "12x8", "24x16", "48x32", "96x64"]
    assert told["latent"] == {"size": 8, "largest": 10.0, "truncation": 1.0}
    assert told["input"] == {"reads_texts": True, "max_text_characters": 200, "threshold": 0.5}
    assert (told["max_images"], told["channels"]) == (64, 1)
    assert set(told["parameters"]) == set(Parameters.model_fields)
    for reference in (one for one in _values_of(told["parameters"], "$ref")):
        assert reference.removeprefix("#/$defs/") in told["$defs"]
    plain = of_anything.describe()
    assert plain["labels"] == []
    assert plain["input"] == {"reads_texts": False, "max_text_characters": 200, "threshold": None}


def _values_of(content: object, key: str) -> list[Any]:
    if isinstance(content, dict):
        found = [value for name, value in content.items() if name == key]
        return found + [one for value in content.values() for one in _values_of(value, key)]
    return [one for value in content for one in _values_of(value, key)] if isinstance(content, list) else []


# Bundles


def refused(bundle: Path, *keys: str | int, to: object) -> str:
    content = with_edit(read_manifest(bundle).model_dump(mode="json"), *keys, to=to)
    with pytest.raises(BundleRefused) as caught:
        ImageGeneration(bundle, Manifest.model_validate(content), LIMITS)
    return str(caught.value)


def test_a_manifest_must_say_how_to_draw(models: Path) -> None:
    for folder in (make_bundle(models), make_text_bundle(models)):
        with pytest.raises(BundleRefused, match="needs a postprocessing of images"):
            task_of(folder)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (
            (*GENERATOR, "inputs", 0, "name"),
            "noise",
            "must have the inputs ['condition', 'latent'], not ['condition', ",
        ),
        ((*GENERATOR, "inputs", 0, "datatype"), "FP64", "'latent' is FP64 ('batch', 8), not FP32 ('batch', 8)"),
        ((*GENERATOR, "inputs", 0, "shape"), ["batch", "numbers"], "all but the batch of one size"),
        (
            (*GENERATOR, "inputs", 0, "shape"),
            ["batch", 2, 8],
            "'latent' is FP32 ('batch', 2, 8), not FP32 ('batch', 8)",
        ),
        ((*GENERATOR, "inputs", 1, "shape"), ["batch", 4], "'condition' is FP32 ('batch', 4), not FP32 ('batch', 3)"),
        ((*GENERATOR, "outputs", 0, "name"), "picture", "must have the outputs ['image'], not ['picture']"),
        ((*GENERATOR, "outputs", 0, "datatype"), "FP32", "'image' must be UINT8 of batch, height, width, and 1 or 3"),
        ((*GENERATOR, "outputs", 0, "shape"), ["batch", 4, 6, 2], "'image' must be UINT8 of batch, height, width"),
        ((*GENERATOR, "outputs", 0, "shape"), ["batch", 4, 6], "'image' must be UINT8 of batch, height, width"),
        ((*GENERATOR, "outputs", 0, "shape"), ["batch", "height", 6, 1], "'image' must be UINT8 of batch, height"),
        ((*GENERATOR, "outputs", 0, "shape"), ["batch", 4, 6, 1, 1], "'image' must be UINT8 of batch, height, width"),
        ((*TEXT, "inputs", 0, "name"), "words", "text.onnx must have the inputs ['tokens'], not ['words']"),
        ((*TEXT, "inputs", 0, "datatype"), "INT32", "'tokens' is INT32"),
        ((*TEXT, "inputs", 0, "shape"), ["batch", 64], "'tokens' is INT64 ('batch', 64)"),
        (
            (*TEXT, "outputs", 1, "name"),
            "sure",
            "must have the outputs ['conditions', 'meant'], not ['conditions', 'sure']",
        ),
        ((*TEXT, "outputs", 0, "shape"), ["batch", 4], "'conditions' is FP32 ('batch', 4), not FP32 ('batch', 3)"),
        ((*TEXT, "outputs", 1, "shape"), ["batch", 1], "'meant' is FP32 ('batch', 1), not FP32 ('batch',)"),
        (TEXT, ..., "images are drawn by the graphs 'text' and 'generator', not by ['generator']"),
        (GENERATOR, ..., "images are drawn by the graphs 'text' and 'generator', not by ['text']"),
        (("preprocessing",), None, "images are drawn by the graph 'generator', not by ['generator', 'text']"),
    ],
)
def test_graphs_that_do_not_go_together_are_refused(
    bundle: Path, keys: tuple[Any, ...], value: object, said: str
) -> None:
    assert said in refused(bundle, *keys, to=value)


def test_variants_must_draw_the_same_sizes(bundle: Path) -> None:
    variants = read_manifest(bundle).model_dump(mode="json")["variants"]
    other = with_edit(variants, "fp32", "graphs", "generator", "outputs", 0, "shape", to=["batch", 8, 8, 1])["fp32"]
    assert "variants must take the same latents, and draw images of the same size" in refused(
        bundle, "variants", to={**variants, "other": other}
    )


def test_texts_are_read_as_ngrams_or_not_at_all(bundle: Path, models: Path) -> None:
    characters = read_manifest(make_text_bundle(models)).preprocessing
    assert characters
    content = read_manifest(bundle).model_dump(mode="json")
    files = {**content["files"], "vocab.json": content["files"]["labels.json"]}
    content = {**content, "files": files, "preprocessing": characters.model_dump(mode="json")}
    with pytest.raises(BundleRefused, match="reads texts as n-grams, or none"):
        ImageGeneration(bundle, Manifest.model_validate(content), LIMITS)


def test_a_text_can_mean_nothing_where_there_are_no_classes(bundle: Path) -> None:
    drawing = {"kind": "images", "latent": "latent", "output": "image"}
    assert "and there are no classes" in refused(bundle, "postprocessing", to=drawing)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('["dark", "bright", "DARK"]', "must be different texts, also without regard to case"),
        ('["dark", "bright"]', "'condition' is FP32 ('batch', 3), not FP32 ('batch', 2)"),
        ('["dark", "bright", 3]', "labels.json: must be a list of texts"),
        ("[]", "labels.json: must be a list of texts"),
        ("dark", "labels.json: is no JSON"),
    ],
)
def test_labels_must_be_different_names_one_for_each_class(models: Path, content: str, said: str) -> None:
    folder = make_image_bundle(models)
    (folder / "labels.json").write_text(content)
    sign(folder)
    with pytest.raises(BundleRefused) as caught:
        task_of(folder)
    assert said in str(caught.value)
