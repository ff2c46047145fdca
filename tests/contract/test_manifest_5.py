"""Version 5 of the contract: images that are drawn, and texts that are read as n-grams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.manifest import ImagesPostprocessing, Manifest, NgramPreprocessing, read_manifest
from tests.bundles import with_edit, write_manifest
from tests.contract.test_manifest import FROZEN, Keys, named, objects, refusal
from tests.contract.test_manifest_3 import THIRD
from tests.contract.test_manifest_4 import FOURTH

FIFTH: dict[str, Any] = json.loads((Path(__file__).parent / "manifest-5.json").read_bytes())
"""A manifest as version 5 was first written, of a model that draws what a text says. It is never changed."""

TEXT: Keys = ("variants", "fp32", "graphs", "text")
GENERATOR: Keys = ("variants", "fp32", "graphs", "generator")

OPTIONAL: set[Keys] = {
    ("golden",),
    ("licence",),
    ("preprocessing",),  # what is drawn can be said without a text
    ("preprocessing", "shortest"),
    ("preprocessing", "longest"),
    ("preprocessing", "most"),
    ("postprocessing", "truncation"),
    ("batching",),
    ("batching", "max_batch_size"),
    ("provenance", "initial_weights"),
}
REFUSED_OTHERWISE: set[Keys] = {
    ("preprocessing", "kind"),  # then it is taken for an image's
    ("postprocessing", "kind"),  # then it is taken for a classification's
    ("postprocessing", "condition"),  # one of them needs the other
    ("postprocessing", "labels"),
}

OBJECTS = dict(objects(FIFTH))
KEYS = [(*keys, key) for keys, content in OBJECTS.items() for key in content]
UNSAID = {*REFUSED_OTHERWISE, *OPTIONAL}

WITHOUT_CLASSES = with_edit(
    with_edit(
        with_edit(with_edit(FIFTH, "postprocessing", "condition", to=...), "postprocessing", "labels", to=...),
        "preprocessing",
        to=...,
    ),
    *TEXT,
    to=...,
)


def read(folder: Path, content: object) -> Manifest:
    write_manifest(folder, content)
    return read_manifest(folder)


def test_a_manifest_of_a_model_that_draws_is_read_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    manifest = read(tmp_path, FIFTH)
    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == FIFTH
    assert not manifest.is_stepped
    assert manifest.preprocessing == NgramPreprocessing(
        input="tokens",
        buckets=4096,
        shortest=2,
        longest=4,
        most=512,
        conditions="conditions",
        meant="meant",
        threshold=0.75,
    )
    assert manifest.postprocessing == ImagesPostprocessing(
        latent="latent", condition="condition", output="image", labels="labels.json", truncation=0.8
    )


@pytest.mark.parametrize("keys", OBJECTS, ids=lambda keys: named(keys) or "manifest")
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(tmp_path: Path, keys: Keys) -> None:
    content = with_edit(FIFTH, *keys, "surprise", to=1)
    assert f"{named((*keys, 'surprise'))}: Extra inputs" in refusal(tmp_path, content)


@pytest.mark.parametrize("keys", [keys for keys in KEYS if keys not in UNSAID], ids=named)
def test_a_missing_key_is_refused_by_name(tmp_path: Path, keys: Keys) -> None:
    assert f"{named(keys)}: Field required" in refusal(tmp_path, with_edit(FIFTH, *keys, to=...))


@pytest.mark.parametrize("keys", sorted(OPTIONAL), ids=named)
def test_an_optional_key_may_be_left_out(tmp_path: Path, keys: Keys) -> None:
    read(tmp_path, with_edit(FIFTH, *keys, to=...))


def test_what_is_left_out_has_the_value_that_version_5_gave_it(tmp_path: Path) -> None:
    content = FIFTH
    for keys in sorted(OPTIONAL - {("preprocessing",)}, reverse=True):
        content = with_edit(content, *keys, to=...)
    manifest = read(tmp_path, content)
    reading, drawing = manifest.preprocessing, manifest.postprocessing
    assert (reading.shortest, reading.longest, reading.most) == (3, 5, 1024)
    assert drawing.truncation == 1.0


def test_a_model_may_have_no_classes(tmp_path: Path) -> None:
    drawing = read(tmp_path, WITHOUT_CLASSES).postprocessing
    assert (drawing.condition, drawing.labels) == (None, None)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_edit(FIFTH, "preprocessing", to=...), "images that are drawn"),
        ({**FIFTH, "postprocessing": {**FROZEN["postprocessing"], "labels": "labels.json"}}, "n-grams"),
    ],
    ids=["images", "n-grams"],
)
def test_what_came_with_version_5_needs_it(tmp_path: Path, version: int, content: dict[str, Any], said: str) -> None:
    assert f"{said} came with schema_version 5" in refusal(tmp_path, {**content, "schema_version": version})


@pytest.mark.parametrize("older", [FROZEN, THIRD, FOURTH], ids=["1", "3", "4"])
def test_older_models_may_be_written_as_version_5(tmp_path: Path, older: dict[str, Any]) -> None:
    manifest = read(tmp_path, {**older, "schema_version": 5})
    assert manifest.preprocessing == Manifest.model_validate(older).preprocessing
    assert manifest.postprocessing == Manifest.model_validate(older).postprocessing


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("preprocessing", "kind"), "words", "kind must be 'image' or 'characters' or 'tokenizer' or 'ngrams'"),
        (("preprocessing", "buckets"), 2, "preprocessing.buckets"),
        (("preprocessing", "buckets"), 2**24 + 1, "preprocessing.buckets"),
        (("preprocessing", "shortest"), 0, "preprocessing.shortest"),
        (("preprocessing", "shortest"), 5, "preprocessing: Value error, shortest must not be more than longest"),
        (("preprocessing", "longest"), 17, "preprocessing.longest"),
        (("preprocessing", "most"), 0, "preprocessing.most"),
        (("preprocessing", "most"), 2**16 + 1, "preprocessing.most"),
        (("preprocessing", "threshold"), 1.5, "preprocessing.threshold"),
        (("preprocessing", "threshold"), -0.5, "preprocessing.threshold"),
        (("postprocessing", "kind"), "pictures", "kind must be 'classification' or 'translation' or 'images'"),
        (("postprocessing", "condition"), None, "a condition needs labels, and labels a condition"),
        (("postprocessing", "labels"), None, "a condition needs labels, and labels a condition"),
        (("postprocessing", "labels"), "../labels.json", "postprocessing.labels: Value error, a file is named"),
        (("postprocessing", "truncation"), 0, "postprocessing.truncation"),
        (("postprocessing", "truncation"), 1.5, "postprocessing.truncation"),
        (("postprocessing",), ..., "postprocessing: Field required by task 'text-to-image'"),
        (("golden",), None, "golden: Field required by task 'text-to-image'"),
        (("files", "labels.json"), ..., "files has no entry for labels.json"),
        (("files", "text.onnx"), ..., "files has no entry for text.onnx"),
        ((*GENERATOR, "outputs", 0, "shape"), [1, 28, 28, 1], "model.onnx: the first axis of 'image' must be 'batch'"),
        ((*GENERATOR, "outputs", 0, "shape"), ["batch", 28, 0, 1], "graphs.generator.outputs.0.shape.2"),
        ((*GENERATOR, "outputs", 0, "datatype"), "bytes", "graphs.generator.outputs.0.datatype"),
    ],
    ids=lambda value: named(value) if isinstance(value, tuple) else None,
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, keys: Keys, value: object, said: str) -> None:
    assert said in refusal(tmp_path, with_edit(FIFTH, *keys, to=value))
