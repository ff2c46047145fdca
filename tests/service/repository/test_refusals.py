"""Damaged bundles: what is wrong is told by file and reason, and nothing else suffers from it."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from starlette.testclient import TestClient

from service.errors import BundleRefused
from service.manifest import SCHEMA_VERSION
from service.repository.bundle import LoadOptions, load_bundle, verify_bundle
from service.repository.scan import scan
from service.tasks.base import TaskLimits
from tests.bundles import (
    FILES,
    HEIGHT,
    WIDTH,
    edit,
    flip_a_byte,
    make_bundle,
    manifest_in,
    model_of,
    read_golden,
    sign,
    tiny_graph,
    truncate,
    weights,
    write_golden,
)
from tests.conftest import start

Damage = Callable[[Path], object]

OPTIONS = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=64, limits=TaskLimits(max_pixels=10_000))
GRAPH = ("variants", "fp32", "graphs", "model")
TENSOR = {"name": "image", "datatype": "FP32", "shape": ["batch", 1, HEIGHT, WIDTH]}
WRONG_SHA256 = r"has sha256 [0-9a-f]{64}, the manifest says [0-9a-f]{64}"
DIFFERS = r"golden replay of variant 'fp32': output 'logits' differs by "


def signed(damage: Damage) -> Damage:
    """Do the damage, and have the manifest say that it is meant."""

    def both(bundle: Path) -> None:
        damage(bundle)
        sign(bundle)

    return both


def golden(**changes: Any) -> Damage:
    """Change arrays of the golden file, "/" written as "__"; None takes one away."""

    def damage(bundle: Path) -> None:
        arrays = read_golden(bundle)
        for key, change in changes.items():
            name = key.replace("__", "/")
            if change is None:
                del arrays[name]
            else:
                arrays[name] = change(arrays[name])
        write_golden(bundle, arrays)

    return signed(damage)


def onnx_file(content: bytes | onnx.ModelProto) -> Damage:
    """Put something else in place of the float32 graph."""
    data = content if isinstance(content, bytes) else content.SerializeToString()
    return signed(lambda bundle: (bundle / "model.onnx").write_bytes(data))


def renamed(bundle: Path) -> None:
    """Have the whole manifest speak of another input than the graphs have."""
    edit(bundle, "preprocessing", "input", to="picture")
    for variant in FILES:
        edit(bundle, "variants", variant, "graphs", "model", "inputs", 0, "name", to="picture")


def with_its_least_less(logits: NDArray[Any]) -> NDArray[Any]:
    changed = logits.copy()
    changed.flat[changed.argmin()] -= 0.001
    return changed


def lying_on_its_side(bundle: Path) -> None:
    """Have the whole manifest speak of pictures as high as they are wide in truth."""
    edit(bundle, "preprocessing", "width", to=HEIGHT)
    edit(bundle, "preprocessing", "height", to=WIDTH)
    for variant in FILES:
        edit(bundle, "variants", variant, "graphs", "model", "inputs", 0, "shape", to=["batch", 1, WIDTH, HEIGHT])


def labels(content: object) -> Damage:
    return signed(lambda bundle: (bundle / "labels.json").write_text(json.dumps(content), encoding="utf-8"))


def with_external_data() -> onnx.ModelProto:
    model = tiny_graph()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../secret")
    return model


def linked(bundle: Path) -> None:
    target = bundle.parents[2] / "labels-elsewhere.json"
    shutil.move(bundle / "labels.json", target)
    (bundle / "labels.json").symlink_to(target)


def folder_in_place_of_file(bundle: Path) -> None:
    (bundle / "labels.json").unlink()
    (bundle / "labels.json").mkdir()


def golden_bomb(bundle: Path) -> None:
    with (
        zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("inputs/model/image.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(2**20))


def golden_that_claims_more_than_it_has(bundle: Path) -> None:
    """Write an array whose header says that it has more numbers than any memory."""
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117) + "\n"
    with zipfile.ZipFile(bundle / "golden.npz", "w") as archive:
        archive.writestr(
            "inputs/model/image.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
        )


def golden_of_something_else(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / "golden.npz", "w") as archive:
        archive.writestr("inputs/model/image", b"no array")


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "flipped-manifest": (lambda at: flip_a_byte(at / "manifest.json", 0), "manifest.json", "is no JSON"),
    "flipped-onnx": (lambda at: flip_a_byte(at / "model.onnx"), "model.onnx", WRONG_SHA256),
    "flipped-int8": (lambda at: flip_a_byte(at / "model.int8.onnx"), "model.int8.onnx", WRONG_SHA256),
    "flipped-labels": (lambda at: flip_a_byte(at / "labels.json"), "labels.json", WRONG_SHA256),
    "flipped-golden": (lambda at: flip_a_byte(at / "golden.npz"), "golden.npz", WRONG_SHA256),
    "flipped-card": (lambda at: flip_a_byte(at / "README.md"), "README.md", WRONG_SHA256),
    "wrong-sha256": (
        lambda at: edit(at, "files", "model.onnx", "sha256", to="0" * 64),
        "model.onnx",
        "has sha256 [0-9a-f]{64}, the manifest says 0{64}",
    ),
    "no-manifest": (
        lambda at: (at / "manifest.json").unlink(),
        "manifest.json",
        "is missing.* there is also golden.npz, model.int8.onnx$",
    ),
    "no-manifest-nor-graph": (
        lambda at: [(at / name).unlink() for name in ("manifest.json", "model.onnx")],
        "manifest.json",
        r"can't be read \(No such file",
    ),
    "newer": (lambda at: edit(at, "schema_version", to=SCHEMA_VERSION + 1), "manifest.json", "made by a newer inferd"),
    "unknown-key": (lambda at: edit(at, "surprise", to=1), "manifest.json", "surprise: Extra inputs are not permitted"),
    "path-leaves": (
        lambda at: edit(at, *GRAPH, "file", to="../1/model.onnx"),
        "manifest.json",
        r"variants\.fp32\.graphs\.model\.file: .*inside the bundle folder",
    ),
    "absolute-path": (
        lambda at: edit(at, "golden", to=str(at / "golden.npz")),
        "manifest.json",
        "golden: .*inside the bundle folder",
    ),
    "missing-file": (lambda at: (at / "labels.json").unlink(), "labels.json", r"can't be read \(No such file"),
    "missing-card": (lambda at: (at / "README.md").unlink(), "README.md", r"can't be read \(No such file"),
    "linked-file": (linked, "labels.json", "a link leads out of it"),
    "folder-for-file": (folder_in_place_of_file, "labels.json", "is missing or no plain file"),
    "unlisted-file": (
        lambda at: edit(at, "files", "labels.json", to=...),
        "manifest.json",
        "files has no entry for labels.json",
    ),
    "unknown-task": (
        lambda at: edit(at, "task", to="mind-reading"),
        "manifest.json",
        "task 'mind-reading' is none of image-classification, tensors",
    ),
    "other-role": (
        lambda at: edit(
            at, "variants", "fp32", "graphs", to={"encoder": manifest_in(at)["variants"]["fp32"]["graphs"]["model"]}
        ),
        "manifest.json",
        "image-classification needs exactly one graph, called 'model'",
    ),
    "truncated": (
        lambda at: truncate(at / "model.onnx"),
        "model.onnx",
        "has [0-9]+ bytes, the manifest says [0-9]+",
    ),
    "truncated-signed": (
        signed(lambda at: truncate(at / "model.onnx")),
        "model.onnx",
        "is no ONNX model, or only a part of one",
    ),
    "empty-onnx": (onnx_file(b""), "model.onnx", "is no ONNX model: it has no graph"),
    "text-for-onnx": (onnx_file(b"this is no model"), "model.onnx", "is no ONNX model"),
    "external-data": (onnx_file(with_external_data()), "model.onnx", "keeps tensor 'factors' in another file"),
    "unknown-operator": (
        onnx_file(model_of([helper.make_node("Guess", ["image"], ["logits"])], {})),
        "model.onnx",
        "is no ONNX model to onnx.checker .*Guess",
    ),
    "input-name": (
        renamed,
        "model.onnx",
        r"has the inputs \['image'\], the manifest says \['picture'\]",
    ),
    "input-shape": (
        lying_on_its_side,
        "model.onnx",
        r"input 'image' is FP32 \('\*', 1, 4, 6\), the manifest says FP32 \('\*', 1, 6, 4\)",
    ),
    "input-datatype": (
        lambda at: edit(at, *GRAPH, "inputs", 0, "datatype", to="FP16"),
        "manifest.json",
        "preprocessing makes 'image' FP32 .* model.onnx has the inputs 'image' FP16",
    ),
    "input-rank": (
        lambda at: edit(at, *GRAPH, "inputs", 0, "shape", to=["batch", HEIGHT, WIDTH]),
        "manifest.json",
        r"preprocessing makes 'image' .* model.onnx has the inputs 'image' FP32 \('batch', 4, 6\)",
    ),
    "input-too-many": (
        lambda at: edit(at, *GRAPH, "inputs", to=[TENSOR, {**TENSOR, "name": "mask"}]),
        "manifest.json",
        "preprocessing makes 'image' .* model.onnx has the inputs 'image' .*, 'mask' ",
    ),
    "output-datatype": (
        lambda at: edit(at, *GRAPH, "outputs", 0, "datatype", to="INT64"),
        "model.onnx",
        "output 'logits' is FP32 .* the manifest says INT64",
    ),
    "output-name": (
        lambda at: edit(at, "variants", "int8", "graphs", "model", "outputs", 0, "name", to="scores"),
        "labels.json",
        "has 3 labels, but output 'logits' has shape None",
    ),
    "output-shape": (
        lambda at: edit(at, *GRAPH, "outputs", 0, "shape", to=["batch", "classes"]),
        "labels.json",
        "has 3 labels, but output 'logits' has shape",
    ),
    "preprocessing-input": (
        lambda at: edit(at, "preprocessing", "input", to="picture"),
        "manifest.json",
        "preprocessing makes 'picture' .* model.onnx has the inputs 'image'",
    ),
    "preprocessing-size": (
        lambda at: edit(at, "preprocessing", "width", to=WIDTH + 1),
        "manifest.json",
        r"preprocessing makes 'image' FP32 \('batch', 1, 4, 7\), but model.onnx has the inputs .*1, 4, 6",
    ),
    "few-labels": (labels(["dark", "bright"]), "labels.json", r"has 2 labels, but .*\('batch', 3\)"),
    "many-labels": (labels(["a", "b", "c", "d"]), "labels.json", r"has 4 labels, but .*\('batch', 3\)"),
    "no-labels": (labels([]), "labels.json", "must be a list of texts"),
    "labels-no-list": (labels({"0": "dark"}), "labels.json", "must be a list of texts"),
    "labels-no-texts": (labels([1, 2, 3]), "labels.json", "must be a list of texts"),
    "labels-no-json": (
        signed(lambda at: (at / "labels.json").write_bytes(b"dark\nbright")),
        "labels.json",
        "is no JSON",
    ),
    "labels-no-text": (signed(lambda at: (at / "labels.json").write_bytes(b'["\xff"]')), "labels.json", "is no JSON"),
    "labels-too-deep": (
        signed(lambda at: (at / "labels.json").write_bytes(b"[" * 99_999)),
        "labels.json",
        "is no JSON",
    ),
    "golden-framework": (
        golden(framework__model__logits=lambda logits: logits + 1),
        "model.onnx",
        DIFFERS + r"1, allowed is 0\.0001 \(from PyTorch's in golden\.npz\)",
    ),
    "golden-runtime": (
        golden(runtime__fp32__model__logits=lambda logits: logits - 0.25),
        "model.onnx",
        DIFFERS + r"0\.25, allowed is 0\.0001 \(from ONNX Runtime's in golden\.npz\)",
    ),
    "golden-one-number": (
        golden(framework__model__logits=with_its_least_less),
        "model.onnx",
        DIFFERS + r"0\.001, allowed",
    ),
    "golden-another-class": (
        golden(framework__model__logits=lambda logits: np.roll(logits, 1, axis=1)),
        "model.onnx",
        "golden replay of variant 'fp32': output 'logits' puts another class first",
    ),
    "golden-nan": (golden(framework__model__logits=lambda logits: logits * np.nan), "model.onnx", DIFFERS + "nan"),
    "golden-weights": (
        onnx_file(
            model_of(
                [
                    helper.make_node("Flatten", ["image"], ["flat"]),
                    helper.make_node("Gemm", ["flat", "factors", "offsets"], ["logits"]),
                ],
                {"factors": weights()[0], "offsets": weights()[1] + np.float32(0.001)},
            )
        ),
        "model.onnx",
        DIFFERS + r"0\.001, allowed is 0\.0001",
    ),
    "golden-shape": (
        golden(framework__model__logits=lambda logits: logits[:3]),
        "model.onnx",
        r"output 'logits' has shape \(5, 3\), not \(3, 3\)",
    ),
    "golden-input-shape": (
        golden(inputs__model__image=lambda image: image[:, :, :2]),
        "model.onnx",
        "the golden replay failed: .*ONNX Runtime failed",
    ),
    "golden-input-dtype": (
        golden(inputs__model__image=lambda image: image.astype(np.float64)),
        "model.onnx",
        "the golden replay failed: .*ONNX Runtime failed",
    ),
    "golden-text": (
        golden(framework__model__logits=lambda logits: logits.astype(str)),
        "golden.npz",
        "'framework/model/logits'",
    ),
    "golden-no-rows": (
        golden(
            inputs__model__image=lambda image: image[:0],
            framework__model__logits=lambda logits: logits[:0],
            runtime__fp32__model__logits=lambda logits: logits[:0],
        ),
        "golden.npz",
        "has no rows",
    ),
    "golden-no-input": (golden(inputs__model__image=None), "golden.npz", "has no array 'inputs/model/image'"),
    "golden-no-framework": (
        golden(framework__model__logits=None),
        "golden.npz",
        "has no array 'framework/model/logits'",
    ),
    "golden-no-runtime": (
        golden(runtime__fp32__model__logits=None),
        "golden.npz",
        "has no array 'runtime/fp32/model/logits'",
    ),
    "golden-pickled": (
        golden(inputs__model__image=lambda image: image.astype(object)),
        "golden.npz",
        r"can't be read \(Object arrays cannot be loaded when allow_pickle=False\)",
    ),
    "golden-no-zip": (signed(lambda at: (at / "golden.npz").write_bytes(b"no zip")), "golden.npz", "can't be read"),
    "golden-empty": (signed(lambda at: (at / "golden.npz").write_bytes(b"")), "golden.npz", "can't be read"),
    "golden-truncated": (signed(lambda at: truncate(at / "golden.npz")), "golden.npz", "can't be read"),
    "golden-bomb": (signed(golden_bomb), "golden.npz", "has 314572800 bytes unpacked, the limit is 268435456"),
    "golden-claims": (signed(golden_that_claims_more_than_it_has), "golden.npz", "can't be read"),
    "golden-of-else": (
        signed(golden_of_something_else),
        "golden.npz",
        "has no array 'inputs/model/image'",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one bundle of each damage, and three that are whole, before, between and after them."""
    models = tmp_path_factory.mktemp("damaged") / "models"
    for name in ("a-whole-one", "midway", "whole-too"):
        make_bundle(models, name)
    for name, (damage, _, _) in DAMAGES.items():
        damage(make_bundle(models, name))
    return models


@pytest.fixture(scope="module")
def damaged(folder: Path) -> Iterator[TestClient]:
    """Serve all of them at once."""
    with start(models=folder) as client:
        yield client


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_refused_with_the_file_and_the_reason(folder: Path, name: str) -> None:
    _, file, problem = DAMAGES[name]
    (bundle,) = (one for one in scan(folder) if one.name == name)
    with pytest.raises(BundleRefused) as caught:
        load_bundle(bundle, OPTIONS)
    assert caught.value.file == file
    assert re.search(problem, caught.value.problem)
    assert str(caught.value) == f"{file}: {caught.value.problem}"


@pytest.mark.parametrize("name", DAMAGES)
def test_what_would_not_be_served_is_not_verified_either(folder: Path, name: str) -> None:
    _, file, problem = DAMAGES[name]
    (bundle,) = (one for one in scan(folder) if one.name == name)
    with pytest.raises(BundleRefused, match=problem) as caught:
        verify_bundle(bundle, OPTIONS)
    assert caught.value.file == file


def test_readiness_lists_every_refused_bundle_with_its_reason_and_every_whole_one(damaged: TestClient) -> None:
    answer = damaged.get("/health/ready")
    assert answer.status_code == 503
    listed = {model["name"]: model for model in answer.json()["models"]}
    assert listed.keys() == {*DAMAGES, "a-whole-one", "midway", "whole-too"}
    for name, (_, file, problem) in DAMAGES.items():
        assert listed[name]["state"] == "UNAVAILABLE"
        assert listed[name]["reason"].startswith(f"{file}: ")
        assert re.search(problem, listed[name]["reason"])
    assert {listed[name]["state"] for name in ("a-whole-one", "midway", "whole-too")} == {"READY"}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_request_to_a_refused_bundle_is_answered_503_with_the_reason(damaged: TestClient, name: str) -> None:
    _, file, problem = DAMAGES[name]
    answers = [
        damaged.post(f"/predict/{name}", content=b""),
        damaged.post(f"/predict/{name}/versions/1", content=b""),
        damaged.get(f"/predict/{name}"),
        damaged.get(f"/v2/models/{name}"),
        damaged.get(f"/v2/models/{name}/ready"),
        damaged.post(f"/v2/models/{name}/infer", json={}),
    ]
    for answer in answers:
        assert answer.status_code == 503
        message = answer.json()["error"]
        assert message.startswith(f"model '{name}' version 1 is not ready: {file}: ")
        assert re.search(problem, message)


@pytest.mark.parametrize("name", ["a-whole-one", "midway", "whole-too"])
def test_the_whole_bundles_serve_beside_the_damaged_ones(damaged: TestClient, name: str) -> None:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, HEIGHT, WIDTH], "data": [1.0] * HEIGHT * WIDTH}
    answer = damaged.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == pytest.approx([-4, 4, 0], abs=1e-5)


def test_only_models_that_loaded_have_series(damaged: TestClient) -> None:
    scraped = damaged.get("/metrics").text
    assert set(re.findall(r'inferd_model_ready\{model="([^"]*)"', scraped)) == {"a-whole-one", "midway", "whole-too"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("file", [*FILES.values(), "golden.npz", "labels.json", "README.md"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_byte_flipped_anywhere_in_a_file_is_found(whole: Path, file: str, data: st.DataObject) -> None:
    content = (whole / file).read_bytes()
    flip_a_byte(whole / file, data.draw(st.integers(0, len(content) - 1)))
    try:
        (bundle,) = scan(whole.parents[1])
        with pytest.raises(BundleRefused, match=WRONG_SHA256) as caught:
            load_bundle(bundle, OPTIONS)
        assert caught.value.file == file
    finally:
        (whole / file).write_bytes(content)


def outcome(folder: Path) -> str:
    (bundle,) = scan(folder.parents[1])
    try:
        load_bundle(bundle, OPTIONS)
    except BundleRefused as refused:
        return refused.file
    return "loaded"


# ONNX Runtime is native code: what it might make of a new file in every run is no matter of these tests.
@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "labels.json"])
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_whatever_a_signed_file_holds_loading_ends_in_a_model_or_a_refusal(
    whole: Path, file: str, data: st.DataObject
) -> None:
    content = (whole / file).read_bytes()
    changed = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        changed[position] = data.draw(st.integers(0, 255))
    (whole / file).write_bytes(changed)
    sign(whole)
    try:
        assert outcome(whole) in {"loaded", file, "model.onnx", "labels.json"}
    finally:
        (whole / file).write_bytes(content)
        sign(whole)
