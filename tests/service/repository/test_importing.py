from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from service.errors import BadInput, BundleRefused, RuntimeFailure
from service.manifest import read_manifest, verify_files
from service.repository.bundle import LoadOptions, load_bundle, verify_bundle
from service.repository.golden import GoldenMismatch
from service.repository.importing import Import, Imported, import_model
from service.repository.scan import scan
from service.tasks.base import TaskLimits
from service.tensors import DTYPES
from tests.bundles import (
    entangled_graph,
    flip_a_byte,
    graph_of,
    identities_graph,
    identity_graph,
    lengths_graph,
    lookup_graph,
    make_bare,
    make_bundle,
    manifest_in,
    read_golden,
    sign,
    sum_graph,
    tensor,
    tiny_graph,
    write_golden,
)
from tests.conftest import Serve

OPTIONS = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=64, limits=TaskLimits(max_pixels=10_000))
DIFFERS = "golden replay of variant 'original': output 'y' "

Bring = Callable[..., Imported]


@pytest.fixture
def bring(models: Path, tmp_path: Path) -> Bring:
    """Give a function that imports a graph, as `import_model` does."""

    def make(graph: onnx.ModelProto | bytes, name: str = "brought", **wanted: Any) -> Imported:
        file = tmp_path / "given.onnx"
        file.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
        return import_model(models, Import(file, name, **wanted), OPTIONS)

    return make


def inputs(folder: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(folder / "inputs.npz", allow_pickle=True, **arrays)
    return folder / "inputs.npz"


# What is written


def test_a_graph_becomes_a_bundle_that_is_loaded_and_replayed_as_any_other(models: Path, bring: Bring) -> None:
    made = bring(sum_graph(), licence="MIT", title="Sums")
    assert (made.folder.name, made.folder.version, made.folder.path) == ("brought", 1, models / "brought" / "1")
    assert made.no_batch is None
    assert sorted(path.name for path in made.folder.path.iterdir()) == [
        "README.md",
        "golden.npz",
        "manifest.json",
        "model.onnx",
    ]
    manifest = read_manifest(made.folder.path)
    assert manifest == made.manifest
    verify_files(made.folder.path, manifest)
    assert set(manifest.files) == {"README.md", "golden.npz", "model.onnx"}
    content = sum_graph().SerializeToString()
    assert (made.folder.path / "model.onnx").read_bytes() == content
    assert manifest.files["model.onnx"].sha256 == hashlib.sha256(content).hexdigest()
    assert (manifest.title, manifest.licence, manifest.task, manifest.parameters) == ("Sums", "MIT", "tensors", 1)
    assert scan(models) == [made.folder]
    bundle = load_bundle(made.folder, OPTIONS)
    assert bundle.batched
    assert bundle.examples["model"]["a"].shape == (3, 3)
    assert [rows for rows, _ in bundle.measure_latency()][-1] == 64
    assert verify_bundle(made.folder, OPTIONS) == manifest


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("shape", [["n", 2], [], [2, 0], None, ["n", 0]], ids=str)
def test_golden_outputs_of_every_datatype_and_shape_are_kept_and_replayed(
    bring: Bring, datatype: str, shape: list[int | str | None] | None
) -> None:
    made = bring(identity_graph(datatype, shape))
    bundle = load_bundle(made.folder, OPTIONS)
    assert bundle.batched is (shape is not None and shape[:1] == ["n"])
    assert bundle.examples["model"]
    assert bundle.examples["model"]["x"].dtype == DTYPES[datatype]
    golden = read_golden(made.folder.path)
    np.testing.assert_array_equal(golden["inputs/model/x"], golden["runtime/original/model/y"])
    assert golden["inputs/model/x"].shape == bundle.examples["model"]["x"].shape


@pytest.mark.parametrize("make", [sum_graph, lengths_graph, lookup_graph, entangled_graph, tiny_graph])
def test_several_inputs_and_outputs_and_symbolic_axes_are_replayed(
    bring: Bring, make: Callable[[], onnx.ModelProto]
) -> None:
    made = bring(make())
    load_bundle(made.folder, OPTIONS)
    assert made.manifest.default.graphs["model"].batched is (make is not entangled_graph)


def test_rows_that_influence_each_other_are_written_down_as_no_batch(bring: Bring) -> None:
    made = bring(entangled_graph())
    assert made.no_batch == "output 'y' of a row depends on the rows beside it"
    (graph,) = made.manifest.default.graphs.values()
    assert graph.inputs[0].shape == ("axis_0", 3)
    assert not load_bundle(made.folder, OPTIONS).batched
    assert made.no_batch in (made.folder.path / "README.md").read_text(encoding="utf-8")


def test_answers_that_are_no_numbers_are_golden_too(bring: Bring) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "half"], ["around_zero"]),
        helper.make_node("Log", ["around_zero"], ["y"]),
        helper.make_node("Div", ["x", "zero"], ["infinite"]),
    ]
    shape = ["n", 4]
    model = graph_of(
        nodes,
        [tensor("x", "FP32", shape)],
        [tensor("y", "FP32", shape), tensor("infinite", "FP32", shape)],
        {"half": np.float32(0.5), "zero": np.float32(0)},
    )
    made = bring(model)
    golden = read_golden(made.folder.path)
    assert np.isnan(golden["runtime/original/model/y"]).any()
    assert np.isinf(golden["runtime/original/model/infinite"]).all()
    load_bundle(made.folder, OPTIONS)


def test_large_answers_may_differ_by_more_than_small_ones(bring: Bring) -> None:
    nodes = [helper.make_node("Mul", ["x", "much"], ["y"])]
    model = graph_of(nodes, [tensor("x", "FP32", ["n", 4])], [tensor("y", "FP32", ["n", 4])], {"much": np.float32(1e6)})
    assert bring(identity_graph()).manifest.default.tolerance.runtime == 0.001
    assert 500 < bring(model).manifest.default.tolerance.runtime < 1000
    texts_and_numbers = identities_graph({"a": ("BYTES", ["n"]), "b": ("INT64", ["n"])})
    assert bring(texts_and_numbers).manifest.default.tolerance.runtime == 0.001


def test_the_card_says_what_the_manifest_says(bring: Bring) -> None:
    made = bring(identities_graph({"a": ("BYTES", ["n"]), "b": ("FP16", None)}), licence="Apache-2.0", title="Texts")
    card = (made.folder.path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Texts\n")
    assert "Apache-2.0" in card
    assert made.manifest.files["model.onnx"].sha256 in card
    assert "| input | `a` | BYTES | (n) |" in card
    assert "| output | `out_b` | FP16 | any |" in card
    assert "licence: not stated" in (bring(sum_graph()).folder.path / "README.md").read_text(encoding="utf-8")


def test_labels_come_along(bring: Bring, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('["a", "b", "c"]', encoding="utf-8")
    made = bring(identity_graph(), labels=tmp_path / "names.json")
    assert load_bundle(made.folder, OPTIONS).task.describe()["labels"] == ["a", "b", "c"]
    flip_a_byte(made.folder.path / "labels.json")
    with pytest.raises(BundleRefused, match=r"labels\.json: has sha256"):
        load_bundle(made.folder, OPTIONS)


# Versions


def test_a_version_is_one_more_than_the_highest_unless_it_is_named(models: Path, bring: Bring) -> None:
    make_bare(models, "brought", 9)
    make_bundle(models, "other", 30)
    assert bring(sum_graph()).folder.version == 10
    assert bring(sum_graph(), version=3).folder.version == 3
    assert bring(sum_graph()).folder.version == 11
    assert bring(sum_graph(), "fresh").folder.version == 1


def test_a_models_folder_is_made_where_there_is_none(models: Path, bring: Bring) -> None:
    models.rmdir()
    assert bring(sum_graph()).folder.path.is_dir()


def test_a_version_is_never_overwritten(models: Path, bring: Bring) -> None:
    folder = make_bare(models, "brought")
    before = (folder / "model.onnx").read_bytes()
    with pytest.raises(FileExistsError, match="1 exists: a version is never overwritten"):
        bring(sum_graph(), version=1)
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == before


@pytest.mark.parametrize("version", [0, -1, 10**9])
def test_a_version_that_would_not_be_found_is_refused(bring: Bring, version: int) -> None:
    with pytest.raises(BadInput, match="a version is a whole number from 1 to 999999999"):
        bring(sum_graph(), version=version)


@pytest.mark.parametrize("name", ["Brought", "../up", "a/b", "", ".tmp", "a" * 65])
def test_a_name_that_would_not_be_found_is_refused(models: Path, bring: Bring, name: str) -> None:
    with pytest.raises(BadInput, match="a model's name is like"):
        bring(sum_graph(), name)
    assert list(models.iterdir()) == []


# What can't be brought, of which nothing is left behind


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (b"no model", r"model\.onnx: is no ONNX model"),
        (lookup_graph(9), r"model\.onnx: does not run on inputs made up for it .*out of data bounds.* --golden inputs"),
        (
            graph_of(
                [helper.make_node("RandomNormalLike", ["x"], ["y"])],
                [tensor("x", "FP32", ["n", 4])],
                [tensor("y", "FP32", ["n", 4])],
            ),
            r"model\.onnx: golden replay .*: it does not answer alike twice",
        ),
        (
            graph_of(
                [helper.make_node("SequenceConstruct", ["x"], ["y"])],
                [tensor("x", "FP32", ["n"])],
                [helper.make_tensor_sequence_value_info("y", onnx.TensorProto.FLOAT, None)],
            ),
            "only tensors are served",
        ),
    ],
    ids=["no-model", "not-to-be-made-up", "random", "sequence"],
)
def test_a_graph_that_can_not_be_a_bundle_is_refused_and_nothing_is_left(
    models: Path, bring: Bring, graph: onnx.ModelProto | bytes, said: str
) -> None:
    make_bare(models, "other")
    with pytest.raises(BundleRefused, match=said):
        bring(graph)
    assert [path.name for path in models.iterdir()] == ["other"]


def test_a_failed_import_leaves_the_other_versions(models: Path, bring: Bring) -> None:
    make_bare(models, "brought")
    with pytest.raises(BundleRefused):
        bring(b"no model")
    assert [path.name for path in (models / "brought").iterdir()] == ["1"]


def test_a_file_that_is_not_there_is_told(models: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        import_model(models, Import(models / "nowhere.onnx", "brought"), OPTIONS)
    assert list(models.iterdir()) == []


# Golden inputs that somebody chose


def test_golden_inputs_may_be_given_where_none_can_be_made_up(tmp_path: Path, bring: Bring) -> None:
    made = bring(lookup_graph(9), golden=inputs(tmp_path, index=np.array([9, 12])))
    golden = read_golden(made.folder.path)
    assert golden["inputs/model/index"].tolist() == [9, 12]
    assert golden["runtime/original/model/row"].tolist() == [[0, 1, 2], [9, 10, 11]]
    assert load_bundle(made.folder, OPTIONS).batched


def test_a_single_golden_row_proves_no_batch(tmp_path: Path, bring: Bring) -> None:
    made = bring(lookup_graph(), golden=inputs(tmp_path, index=np.array([2])))
    assert made.no_batch == "the inputs that it was tried with have not several rows"
    assert not load_bundle(made.folder, OPTIONS).batched


def test_golden_inputs_are_brought_to_the_graphs_datatype_where_nothing_is_lost(tmp_path: Path, bring: Bring) -> None:
    kinds = {"a": ("FP32", ["n"]), "b": ("INT64", ["n"]), "c": ("BF16", ["n"])}
    halves = np.array([1.5, 2]).astype(DTYPES["BF16"]).view(np.uint16)
    given = inputs(tmp_path, a=np.array([0.5, 1]), b=np.array([1, 2], np.int8), c=halves)
    bundle = load_bundle(bring(identities_graph(kinds), golden=given).folder, OPTIONS)
    assert bundle.examples["model"]
    assert {name: (array.dtype, array.tolist()) for name, array in bundle.examples["model"].items()} == {
        "a": (np.float32, [0.5, 1]),
        "b": (np.int64, [1, 2]),
        "c": (DTYPES["BF16"], [1.5, 2]),
    }
    texts = inputs(tmp_path, x=np.array([["h\u00e9", "b"]] * 2))
    bundle = load_bundle(bring(identity_graph("BYTES", ["n", 2]), golden=texts).folder, OPTIONS)
    assert bundle.examples["model"]
    assert bundle.examples["model"]["x"].tolist() == [["h\u00e9", "b"]] * 2


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, r"must have the arrays \['x'\], not \[\]"),
        ({"y": np.zeros((2, 3))}, r"must have the arrays \['x'\], not \['y'\]"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(1)}, r"not \['x', 'y'\]"),
        ({"x": np.zeros((2, 4))}, r"golden input 'x' is float64 \(2, 4\); the graph takes FP32 \('batch', 3\)"),
        ({"x": np.zeros(3)}, "takes FP32"),
        ({"x": np.zeros((2, 3), complex)}, "golden input 'x': holds complex128, which is no FP32"),
        ({"x": np.full((2, 3), "a")}, "golden input 'x': holds <U1, which is no FP32"),
        ({"x": np.full((2, 3), "a", object)}, "is no npz file without pickled objects"),
    ],
)
def test_golden_inputs_that_do_not_fit_are_refused(
    models: Path, tmp_path: Path, bring: Bring, arrays: dict[str, NDArray[Any]], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        bring(identity_graph(), golden=inputs(tmp_path, **arrays))
    assert list(models.iterdir()) == []


def test_whole_numbers_are_not_made_of_fractions(tmp_path: Path, bring: Bring) -> None:
    with pytest.raises(BadInput, match="golden input 'index' is float64"):
        bring(lookup_graph(), golden=inputs(tmp_path, index=np.array([1.5, 2])))
    with pytest.raises(BadInput, match="holds int64, which is no BYTES"):
        bring(identity_graph("BYTES", ["n"]), golden=inputs(tmp_path, x=np.array([1, 2])))


def test_golden_inputs_that_can_not_be_read_are_told(tmp_path: Path, bring: Bring) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.npz can't be read"):
        bring(identity_graph(), golden=tmp_path / "nowhere.npz")
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    with pytest.raises(BadInput, match=r"broken\.npz is no npz file"):
        bring(identity_graph(), golden=tmp_path / "broken.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BadInput, match=r"one\.npy is no npz file"):
        bring(identity_graph(), golden=tmp_path / "one.npy")


def test_golden_inputs_on_which_the_graph_fails_are_told(tmp_path: Path, bring: Bring) -> None:
    with pytest.raises(RuntimeFailure, match="out of data bounds"):
        bring(lookup_graph(), golden=inputs(tmp_path, index=np.array([100, 101])))


# The replay of what was brought


CHANGES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]], str]] = {
    "FP32": ("FP32", lambda y: y + np.float32(0.002), r"differs by 0\.002, allowed is 0\.001"),
    "FP16": ("FP16", lambda y: y + np.float16(0.5), r"differs by 0\.5, allowed"),
    "NaN": ("FP32", lambda y: y * np.float32("nan"), "differs by nan"),
    "infinity": ("FP64", lambda y: y / 0.0, "differs by inf"),
    "BF16": ("BF16", lambda y: y + np.uint16(2), "differs by"),
    "BF16-as-floats": ("BF16", lambda y: y.astype(np.float32), r"holds float32, which is no BF16"),
    "INT64": ("INT64", lambda y: y + 1, "differs by 1, allowed"),
    "UINT8": ("UINT8", lambda y: 1 - y, "differs by 1, allowed"),
    "BOOL": ("BOOL", lambda y: ~y, "differs by 1, allowed"),
    "BYTES": ("BYTES", lambda y: np.where(y == "a", "b", "a"), "has other texts"),
    "BYTES-longer": ("BYTES", lambda y: np.char.add(y, "x"), "has other texts"),
    "BYTES-as-numbers": ("BYTES", lambda y: np.zeros(y.shape), "holds float64, which is no BYTES"),
    "shape": ("BYTES", lambda y: y[:1], r"has shape \(3,\), not \(1,\)"),
    "texts": ("FP32", lambda y: y.astype(str), "which is no FP32"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_graph_that_answers_otherwise_than_it_did_is_refused(bring: Bring, change: str) -> None:
    datatype, damage, said = CHANGES[change]
    made = bring(identity_graph(datatype, ["n"]))
    golden = read_golden(made.folder.path)
    golden["runtime/original/model/y"] = damage(golden["runtime/original/model/y"])
    write_golden(made.folder.path, golden)
    with pytest.raises(BundleRefused, match=r"golden\.npz: has"):
        load_bundle(made.folder, OPTIONS)
    sign(made.folder.path)
    with pytest.raises(BundleRefused, match=said):
        load_bundle(made.folder, OPTIONS)


def test_another_graph_in_its_place_is_refused(bring: Bring) -> None:
    made = bring(identity_graph("FP32", ["n", 4]))
    other = graph_of(
        [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", "FP32", ["n", 4])], [tensor("y", "FP32", ["n", 4])]
    )
    (made.folder.path / "model.onnx").write_bytes(other.SerializeToString())
    sign(made.folder.path)
    with pytest.raises(GoldenMismatch, match=DIFFERS):
        load_bundle(made.folder, OPTIONS)
    (made.folder.path / "model.onnx").write_bytes(identity_graph("FP32", [3, 4]).SerializeToString())
    sign(made.folder.path)
    with pytest.raises(BundleRefused, match="the manifest says"):
        load_bundle(made.folder, OPTIONS)


def test_a_bundle_of_a_graph_may_have_no_golden_outputs(bring: Bring) -> None:
    made = bring(sum_graph())
    (made.folder.path / "golden.npz").unlink()
    content = {**manifest_in(made.folder.path), "golden": None}
    (made.folder.path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    sign(made.folder.path)
    bundle = load_bundle(made.folder, OPTIONS)
    assert bundle.batched
    assert bundle.examples["model"]
    assert len(bundle.examples["model"]["a"]) == 3
    verify_bundle(made.folder, OPTIONS)


# Served


def test_what_was_brought_answers_through_the_server(models: Path, bring: Bring, serve: Serve) -> None:
    bring(sum_graph(), "sums", licence="MIT")
    bring(entangled_graph(), "entangled")
    client = serve(models=models)
    rows = [[1, 2, 3], [3, 4, 5]]
    answer = client.post("/predict/sums", json={"inputs": {"a": rows, "b": rows}})
    assert answer.json() == {"sum": [[2, 4, 6], [6, 8, 10]], "total": [6, 12]}
    answer = client.post("/predict/entangled", json={"inputs": rows})
    assert answer.json() == {"y": [[-1, -1, -1], [1, 1, 1]]}
    assert client.get("/predict/sums").json()["licence"] == "MIT"
