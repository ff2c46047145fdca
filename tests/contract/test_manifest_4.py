"""Version 4 of the contract: steps that pick candidates and look at a context, tokenizers, translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.manifest import (
    Candidates,
    Manifest,
    StatePair,
    Step,
    TokenizerPreprocessing,
    TranslationPostprocessing,
    read_manifest,
)
from tests.bundles import with_edit, write_manifest
from tests.contract.test_manifest import FROZEN, Keys, named, objects, refusal
from tests.contract.test_manifest_3 import THIRD

FOURTH: dict[str, Any] = json.loads((Path(__file__).parent / "manifest-4.json").read_bytes())
"""A manifest as version 4 was first written, of a model that translates. It is never changed."""

ENCODER: Keys = ("variants", "int8", "graphs", "encoder")
DECODER: Keys = ("variants", "int8", "graphs", "decoder")

OPTIONAL: set[Keys] = {
    ("golden",),
    ("licence",),
    ("preprocessing", "tokenizer"),
    ("postprocessing",),  # what is made token by token may go without one; the task asks for it
    ("postprocessing", "beams"),
    ("postprocessing", "length_penalty"),
    ("postprocessing", "length_factor"),
    ("postprocessing", "length_offset"),
    ("batching",),
    ("batching", "max_batch_size"),
    ("provenance", "initial_weights"),
}
REFUSED_OTHERWISE: set[Keys] = {
    ("preprocessing", "kind"),  # then it is taken for an image's
    ("postprocessing", "kind"),  # then it is taken for a classification's
    (*DECODER, "step", "candidates"),  # then it has no answer, or it is logits
    (*DECODER, "step", "context"),  # then the graph has inputs more than the step
    (*DECODER, "step", "attention"),  # then it has an output more
}

OBJECTS = dict(objects(FOURTH))
KEYS = [(*keys, key) for keys, content in OBJECTS.items() for key in content]
UNSAID = {(*DECODER, "step"), *REFUSED_OTHERWISE, *OPTIONAL}


def read(folder: Path, content: object) -> Manifest:
    write_manifest(folder, content)
    return read_manifest(folder)


def test_a_manifest_of_a_model_that_translates_is_read_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    manifest = read(tmp_path, FOURTH)
    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == FOURTH
    assert manifest.is_stepped
    step = manifest.default.graphs["decoder"].step
    assert step == Step(
        token="token",
        candidates=Candidates(tokens="tokens", logprobs="logprobs"),
        states=(StatePair(input="state", output="next_state"),),
        context=("memory", "present"),
        attention="attention",
    )
    assert step.answers == ("tokens", "logprobs", "attention")
    assert manifest.preprocessing == TokenizerPreprocessing(
        input="tokens", lengths="lengths", tokenizer="tokenizer.json", start=1, end=2, padding=0, sizes=(8, 16, 64)
    )
    assert manifest.postprocessing == TranslationPostprocessing(
        source="en", target="de", beams=4, length_penalty=0.6, length_factor=1.5, length_offset=20
    )


@pytest.mark.parametrize("keys", OBJECTS, ids=lambda keys: named(keys) or "manifest")
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(tmp_path: Path, keys: Keys) -> None:
    content = with_edit(FOURTH, *keys, "surprise", to=1)
    assert f"{named((*keys, 'surprise'))}: Extra inputs" in refusal(tmp_path, content)


@pytest.mark.parametrize("keys", [keys for keys in KEYS if keys not in UNSAID], ids=named)
def test_a_missing_key_is_refused_by_name(tmp_path: Path, keys: Keys) -> None:
    assert f"{named(keys)}: Field required" in refusal(tmp_path, with_edit(FOURTH, *keys, to=...))


@pytest.mark.parametrize("keys", sorted(OPTIONAL), ids=named)
def test_an_optional_key_may_be_left_out(tmp_path: Path, keys: Keys) -> None:
    read(tmp_path, with_edit(FOURTH, *keys, to=...))


def test_what_is_left_out_has_the_value_that_version_4_gave_it(tmp_path: Path) -> None:
    content = FOURTH
    for keys in sorted(OPTIONAL - {("postprocessing",)}, reverse=True):
        content = with_edit(content, *keys, to=...)
    manifest = read(tmp_path, content)
    assert manifest.preprocessing.tokenizer == "tokenizer.json"
    search = manifest.postprocessing
    assert (search.beams, search.length_penalty, search.length_factor, search.length_offset) == (5, 1.0, 2.0, 10)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_edit(FOURTH, *DECODER, "step", to=...), "tokenizers"),
        (
            {**THIRD, "preprocessing": FOURTH["preprocessing"], "files": {**THIRD["files"], **FOURTH["files"]}},
            "tokenizers",
        ),
        ({**FROZEN, "postprocessing": FOURTH["postprocessing"]}, "translation"),
        ({**THIRD, "postprocessing": FOURTH["postprocessing"]}, "translation"),
    ],
)
def test_what_came_with_version_4_needs_it(tmp_path: Path, version: int, content: dict[str, Any], said: str) -> None:
    message = refusal(tmp_path, {**content, "schema_version": version})
    assert f"{said} came with schema_version 4" in message or "came with schema_version 3" in message
    if version == 3:
        assert f"{said} came with schema_version 4" in message


def test_candidates_need_version_4(tmp_path: Path) -> None:
    message = refusal(tmp_path, {**FOURTH, "schema_version": 3})
    assert "candidates and attention came with schema_version 4" in message


@pytest.mark.parametrize("older", [FROZEN, THIRD])
def test_older_models_may_be_written_as_version_4(tmp_path: Path, older: dict[str, Any]) -> None:
    manifest = read(tmp_path, {**older, "schema_version": 4})
    assert manifest.preprocessing == Manifest.model_validate(older).preprocessing


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ((*DECODER, "step", "logits"), "tokens", "a step answers either logits or candidates"),
        ((*DECODER, "step", "candidates"), None, "a step answers either logits or candidates"),
        (
            (*DECODER, "step", "candidates", "tokens"),
            "numbers",
            "step names the outputs ['attention', 'logprobs', 'next_state', 'numbers'], and the graph has",
        ),
        (
            (*DECODER, "step", "attention"),
            None,
            "step names the outputs ['logprobs', 'next_state', 'tokens'], and the graph has ['attention'",
        ),
        (
            (*DECODER, "step", "context"),
            ["memory"],
            "step names the inputs ['memory', 'state', 'token'], and the graph has ['memory', 'present'",
        ),
        ((*ENCODER, "outputs", 0, "shape"), [8, "source"], "encoder.onnx: the first axis of 'memory' must be 'batch'"),
        (("preprocessing", "sizes"), [], "preprocessing.sizes: Tuple should have at least 1 item"),
        (("preprocessing", "sizes"), [16, 8], "preprocessing: Value error, sizes must rise"),
        (("preprocessing", "sizes"), [8, 8], "preprocessing: Value error, sizes must rise"),
        (("preprocessing", "sizes"), [1, 8], "preprocessing.sizes.0"),
        (("preprocessing", "start"), -1, "preprocessing.start"),
        (("preprocessing", "tokenizer"), "../tokenizer.json", "preprocessing.tokenizer: Value error, a file is named"),
        (("files", "tokenizer.json"), ..., "files has no entry for tokenizer.json"),
        (("preprocessing", "kind"), "pieces", "kind must be 'image' or 'characters' or 'tokenizer'"),
        (("postprocessing", "kind"), "pieces", "postprocessing: kind must be 'classification' or 'translation'"),
        (("postprocessing",), "translation", "postprocessing: kind must be 'classification' or 'translation'"),
        (("postprocessing", "source"), "English", "postprocessing.source"),
        (("postprocessing", "target"), "", "postprocessing.target"),
        (("postprocessing", "beams"), 0, "postprocessing.beams"),
        (("postprocessing", "length_penalty"), -1, "postprocessing.length_penalty"),
        (("postprocessing", "length_offset"), 0, "postprocessing.length_offset"),
    ],
    ids=lambda value: named(value) if isinstance(value, tuple) else None,
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, keys: Keys, value: object, said: str) -> None:
    assert said in refusal(tmp_path, with_edit(FOURTH, *keys, to=value))
