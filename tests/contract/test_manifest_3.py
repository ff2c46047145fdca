"""Version 3 of the contract: graphs that are run once a token, and text that is read character by character."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BundleRefused
from service.manifest import CharacterPreprocessing, Manifest, StatePair, Step, read_manifest
from tests.bundles import with_edit, write_manifest
from tests.contract.test_manifest import FROZEN, Keys, named, objects, refusal

THIRD: dict[str, Any] = json.loads((Path(__file__).parent / "manifest-3.json").read_bytes())
"""A manifest as version 3 was first written, of a model that continues texts. It is never changed."""

FP32: Keys = ("variants", "fp32", "graphs", "step")
INT8: Keys = ("variants", "int8", "graphs", "step")

OPTIONAL: set[Keys] = {
    ("golden",),
    ("licence",),
    ("postprocessing",),
    ("preprocessing", "vocabulary"),
    ("preprocessing", "start"),
    ("preprocessing", "replacements"),
    ("batching",),
    ("batching", "max_batch_size"),
    ("provenance", "initial_weights"),
}
REFUSED_OTHERWISE: set[Keys] = {
    ("preprocessing", "kind"),  # then it is taken for an image's
    (*FP32, "step"),  # then it is no model that goes without a postprocessing, or it is
    (*INT8, "step"),
    (*FP32, "step", "context"),  # then the graph has an input more than the step
    (*FP32, "step", "logits"),  # then it has no answer, or it is candidates
    (*INT8, "step", "logits"),
}
NAMES = {"replacements"}
"""Objects whose keys are no words of the contract."""

OBJECTS = {keys: content for keys, content in objects(THIRD) if not NAMES & set(keys)}
KEYS = [(*keys, key) for keys, content in OBJECTS.items() for key in content]


def read(folder: Path, content: object) -> Manifest:
    write_manifest(folder, content)
    return read_manifest(folder)


def test_a_manifest_of_a_model_that_continues_texts_is_read_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    manifest = read(tmp_path, THIRD)
    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == THIRD
    assert manifest.is_stepped
    assert manifest.variants["fp32"].graphs["step"].step == Step(
        token="token",
        logits="logits",
        states=(StatePair(input="h", output="next_h"), StatePair(input="c", output="next_c")),
        context=("memory",),
    )
    assert manifest.preprocessing == CharacterPreprocessing(
        vocabulary="vocab.json", start="\n", replacements={"ä": "a", "…": "...", "\r": ""}
    )


@pytest.mark.parametrize("keys", OBJECTS, ids=lambda keys: named(keys) or "manifest")
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(tmp_path: Path, keys: Keys) -> None:
    assert f"{named((*keys, 'surprise'))}: Extra inputs" in refusal(tmp_path, with_edit(THIRD, *keys, "surprise", to=1))


@pytest.mark.parametrize("keys", [keys for keys in KEYS if keys not in OPTIONAL | REFUSED_OTHERWISE], ids=named)
def test_a_missing_key_is_refused_by_name(tmp_path: Path, keys: Keys) -> None:
    assert f"{named(keys)}: Field required" in refusal(tmp_path, with_edit(THIRD, *keys, to=...))


@pytest.mark.parametrize("keys", sorted(OPTIONAL), ids=named)
def test_an_optional_key_may_be_left_out(tmp_path: Path, keys: Keys) -> None:
    read(tmp_path, with_edit(THIRD, *keys, to=...))


def test_what_is_left_out_has_the_value_that_version_3_gave_it(tmp_path: Path) -> None:
    content = THIRD
    for keys in sorted(OPTIONAL, reverse=True):
        content = with_edit(content, *keys, to=...)
    manifest = read(tmp_path, content)
    assert manifest.preprocessing == CharacterPreprocessing(vocabulary="vocab.json", start="\n", replacements={})
    assert manifest.postprocessing is None
    assert manifest.variants["int8"].graphs["step"].step.context == ()


@pytest.mark.parametrize("version", [1, 2])
def test_steps_and_characters_need_version_3(tmp_path: Path, version: int) -> None:
    said = "steps and characters came with schema_version 3"
    assert said in refusal(tmp_path, {**THIRD, "schema_version": version})
    content = {**FROZEN, "schema_version": version, "preprocessing": THIRD["preprocessing"]}
    content["files"] = {**FROZEN["files"], "vocab.json": THIRD["files"]["vocab.json"]}
    assert said in refusal(tmp_path, content)


def test_older_models_may_be_written_as_version_3(tmp_path: Path) -> None:
    manifest = read(tmp_path, {**FROZEN, "schema_version": 3})
    assert manifest.preprocessing == Manifest.model_validate(FROZEN).preprocessing
    assert not manifest.is_stepped


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ((*INT8, "step", "token"), "tokens", "step names the inputs ['state', 'tokens'], and the graph has"),
        ((*INT8, "step", "logits"), "scores", "step names the outputs ['next_state', 'scores'], and the graph has"),
        (
            (*INT8, "step", "states", 0, "input"),
            "h",
            "step names the inputs ['h', 'token'], and the graph has ['state'",
        ),
        ((*INT8, "step", "states", 0, "output"), "h", "step names the outputs ['h', 'logits'], and the graph has"),
        ((*INT8, "step", "states", 0, "output"), "logits", "step names the outputs ['logits', 'logits']"),
        ((*INT8, "step", "states", 0, "input"), "token", "step names the inputs ['token', 'token']"),
        ((*INT8, "step", "context"), ["memory"], "step names the inputs ['memory', 'state', 'token'], and the graph"),
        (
            (*FP32, "step", "context"),
            [],
            "step names the inputs ['c', 'h', 'token'], and the graph has ['c', 'h', 'mem",
        ),
        (
            (*FP32, "step", "context"),
            ["memory", "memory"],
            "step names the inputs ['c', 'h', 'memory', 'memory', 'token",
        ),
        ((*INT8, "step", "states"), [], "variants.int8.graphs.step.step.states: Tuple should have at least 1 item"),
        ((*INT8, "inputs", 1, "shape"), [1, 64], "step.int8.onnx: the first axis of 'state' must be 'batch'"),
        ((*INT8, "inputs", 1, "shape"), None, "step.int8.onnx: the first axis of 'state' must be 'batch'"),
        (("preprocessing", "kind"), "words", "preprocessing: kind must be 'image' or 'characters'"),
        (("preprocessing", "kind"), None, "preprocessing: kind must be 'image' or 'characters'"),
        (("preprocessing", "kind"), ["characters"], "preprocessing: kind must be 'image' or 'characters'"),
        (("preprocessing",), "characters", "preprocessing: kind must be 'image' or 'characters'"),
        (("preprocessing",), None, "preprocessing: Field required by task 'text-generation'"),
        (("preprocessing", "start"), "", "preprocessing.start"),
        (("preprocessing", "start"), "ab", "preprocessing.start"),
        (("preprocessing", "vocabulary"), "../vocab.json", "preprocessing.vocabulary: Value error, a file is named by"),
        (("preprocessing", "vocabulary"), "words.json", "files has no entry for words.json"),
        (("files", "vocab.json"), ..., "files has no entry for vocab.json"),
        (("files", "step.onnx"), ..., "files has no entry for step.onnx"),
        (("preprocessing", "replacements"), {"ab": "c"}, "replacements are of single characters, not of ['ab']"),
        (("preprocessing", "replacements"), {"": "c"}, "replacements are of single characters, not of ['']"),
        (("preprocessing", "replacements"), {"a": 1}, "preprocessing.replacements.a"),
        (("preprocessing", "replacements"), ["a"], "preprocessing.replacements"),
        (("golden",), None, "golden: Field required by task 'text-generation'"),
        (("provenance",), None, "provenance: Field required by task 'text-generation'"),
        (("parameters",), 0, "parameters: Input should be greater than or equal to 1"),
        (
            ("variants", "fp32", "tolerance", "framework"),
            None,
            "variants.fp32.tolerance.framework: Field required by task 'text-generation'",
        ),
    ],
    ids=lambda value: named(value) if isinstance(value, tuple) else None,
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, keys: Keys, value: object, said: str) -> None:
    assert said in refusal(tmp_path, with_edit(THIRD, *keys, to=value))


def test_only_what_is_made_token_by_token_goes_without_a_postprocessing(tmp_path: Path) -> None:
    content = with_edit(with_edit(THIRD, *INT8, "step", to=None), *FP32, "step", to=...)
    assert "postprocessing: Field required by task 'text-generation'" in refusal(tmp_path, content)
    said = "postprocessing: Field required by task 'image-classification'"
    assert said in refusal(tmp_path, {**FROZEN, "schema_version": 3, "postprocessing": None})


@given(data=st.data())
def test_a_flipped_byte_never_does_more_than_have_it_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(json.dumps(THIRD).encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "manifest.json").write_bytes(content)
    with suppress(BundleRefused):
        assert isinstance(read_manifest(folder), Manifest)
