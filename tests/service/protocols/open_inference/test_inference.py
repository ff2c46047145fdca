"""What a request asks for, whichever dialect it came in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.batching.records import Answer
from service.errors import BadInput, Unsupported
from service.manifest import Graph, Tensor
from service.protocols.open_inference.inference import (
    Given,
    Wanted,
    classified,
    flag,
    inputs_of,
    parameters,
    timings,
    wanted,
)

GRAPH = Graph(
    file="model.onnx",
    inputs=(
        Tensor(name="a", datatype="FP32", shape=("batch", 2)),
        Tensor(name="b", datatype="INT64", shape=("batch",)),
    ),
    outputs=(
        Tensor(name="scores", datatype="FP32", shape=("batch", 3)),
        Tensor(name="texts", datatype="BYTES", shape=("batch",)),
        Tensor(name="truths", datatype="BOOL", shape=("batch",)),
    ),
)


def given_of(name: str, rows: int = 1, **changes: Any) -> Given:
    """Describe an input of `rows` rows."""
    datatype, shape = {"a": ("FP32", [rows, 2]), "b": ("INT64", [rows])}.get(name, ("FP32", [rows]))
    found = {"datatype": datatype, "shape": shape, "array_maker": lambda: np.zeros(shape), **changes}
    return Given(name, **found)


def never() -> Any:
    raise AssertionError("the data were looked at")


# Inputs


def test_inputs_come_in_any_order_and_are_made_once_each() -> None:
    made = inputs_of([given_of("b", 3), given_of("a", 3)], GRAPH, batched=True)
    assert list(made) == ["a", "b"]
    assert made["a"].shape == (3, 2)
    assert made["b"].shape == (3,)


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a"], ["a", "b", "b"], ["a", "c"], ["a", "b", "c"]])
def test_inputs_must_be_those_of_the_graph_once_each(names: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        inputs_of([given_of(name, array_maker=never) for name in names], GRAPH, batched=True)
    assert str(refused.value) == f"inputs must be ['a', 'b'], once each; given: {names}"


def test_a_million_inputs_are_refused_in_few_words() -> None:
    with pytest.raises(BadInput) as refused:
        inputs_of([given_of("a" * 1000, array_maker=never)] * 10**6, GRAPH, batched=True)
    assert len(str(refused.value)) < 1000


def test_datatypes_and_shapes_are_looked_at_before_any_data() -> None:
    with pytest.raises(BadInput, match="input 'b' must be INT64, not FP32"):
        inputs_of([given_of("a", array_maker=never), given_of("b", datatype="FP32")], GRAPH, batched=True)
    with pytest.raises(BadInput, match=r"input 'b' has shape \[1, 1\]; expected \[-1\]"):
        inputs_of([given_of("a", array_maker=never), given_of("b", shape=[1, 1])], GRAPH, batched=True)


def test_a_batch_has_one_size() -> None:
    with pytest.raises(BadInput, match=r"inputs must have one batch size; given: \[2, 3\]"):
        inputs_of([given_of("a", 2, array_maker=never), given_of("b", 3, array_maker=never)], GRAPH, batched=True)
    assert inputs_of([given_of("a", 2), given_of("b", 3)], GRAPH, batched=False)["b"].shape == (3,)


# Outputs


def test_without_a_wish_every_output_is_answered() -> None:
    assert wanted([], GRAPH) == tuple(Wanted(tensor) for tensor in GRAPH.outputs)
    assert wanted([], GRAPH, binary=True) == tuple(Wanted(tensor, binary=True) for tensor in GRAPH.outputs)


def test_outputs_are_answered_in_the_order_asked_for() -> None:
    found = wanted(
        [("texts", {"binary_data": False}), ("scores", {"classification": 2, "other": None})], GRAPH, binary=True
    )
    assert found == (Wanted(GRAPH.outputs[1], binary=False), Wanted(GRAPH.outputs[0], classification=2, binary=True))
    assert [one.datatype for one in found] == ["BYTES", "BYTES"]
    assert Wanted(GRAPH.outputs[0]).datatype == "FP32"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([("nothing", {})], r"there is no output 'nothing'; outputs: \['scores', 'texts', 'truths'\]"),
        ([("scores", {}), ("scores", {})], "output 'scores' is asked for more than once"),
        ([("scores", {"classification": 0})], "classification must be a whole number, 1 or more"),
        ([("scores", {"classification": -1})], "classification must be a whole number, 1 or more"),
        ([("scores", {"classification": 1.5})], "classification must be a whole number, 1 or more"),
        ([("scores", {"classification": True})], "classification must be a whole number, 1 or more"),
        ([("texts", {"classification": 1})], "output 'texts': classification needs numbers, and it is BYTES"),
        ([("truths", {"classification": 1})], "output 'truths': classification needs numbers, and it is BOOL"),
        ([("scores", {"binary_data": 1})], "output 'scores': binary_data must be true or false"),
    ],
)
def test_an_output_that_can_not_be_had_is_refused(asked: list[tuple[str, dict[str, object]]], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        wanted(asked, GRAPH)


def test_shared_memory_is_not_there() -> None:
    with pytest.raises(Unsupported, match="output 'scores': shared memory is not supported"):
        wanted([("scores", {"shared_memory_region": "r", "shared_memory_byte_size": 12})], GRAPH)


# Parameters


@pytest.mark.parametrize(
    ("given_parameters", "expected"),
    [
        ({}, (None, 0)),
        ({"anything": [1], "sequence_id": 0, "sequence_start": True}, (None, 0)),
        ({"sequence_id": ""}, (None, 0)),
        ({"timeout": 0, "priority": 0}, (None, 0)),
        ({"timeout": 2_500_000}, (102.5, 0)),
        ({"timeout": 10**30}, (None, 0)),
        ({"priority": 1}, (None, 1)),
        ({"priority": 2**64 - 1}, (None, 2**31 - 1)),
    ],
)
def test_parameters_of_a_request(given_parameters: dict[str, object], expected: tuple[float | None, int]) -> None:
    assert parameters(given_parameters, 100.0) == expected


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("value", [-1, 1.0, "1", True, None, [1]])
def test_parameters_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"parameter {name} must be a whole number, 0 or more"):
        parameters({name: value}, 100.0)


@pytest.mark.parametrize("value", [1, "a", 2**64])
def test_sequences_are_not_there(value: object) -> None:
    with pytest.raises(Unsupported, match="sequences are not supported"):
        parameters({"sequence_id": value}, 100.0)


def test_a_flag_is_true_or_false() -> None:
    assert flag("it", {}, "f", default=True)
    assert not flag("it", {"f": False}, "f", default=True)
    with pytest.raises(BadInput, match="it: f must be true or false"):
        flag("it", {"f": None}, "f", default=True)


def test_an_answer_tells_its_times_in_whole_microseconds() -> None:
    assert timings(Answer({}, 0.001, 0.0025, 7)) == {"queue_us": 1000, "compute_us": 2500, "batch_size": 7}


# Classification


def test_the_highest_values_come_first_with_their_labels() -> None:
    rows = np.array([[0.5, 0.25, 1], [3, 2, 1]], np.float32)
    assert classified(rows, 2, ("cat", "dog"), batched=True).tolist() == [
        ["1.0:2", "0.5:0:cat"],
        ["3.0:0:cat", "2.0:1:dog"],
    ]
    assert classified(rows, 1, None, batched=True).tolist() == [["1.0:2"], ["3.0:0"]]
    assert classified(rows, 4, None, batched=False).tolist() == ["3.0:3", "2.0:4", "1.0:2", "1.0:5"]


def test_there_are_no_more_classes_than_values() -> None:
    assert classified(np.array([[1, 2]], np.int8), 10**9, None, batched=True).tolist() == [["2:1", "1:0"]]
    assert classified(np.zeros((2, 0)), 3, None, batched=True).shape == (2, 0)
    assert classified(np.array(7), 3, None, batched=False).tolist() == ["7:0"]
    assert classified(np.array([7, 8]), 3, None, batched=True).tolist() == [["7:0"], ["8:0"]]


def test_equal_values_come_in_their_order_and_what_is_no_number_last() -> None:
    values = np.array([np.nan, 1, -np.inf, 1, np.inf], np.float32)
    assert classified(values, 5, None, batched=False).tolist() == ["inf:4", "1.0:1", "1.0:3", "nan:0", "-inf:2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.float32(1e-9), "1e-09"),
        (ml_dtypes.bfloat16(0.5), "0.5"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.int8(-128), "-128"),
    ],
)
def test_a_value_is_written_so_that_it_can_be_read_again(value: Any, text: str) -> None:
    assert classified(np.array([value]), 1, None, batched=False).tolist() == [f"{text}:0"]


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.uint64, np.int8, np.float16]),
        arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    )
)
def test_classes_are_sorted_by_value(array: Any) -> None:
    texts = classified(array, array.size, None, batched=False).tolist()
    found = [int(text.split(":")[1]) for text in texts]
    assert sorted(found) == list(range(array.size))
    flat = array.ravel()
    keys = [(-np.inf if np.isnan(value) else value) for value in (flat[index] for index in found)]
    assert all(first >= second for first, second in pairwise(keys))
    assert [text.split(":")[0] for text in texts] == [str(flat[index]) for index in found]
