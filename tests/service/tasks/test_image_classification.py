from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInput, RuntimeFailure, TooLarge
from service.manifest import ClassificationPostprocessing, Manifest, file_entry, read_manifest
from service.tasks import TASKS
from service.tasks.base import TaskLimits
from service.tasks.image_classification import ImageClassification
from tests.bundles import HEIGHT, LABELS, WIDTH, make_bundle
from tests.service.pictures import drawn, encoded

PICTURE = drawn(WIDTH, HEIGHT)
DATA = encoded(PICTURE)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


@pytest.fixture(scope="module")
def task(bundle: Path, manifest: Manifest) -> ImageClassification:
    return ImageClassification(bundle, manifest, TaskLimits(max_pixels=100_000))


def answer(task: ImageClassification, logits: Sequence[float], **parameters: Any) -> list[dict[str, Any]]:
    return task.decode(task.parse(DATA, parameters), {"logits": np.array([logits], np.float32)})


def test_the_table_of_tasks_has_it_by_its_name_on_the_hub() -> None:
    assert TASKS["image-classification"] is ImageClassification


def test_labels_are_in_the_order_of_the_graphs_outputs(task: ImageClassification) -> None:
    assert task.labels == LABELS
    assert answer(task, [3, 2, 1], function_to_apply="none") == [
        {"label": "dark", "score": 3.0},
        {"label": "bright", "score": 2.0},
        {"label": "left", "score": 1.0},
    ]


def test_bytes_and_their_base64_make_the_same_row(task: ImageClassification) -> None:
    rows = [task.encode(task.parse(inputs, {}))["image"] for inputs in (DATA, base64.b64encode(DATA).decode())]
    assert (rows[0] == rows[1]).all()
    assert rows[0].shape == (1, 1, HEIGHT, WIDTH)
    np.testing.assert_allclose(rows[0][0, 0], PICTURE / 255, atol=1e-6)


@pytest.mark.parametrize("inputs", [None, 7, 1.5, True, [], {}, bytearray(DATA), memoryview(DATA)])
def test_what_is_neither_bytes_nor_text_is_no_picture(task: ImageClassification, inputs: object) -> None:
    with pytest.raises(BadInput, match="inputs must be a picture"):
        task.parse(inputs, {})


def test_parameters_are_looked_at_before_the_picture(task: ImageClassification) -> None:
    with pytest.raises(BadInput, match="parameter 'top_k'"):
        task.parse(b"no picture", {"top_k": "x"})


def test_the_limit_of_pixels_is_that_of_the_server(task: ImageClassification) -> None:
    with pytest.raises(TooLarge, match="INFERD_MAX_PIXELS"):
        task.parse(encoded(np.zeros((400, 251), np.uint8)), {})


@pytest.mark.parametrize(
    ("width", "height", "heavy"), [(1, 1, False), (64, 64, False), (65, 64, True), (400, 3, False)]
)
def test_only_a_picture_that_takes_long_is_heavy(
    task: ImageClassification, width: int, height: int, heavy: bool
) -> None:
    assert task.is_heavy(task.parse(encoded(np.zeros((height, width), np.uint8)), {})) is heavy


@pytest.mark.parametrize(
    ("texts", "invert"), [(("true", "1", "True", "yes"), True), (("false", "0", "no"), False), ((None,), None)]
)
def test_texts_of_a_query_are_understood(
    task: ImageClassification, texts: tuple[Any, ...], invert: bool | None
) -> None:
    for text in texts:
        assert task.parse(DATA, {"invert": text}).parameters.invert is invert
    assert task.parse(DATA, {"top_k": "2"}).parameters.top_k == 2


def test_five_labels_come_back_unless_more_are_asked_for(tmp_path: Path, manifest: Manifest) -> None:
    many = manifest.model_dump(mode="json")
    for variant in many["variants"].values():
        variant["graphs"]["model"]["outputs"][0]["shape"] = ["batch", 8]
    (tmp_path / "labels.json").write_text('["a", "b", "c", "d", "e", "f", "g", "h"]', encoding="utf-8")
    many["files"]["labels.json"] = file_entry(tmp_path / "labels.json").model_dump()
    task = ImageClassification(tmp_path, Manifest.model_validate(many), TaskLimits(max_pixels=1000))
    logits = [0, 7, 1, 6, 2, 5, 3, 4]
    assert [one["label"] for one in answer(task, logits)] == ["b", "d", "f", "h", "g"]
    assert [one["label"] for one in answer(task, logits, top_k=8)] == ["b", "d", "f", "h", "g", "e", "c", "a"]


def test_equal_scores_keep_the_order_of_the_labels(task: ImageClassification) -> None:
    assert [one["label"] for one in answer(task, [1, 1, 1])] == list(LABELS)
    assert [one["label"] for one in answer(task, [1, 2, 2])] == ["bright", "left", "dark"]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_the_manifests_activation_counts_unless_the_request_names_another(
    bundle: Path, manifest: Manifest, activation: str
) -> None:
    how = {**manifest.postprocessing.model_dump(), "activation": activation}
    changed = manifest.model_copy(update={"postprocessing": ClassificationPostprocessing.model_validate(how)})
    task = ImageClassification(bundle, changed, TaskLimits(max_pixels=1000))
    assert answer(task, [1, 2, 3]) == answer(task, [1, 2, 3], function_to_apply=activation)
    assert answer(task, [1, 2, 3], function_to_apply="none")[0]["score"] == 3


@given(logits=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_scores_are_numbers_for_whatever_logits(task: ImageClassification, logits: list[float]) -> None:
    softmax = [one["score"] for one in answer(task, logits, function_to_apply="softmax")]
    assert sum(softmax) == pytest.approx(1)
    apart = [one["score"] for one in answer(task, logits, function_to_apply="sigmoid")]
    assert all(0 <= score <= 1 for score in (*softmax, *apart))
    assert softmax == sorted(softmax, reverse=True)
    assert apart == sorted(apart, reverse=True)


@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_the_models_failure(task: ImageClassification, logit: float) -> None:
    with pytest.raises(RuntimeFailure, match="not finite"):
        answer(task, [1, logit, 3], function_to_apply="none")


def test_an_answer_is_made_of_plain_numbers_and_texts(task: ImageClassification) -> None:
    for one in answer(task, [1, 2, 3]):
        assert type(one["score"]) is float
        assert type(one["label"]) is str


def test_a_model_says_what_it_takes(task: ImageClassification) -> None:
    described = task.describe()
    assert described["labels"] == list(LABELS)
    assert isinstance(described["input"], dict)
    assert described["input"]["max_pixels"] == 100_000
    assert described["input"]["formats"] == ["PNG", "JPEG", "WEBP"]
