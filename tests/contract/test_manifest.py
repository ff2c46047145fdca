from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import BundleRefused
from service.manifest import SCHEMA_VERSION, Batching, Graph, Manifest, Tensor, json_schema, read_manifest, verify_files
from tests.bundles import make_bundle, manifest_in, sign, with_edit, write_manifest

REPOSITORY = Path(__file__).parents[2]
FROZEN: dict[str, Any] = json.loads((Path(__file__).parent / "manifest-1.json").read_bytes())
"""A manifest as version 1 of the contract was first written. It is never changed: old bundles must stay readable."""

SECOND: dict[str, Any] = json.loads((Path(__file__).parent / "manifest-2.json").read_bytes())
"""A manifest as version 2 was first written, of a model that is nothing but its graph. It is never changed either."""

Keys = tuple[str | int, ...]

OPTIONAL: set[Keys] = {
    ("golden",),
    ("preprocessing", "kind"),
    ("preprocessing", "resample"),
    ("preprocessing", "background"),
    ("preprocessing", "invert"),
    ("postprocessing", "kind"),
    ("batching",),
    ("batching", "max_batch_size"),
    ("provenance", "initial_weights"),
}
FREE = {"files", "variants", "graphs", "sha256", "config", "fit", "tools"}
"""Objects whose keys are names, not words of the contract."""


def objects(content: Any, keys: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """List every object in a manifest but those whose keys are names, with where it lies."""
    if isinstance(content, dict):
        if not keys or keys[-1] not in FREE:
            yield keys, content
        for key, value in content.items():
            yield from objects(value, (*keys, key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from objects(value, (*keys, index))


OBJECTS = dict(objects(FROZEN))
KEYS = [(*keys, key) for keys, content in OBJECTS.items() for key in content]


def named(keys: Keys) -> str:
    return ".".join(map(str, keys))


def refusal(folder: Path, content: object) -> str:
    write_manifest(folder, content)
    with pytest.raises(BundleRefused) as caught:
        read_manifest(folder)
    assert caught.value.file == "manifest.json"
    return str(caught.value)


def test_the_json_schema_in_the_documentation_is_the_one_that_the_contract_generates() -> None:
    committed = REPOSITORY / "docs" / "manifest.schema.json"
    assert committed.read_text(encoding="utf-8") == json_schema(), (
        "the contract has changed; write its schema anew: "
        "python -c \"import service.manifest as m; print(m.json_schema(), end='')\" > docs/manifest.schema.json"
    )


def test_the_json_schema_lets_no_unknown_key_in() -> None:
    schema = json.loads(json_schema())
    definitions = {"Manifest": schema, **schema["$defs"]}
    assert all(one["additionalProperties"] is False for one in definitions.values() if "properties" in one)


def test_a_manifest_written_by_the_first_version_is_still_read_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    write_manifest(tmp_path, FROZEN)
    manifest = read_manifest(tmp_path)
    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == FROZEN
    assert manifest.default == manifest.variants["int8"]
    assert manifest.preprocessing.std == (0.229, 0.224, 0.225)
    assert manifest.provenance.initial_weights is not None


def test_a_manifest_does_not_change_once_it_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, FROZEN)
    manifest = read_manifest(tmp_path)
    with pytest.raises(ValidationError):
        manifest.default_variant = "fp32"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        manifest.preprocessing.invert = False  # type: ignore[misc]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, SCHEMA_VERSION + 2, 1000])
def test_a_newer_manifest_is_told_as_such_whatever_else_it_says(tmp_path: Path, version: int) -> None:
    newer = {"schema_version": version, "task": 7, "what_nobody_knows_yet": {}}
    assert "made by a newer inferd" in refusal(tmp_path, newer)
    assert "made by a newer inferd" in refusal(tmp_path, {**FROZEN, "schema_version": version})


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5, []])
def test_a_schema_version_that_never_was_is_refused_by_name(tmp_path: Path, version: object) -> None:
    message = refusal(tmp_path, {**FROZEN, "schema_version": version})
    assert "schema_version" in message
    assert "newer" not in message


@pytest.mark.parametrize("keys", OBJECTS, ids=lambda keys: named(keys) or "manifest")
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(tmp_path: Path, keys: Keys) -> None:
    assert f"{named((*keys, 'surprise'))}: Extra inputs" in refusal(
        tmp_path, with_edit(FROZEN, *keys, "surprise", to=1)
    )


@pytest.mark.parametrize("keys", [keys for keys in KEYS if keys not in OPTIONAL], ids=named)
def test_a_missing_key_is_refused_by_name(tmp_path: Path, keys: Keys) -> None:
    assert f"{named(keys)}: Field required" in refusal(tmp_path, with_edit(FROZEN, *keys, to=...))


@pytest.mark.parametrize("keys", sorted(OPTIONAL), ids=named)
def test_an_optional_key_may_be_left_out(tmp_path: Path, keys: Keys) -> None:
    write_manifest(tmp_path, with_edit(FROZEN, *keys, to=...))
    read_manifest(tmp_path)


def test_what_is_left_out_has_the_value_that_version_1_gave_it(tmp_path: Path) -> None:
    content = FROZEN
    for keys in sorted(OPTIONAL, reverse=True):
        content = with_edit(content, *keys, to=...)
    write_manifest(tmp_path, content)
    manifest = read_manifest(tmp_path)
    how = manifest.preprocessing
    assert (how.resample, how.background, how.invert) == ("bilinear", 0, False)
    assert manifest.batching == Batching(max_batch_size=64)
    assert manifest.golden == "golden.npz"
    assert manifest.provenance.initial_weights is None


# Version 2


def test_a_manifest_of_a_model_that_is_only_its_graph_is_read_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    write_manifest(tmp_path, SECOND)
    manifest = read_manifest(tmp_path)
    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == SECOND
    (graph,) = manifest.default.graphs.values()
    assert [tensor.shape for tensor in graph.inputs] == [(), None, (0, 3, "length")]
    assert not graph.batched


def test_what_a_model_that_is_only_its_graph_need_not_say_may_be_left_out(tmp_path: Path) -> None:
    content = SECOND
    for key in ("golden", "preprocessing", "postprocessing", "batching", "provenance", "licence"):
        content = with_edit(content, key, to=...)
    content = with_edit(content, "variants", "original", "tolerance", "framework", to=...)
    write_manifest(tmp_path, content)
    manifest = read_manifest(tmp_path)
    assert manifest.golden == "golden.npz"
    assert manifest.preprocessing is manifest.postprocessing is manifest.provenance is manifest.licence is None
    write_manifest(tmp_path, {**content, "golden": None})
    assert read_manifest(tmp_path).golden is None


def test_a_model_that_is_only_its_graph_has_nothing_before_or_after_it(tmp_path: Path) -> None:
    for key in ("preprocessing", "postprocessing"):
        content = with_edit(
            {**SECOND, key: FROZEN[key]}, "files", "assets/labels.json", to=SECOND["files"]["README.md"]
        )
        assert "task 'tensors' has no preprocessing and no postprocessing" in refusal(tmp_path, content)


def test_version_1_knew_no_model_that_is_only_its_graph(tmp_path: Path) -> None:
    assert "preprocessing: Field required by task 'tensors'" in refusal(tmp_path, {**SECOND, "schema_version": 1})


def test_a_trained_model_may_be_written_as_version_2(tmp_path: Path) -> None:
    write_manifest(tmp_path, {**FROZEN, "schema_version": 2})
    assert read_manifest(tmp_path).preprocessing == Manifest.model_validate(FROZEN).preprocessing


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("golden",), None, "golden: Field required by task 'image-classification'"),
        (("preprocessing",), None, "preprocessing: Field required by task 'image-classification'"),
        (("postprocessing",), None, "postprocessing: Field required by task 'image-classification'"),
        (("provenance",), None, "provenance: Field required by task 'image-classification'"),
        (("parameters",), 0, "parameters: Input should be greater than or equal to 1"),
        (
            ("variants", "int8", "tolerance", "framework"),
            None,
            "variants.int8.tolerance.framework: Field required by task 'image-classification'",
        ),
        (
            ("variants", "fp32", "graphs", "model", "outputs", 0, "shape"),
            None,
            "model.onnx: the first axis of 'logits' must be 'batch'",
        ),
        (
            ("variants", "fp32", "graphs", "model", "outputs", 0, "shape"),
            ["batch", 0],
            "variants.fp32.graphs.model.outputs.0.shape.1: Input should be greater than or equal to 1",
        ),
    ],
)
def test_a_trained_model_says_no_less_in_version_2_than_in_version_1(
    tmp_path: Path, version: int, keys: Keys, value: object, said: str
) -> None:
    assert said in refusal(tmp_path, with_edit({**FROZEN, "schema_version": version}, *keys, to=value))


@pytest.mark.parametrize(
    ("shapes", "batched"),
    [
        ((("batch", 3), ("batch",), ("batch", "length")), True),
        ((("batch", 3), ("rows",), ("batch", "length")), False),
        ((("batch", 3), (1,), ("batch",)), False),
        ((("batch", 3), (), ("batch",)), False),
        ((("batch", 3), ("batch",), None), False),
    ],
)
def test_a_graph_is_batched_if_the_batch_is_the_first_axis_of_everything(
    shapes: tuple[tuple[int | str, ...] | None, ...], batched: bool
) -> None:
    one, other, output = (Tensor(name="x", datatype="FP32", shape=shape) for shape in shapes)
    assert Graph(file="model.onnx", inputs=(one, other), outputs=(output,)).batched is batched


@pytest.mark.parametrize(
    ("declared", "accepted", "refused"),
    [
        (("batch", 3), [(1, 3), (0, 3), (70, 3)], [(3,), (1, 2), (1, 3, 1), ()]),
        ((), [()], [(1,), (0,)]),
        ((0, "n"), [(0, 0), (0, 5)], [(1, 5), (0,)]),
        (None, [(), (1,), (2, 0, 3)], []),
    ],
)
def test_a_tensor_takes_arrays_of_its_rank_and_of_its_sizes(
    declared: tuple[int | str, ...] | None, accepted: list[tuple[int, ...]], refused: list[tuple[int, ...]]
) -> None:
    tensor = Tensor(name="x", datatype="FP32", shape=declared)
    assert all(tensor.accepts(shape) for shape in accepted)
    assert not any(tensor.accepts(shape) for shape in refused)


PATHS_THAT_LEAVE = [
    "../model.onnx",
    "..",
    ".",
    "",
    "a/../../model.onnx",
    "a/../model.onnx",
    "/etc/passwd",
    "//model.onnx",
    "a//model.onnx",
    "./model.onnx",
    ".hidden",
    "a/.hidden",
    "a/b/model.onnx",
    "a\\model.onnx",
    "..\\model.onnx",
    "C:\\model.onnx",
    "C:model.onnx",
    "~/model.onnx",
    "model.onnx\n",
    "model.onnx\x00",
    "mödel.onnx",
    "$HOME/model.onnx",
]


@pytest.mark.parametrize("path", PATHS_THAT_LEAVE)
@pytest.mark.parametrize(
    "keys",
    [("variants", "int8", "graphs", "model", "file"), ("golden",), ("postprocessing", "labels")],
    ids=named,
)
def test_a_path_that_may_leave_the_folder_is_refused_by_name(tmp_path: Path, keys: Keys, path: str) -> None:
    message = refusal(tmp_path, with_edit(FROZEN, *keys, to=path))
    assert f"{named(keys)}: Value error, a file is named by a path inside the bundle folder" in message


@pytest.mark.parametrize("path", PATHS_THAT_LEAVE)
def test_no_file_is_listed_by_a_path_that_may_leave_the_folder(tmp_path: Path, path: str) -> None:
    entry = FROZEN["files"]["README.md"]
    message = refusal(tmp_path, with_edit(FROZEN, "files", path, to=entry))
    assert message.startswith(f"manifest.json: files.{path}")
    assert "a file is named by a path inside the bundle folder" in message


MODEL: Keys = ("variants", "fp32", "graphs", "model")
ENTRY: Keys = ("files", "model.onnx")

WRONG_VALUES: list[tuple[Keys, object, str]] = [
    ((*ENTRY, "sha256"), "4" * 63, "files.model.onnx.sha256"),
    ((*ENTRY, "sha256"), "4" * 65, "files.model.onnx.sha256"),
    ((*ENTRY, "sha256"), "A" * 64, "files.model.onnx.sha256"),
    ((*ENTRY, "sha256"), "4" * 64 + "\n", "files.model.onnx.sha256"),
    ((*ENTRY, "sha256"), None, "files.model.onnx.sha256"),
    ((*ENTRY, "bytes"), -1, "files.model.onnx.bytes"),
    ((*ENTRY, "bytes"), 1.5, "files.model.onnx.bytes"),
    (("provenance", "data", "sha256", "train.gz"), "5", "provenance.data.sha256.train.gz"),
    (("task",), "Image Classification", "task"),
    (("task",), "", "task"),
    (("parameters",), 0, "parameters"),
    (("variants",), {}, "default_variant 'int8' is none of []"),
    (("variants", "fp32", "graphs"), {}, "variants.fp32.graphs"),
    (("default_variant",), "int4", "default_variant 'int4' is none of ['fp32', 'int8']"),
    (("files",), {}, "files has no entry for assets/labels.json, golden.npz, model.int8.onnx, model.onnx"),
    (("files", "golden.npz"), ..., "files has no entry for golden.npz"),
    (("files", "assets/labels.json"), ..., "files has no entry for assets/labels.json"),
    (("files", "model.int8.onnx"), ..., "files has no entry for model.int8.onnx"),
    ((*MODEL, "inputs"), [], "variants.fp32.graphs.model.inputs"),
    ((*MODEL, "outputs"), [], "variants.fp32.graphs.model.outputs"),
    ((*MODEL, "inputs", 0, "datatype"), "FP31", "variants.fp32.graphs.model.inputs.0.datatype"),
    ((*MODEL, "inputs", 0, "shape"), ["batch", 0, 32, 24], "variants.fp32.graphs.model.inputs.0.shape.1"),
    ((*MODEL, "inputs", 0, "shape"), ["batch", -1, 32, 24], "variants.fp32.graphs.model.inputs.0.shape.1"),
    ((*MODEL, "inputs", 0, "shape"), [], "model.onnx: the first axis of 'image' must be 'batch'"),
    ((*MODEL, "inputs", 0, "shape"), [1, 3, 32, 24], "model.onnx: the first axis of 'image' must be 'batch'"),
    ((*MODEL, "outputs", 0, "shape"), ["rows", 3], "model.onnx: the first axis of 'logits' must be 'batch'"),
    (("variants", "fp32", "tolerance", "runtime"), 0, "variants.fp32.tolerance.runtime"),
    (("variants", "fp32", "tolerance", "framework"), -1, "variants.fp32.tolerance.framework"),
    (("variants", "fp32", "tolerance", "runtime"), float("inf"), "variants.fp32.tolerance.runtime"),
    (("variants", "fp32", "tolerance", "runtime"), float("nan"), "variants.fp32.tolerance.runtime"),
    (("preprocessing", "kind"), "sound", "preprocessing: kind must be 'image' or 'characters'"),
    (("preprocessing", "width"), 0, "preprocessing.width"),
    (("preprocessing", "height"), 5000, "preprocessing.height"),
    (("preprocessing", "channels"), 2, "preprocessing.channels"),
    (("preprocessing", "channels"), 1, "preprocessing: Value error, mean and std need 1 values each"),
    (("preprocessing", "mean"), [0.5], "preprocessing: Value error, mean and std need 3 values each"),
    (("preprocessing", "std"), [0.5], "preprocessing: Value error, mean and std need 3 values each"),
    (("preprocessing", "std"), [1, 0, 1], "preprocessing.std.1"),
    (("preprocessing", "mean"), [1, float("nan"), 1], "preprocessing.mean.1"),
    (("preprocessing", "fit"), "squeeze", "preprocessing.fit"),
    (("preprocessing", "resample"), "magic", "preprocessing.resample"),
    (("preprocessing", "background"), 256, "preprocessing.background"),
    (("preprocessing", "background"), -1, "preprocessing.background"),
    (("postprocessing", "activation"), "relu", "postprocessing.activation"),
    (("batching", "max_batch_size"), 0, "batching.max_batch_size"),
    (("batching", "max_batch_size"), 5000, "batching.max_batch_size"),
    (("quality", 0, "n"), 0, "quality.0.n"),
    (("provenance", "opset"), 0, "provenance.opset"),
    (("provenance", "training_seconds"), -1, "provenance.training_seconds"),
]


@pytest.mark.parametrize(
    ("keys", "value", "said"), WRONG_VALUES, ids=[f"{named(keys)}={value!r}" for keys, value, _ in WRONG_VALUES]
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, keys: Keys, value: object, said: str) -> None:
    assert said in refusal(tmp_path, with_edit(FROZEN, *keys, to=value))


def test_a_message_about_many_wrong_keys_stays_readable(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, dict.fromkeys((f"key{number}" for number in range(1000)), 1))) < 1000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"{}}", "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
        (b'{"title": "\xff"}', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"null", "is no JSON object"),
        (b'"manifest"', "is no JSON object"),
        (b" " * 1_000_001, "has 1000001 bytes, the limit is 1000000"),
    ],
    ids=["empty", "cut", "too much", "no text", "no text within", "deep", "a list", "null", "a text", "huge"],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleRefused, match=f"manifest.json: {said}"):
        read_manifest(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"manifest.json: can't be read \(No such file"):
        read_manifest(tmp_path)


def test_a_folder_in_place_of_the_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleRefused, match=r"manifest.json: is missing or no plain file"):
        read_manifest(tmp_path)


@given(data=st.data())
def test_a_flipped_byte_in_a_manifest_never_does_more_than_have_it_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(json.dumps(FROZEN).encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "manifest.json").write_bytes(content)
    with suppress(BundleRefused):
        assert isinstance(read_manifest(folder), Manifest)


def test_the_files_of_a_whole_bundle_are_what_its_manifest_says(models: Path) -> None:
    bundle = make_bundle(models)
    verify_files(bundle, read_manifest(bundle))


def test_a_file_of_another_size_is_refused_with_both_sizes(models: Path) -> None:
    bundle = make_bundle(models)
    written = (bundle / "labels.json").stat().st_size
    (bundle / "labels.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BundleRefused, match=f"labels.json: has 2 bytes, the manifest says {written}"):
        verify_files(bundle, read_manifest(bundle))


def test_a_file_in_a_folder_of_the_bundle_is_verified_too(models: Path) -> None:
    bundle = make_bundle(models)
    (bundle / "assets").mkdir()
    (bundle / "assets" / "picture.png").write_bytes(b"picture")
    sign(bundle)
    assert "assets/picture.png" in manifest_in(bundle)["files"]
    verify_files(bundle, read_manifest(bundle))
    (bundle / "assets" / "picture.png").write_bytes(b"puncture")
    with pytest.raises(BundleRefused, match=r"assets/picture.png: has 8 bytes"):
        verify_files(bundle, read_manifest(bundle))


def test_a_file_behind_a_link_is_refused_though_its_bytes_are_right(models: Path) -> None:
    bundle = make_bundle(models)
    (bundle / "labels.json").rename(models / "elsewhere.json")
    (bundle / "labels.json").symlink_to(models / "elsewhere.json")
    with pytest.raises(BundleRefused, match=r"labels.json: .*a link leads out of it"):
        verify_files(bundle, read_manifest(bundle))


def test_a_file_in_a_folder_behind_a_link_is_refused_though_its_bytes_are_right(models: Path) -> None:
    bundle = make_bundle(models)
    (bundle / "assets").mkdir()
    (bundle / "assets" / "picture.png").write_bytes(b"picture")
    sign(bundle)
    (bundle / "assets").rename(models / "elsewhere")
    (bundle / "assets").symlink_to(models / "elsewhere")
    with pytest.raises(BundleRefused, match=r"assets/picture.png: .*a link leads out of it"):
        verify_files(bundle, read_manifest(bundle))
