from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import BadInput, BundleRefused, RuntimeFailure
from service.manifest import FileEntry, Graph, Manifest, Tensor, Tolerance, Variant
from service.tasks.base import TaskLimits
from service.tasks.tensors import Tensors
from service.tensors import DTYPES

LIMITS = TaskLimits(max_pixels=1)
ENTRY = FileEntry(sha256=hashlib.sha256(b'["a", "b"]').hexdigest(), bytes=10)

Shape = tuple[int | str, ...] | None


def task_of(inputs: dict[str, tuple[str, Shape]], outputs: dict[str, tuple[str, Shape]] | None = None) -> Tensors:
    def tensors(kinds: dict[str, Any]) -> tuple[Tensor, ...]:
        return tuple(Tensor(name=name, datatype=kind, shape=shape) for name, (kind, shape) in kinds.items())

    graph = Graph(file="model.onnx", inputs=tensors(inputs), outputs=tensors(outputs or inputs))
    return Tensors(Path("nowhere"), manifest_of({"model": graph}), LIMITS)


def manifest_of(graphs: dict[str, Graph], *files: str) -> Manifest:
    return Manifest(
        schema_version=2,
        title="",
        description="",
        task="tensors",
        parameters=0,
        files=dict.fromkeys(("model.onnx", *files), ENTRY),
        variants={"original": Variant(graphs=graphs, tolerance=Tolerance(runtime=1))},
        default_variant="original",
        golden=None,
        quality=(),
    )


def encode(task: Tensors, inputs: object) -> dict[str, Any]:
    return dict(task.encode(task.parse(inputs, {})))


PAIR = task_of({"a": ("FP32", ("batch", 2)), "b": ("INT8", ("batch",))})
ONE = task_of({"x": ("FP32", ("batch", "n"))})


def test_nested_lists_become_arrays_of_the_graphs_datatypes() -> None:
    arrays = encode(PAIR, {"b": [1, 2], "a": [[1, 2], [3, 4.5]]})
    assert list(arrays) == ["a", "b"]
    assert (arrays["a"].dtype, arrays["a"].tolist()) == (np.float32, [[1, 2], [3, 4.5]])
    assert (arrays["b"].dtype, arrays["b"].tolist()) == (np.int8, [1, 2])


def test_a_single_input_needs_no_name() -> None:
    assert encode(ONE, [[1, 2]])["x"].tolist() == encode(ONE, {"x": [[1, 2]]})["x"].tolist() == [[1, 2]]
    assert encode(task_of({"x": ("BYTES", ())}), "text")["x"].tolist() == "text"
    assert encode(task_of({"x": ("BOOL", None)}), [[[True]]])["x"].shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"a": [[1, 2]]}, r"inputs must be \['a', 'b'\]; given: \['a'\]"),
        ({"a": [[1, 2]], "b": [1], "c": 1}, r"given: \['a', 'b', 'c'\]"),
        ([[1, 2]], r"an object of nested lists by name; names: \['a', 'b'\]"),
        (None, "an object of nested lists by name"),
        (b"bytes", r'the model takes tensors: send JSON \{"inputs"'),
        ({"a": [[1, 2, 3]], "b": [1]}, r"input 'a' is nested as \[1, 3\]; expected \[-1, 2\] \(-1: any size\)"),
        ({"a": [1, 2], "b": [1]}, r"input 'a' is nested as \[2\]"),
        ({"a": [[1, 2]], "b": [1.5]}, "input 'b': data of INT8 must be whole numbers"),
        ({"a": [[1, 2]], "b": [200]}, "input 'b': data have numbers that INT8 has not"),
        ({"a": [[1, 2], [3]], "b": [1, 2]}, "input 'a': data are not nested evenly"),
        ({"a": [[1, 2], [3, 4]], "b": [1]}, r"inputs must have one batch size; given: \[1, 2\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_what_would(inputs: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        encode(PAIR, inputs)


def test_without_a_batch_each_input_has_its_own_first_axis() -> None:
    task = task_of({"a": ("FP32", ("n",)), "b": ("FP32", ("m",))})
    assert {name: len(array) for name, array in encode(task, {"a": [1], "b": [1, 2]}).items()} == {"a": 1, "b": 2}


def test_there_are_no_parameters() -> None:
    with pytest.raises(BadInput, match="parameter 'top_k' is not known: this model takes none"):
        ONE.parse([[1]], {"top_k": 1})


def test_many_numbers_are_work_for_a_thread() -> None:
    assert not ONE.is_heavy(ONE.parse([[1, 2]], {}))
    assert ONE.is_heavy(ONE.parse([[1] * 100] * 100, {}))
    for odd in ([], [[]], None, {"x": None}, {"x": [[[]]]}):
        assert not ONE.is_heavy(ONE.parse(odd, {}))


@pytest.mark.parametrize(
    ("datatype", "array", "expected"),
    [
        ("FP32", np.array([[1.5]], np.float32), [[1.5]]),
        ("FP16", np.array(0.5, np.float16), 0.5),
        ("BF16", np.array([1.5, 2]).astype(DTYPES["BF16"]), [1.5, 2.0]),
        ("UINT64", np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        ("BOOL", np.array([True]), [True]),
        ("BYTES", np.array([["h\u00e9"]], object), [["h\u00e9"]]),
        ("FP32", np.zeros((2, 0), np.float32), [[], []]),
    ],
)
def test_answers_are_nested_lists_by_name(datatype: str, array: Any, expected: object) -> None:
    task = task_of({"x": ("FP32", None)}, {"y": (datatype, None)})
    assert task.decode(task.parse(1, {}), {"y": array}) == {"y": expected}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_an_answer_that_is_no_number_is_a_failure(datatype: str, number: float) -> None:
    task = task_of({"x": ("FP32", None)}, {"y": (datatype, None)})
    with pytest.raises(RuntimeFailure, match="not finite, in output 'y'"):
        task.decode(task.parse(1, {}), {"y": np.array([0, number]).astype(DTYPES[datatype])})


def test_the_description_says_what_goes_in_and_out() -> None:
    about = PAIR.describe()
    assert about["inputs"] == [
        {"name": "a", "datatype": "FP32", "shape": ("batch", 2)},
        {"name": "b", "datatype": "INT8", "shape": ("batch",)},
    ]
    assert about["outputs"] == about["inputs"]
    assert (about["parameters"], about["labels"]) == ({}, [])


def test_labels_are_read_where_the_manifest_lists_them(tmp_path: Path) -> None:
    tensors = (Tensor(name="x", datatype="FP32", shape=None),)
    graph = Graph(file="model.onnx", inputs=tensors, outputs=tensors)
    (tmp_path / "labels.json").write_text('["a", "b"]', encoding="utf-8")
    assert Tensors(tmp_path, manifest_of({"model": graph}), LIMITS).labels is None
    assert Tensors(tmp_path, manifest_of({"model": graph}, "labels.json"), LIMITS).labels == ("a", "b")
    with pytest.raises(BundleRefused, match=r"labels\.json: can't be read \(No such file"):
        Tensors(tmp_path / "nowhere", manifest_of({"model": graph}, "labels.json"), LIMITS)


def test_a_model_of_several_graphs_is_no_model_of_tensors() -> None:
    tensors = (Tensor(name="x", datatype="FP32", shape=None),)
    graph = Graph(file="model.onnx", inputs=tensors, outputs=tensors)
    with pytest.raises(BundleRefused, match="task 'tensors' has one graph, not 2"):
        Tensors(Path("nowhere"), manifest_of({"encoder": graph, "decoder": graph}), LIMITS)
