from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import BadInput
from service.tensors import DTYPES, numbers

WHOLE = [name for name, dtype in DTYPES.items() if dtype.kind in "iu"]
FLOATS = ["FP16", "FP32", "FP64", "BF16"]
UNEVEN = "not nested evenly"


def nested(data: Any, depth: int) -> Any:
    for _ in range(depth):
        data = [data]
    return data


def test_every_datatype_is_as_wide_as_its_name_says() -> None:
    for name, dtype in DTYPES.items():
        if name not in ("BOOL", "BYTES"):
            assert 8 * dtype.itemsize == int(name.lstrip("UINTFPB"))
    assert DTYPES["BF16"] == ml_dtypes.bfloat16
    assert DTYPES["BOOL"].kind == "b"


@given(st.data())
@pytest.mark.parametrize("datatype", [*WHOLE, *FLOATS, "BOOL"])
def test_what_json_holds_of_an_array_makes_the_same_array_again(datatype: str, data: st.DataObject) -> None:
    shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=3)
    dtype = DTYPES["FP32"] if datatype == "BF16" else DTYPES[datatype]
    expected = data.draw(npst.arrays(dtype, shapes)).astype(DTYPES[datatype])
    found = numbers(expected.tolist(), datatype)
    assert found.dtype == DTYPES[datatype]
    assert found.shape == expected.shape
    if datatype in FLOATS:
        found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(found, expected)


@given(npst.arrays(object, npst.array_shapes(min_dims=0, max_dims=3, max_side=3), elements=st.text()))
def test_texts_stay_as_they_are_also_where_they_end_with_nothing(expected: np.ndarray[Any, Any]) -> None:
    found = numbers(expected.tolist(), "BYTES")
    assert found.dtype == object
    assert found.shape == expected.shape
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(("data", "shape"), [([], (0,)), ([[], []], (2, 0)), ([[[]]], (1, 1, 0)), ([[]], (1, 0))])
@pytest.mark.parametrize("datatype", DTYPES)
def test_lists_of_nothing_are_arrays_of_no_elements(datatype: str, data: list[Any], shape: tuple[int, ...]) -> None:
    array = numbers(data, datatype)
    assert (array.shape, array.dtype) == (shape, DTYPES[datatype])


@pytest.mark.parametrize("datatype", WHOLE)
def test_whole_numbers_reach_from_end_to_end_of_their_datatype_and_no_further(datatype: str) -> None:
    limits = np.iinfo(DTYPES[datatype])
    low, high = int(limits.min), int(limits.max)
    assert numbers([low, high, 0], datatype).tolist() == [low, high, 0]
    for beyond in (low - 1, high + 1, 2**64, -(2**63) - 1, 10**400):
        with pytest.raises(BadInput, match=f"numbers that {datatype} has not"):
            numbers([low, beyond, high], datatype)


def test_the_upper_half_of_the_widest_numbers_is_exact_beside_the_lower_one() -> None:
    assert numbers([2**63, 1, 2**64 - 1], "UINT64").tolist() == [2**63, 1, 2**64 - 1]
    for mixed in ([2**63, -1], [2**64 - 1, -(2**63)]):
        with pytest.raises(BadInput, match="numbers that"):
            numbers(mixed, "INT64")
        with pytest.raises(BadInput, match="numbers that"):
            numbers(mixed, "UINT64")


@pytest.mark.parametrize(("datatype", "largest"), [("FP16", 65504.0), ("FP32", 3.4028234e38), ("BF16", 3.3895314e38)])
def test_a_number_too_large_for_its_datatype_is_refused_and_does_not_become_infinite(
    datatype: str, largest: float
) -> None:
    assert np.isfinite(numbers([largest, -largest], datatype)).all()
    for beyond in (1.1 * largest, -1.1 * largest, int(2 * largest)):
        with pytest.raises(BadInput, match=f"numbers too large for {datatype}"):
            numbers([[1.0], [beyond]], datatype)


@pytest.mark.parametrize("datatype", FLOATS)
def test_numbers_that_are_none_pass_and_whole_ones_are_floats_too(datatype: str) -> None:
    found = numbers([math.inf, -math.inf, math.nan, 1], datatype).astype(np.float64)
    np.testing.assert_array_equal(found, [math.inf, -math.inf, math.nan, 1])
    with pytest.raises(BadInput, match="numbers that FP64 has not"):
        numbers([10**400], "FP64")


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("INT8", [1, 2.0], "INT8 must be whole numbers; found: a number with a fraction"),
        ("INT64", [1, True], "found: true or false"),
        ("FP32", [1.5, False], "FP32 must be numbers; found: true or false"),
        ("FP32", [1.5, None], "found: null"),
        ("FP32", ["1.5"], "found: a text"),
        ("FP32", {"a": 1.0}, "found: an object"),
        ("FP32", [[1.0], {"1.0": 1}], UNEVEN),
        ("UINT8", "ab", "found: a text"),
        ("BOOL", [True, 1], "BOOL must be true and false; found: a whole number"),
        ("BYTES", ["a", 1], "BYTES must be texts; found: a whole number"),
        ("BYTES", [None, 1.5], "found: a number with a fraction, null"),
        ("BYTES", ["a", b"b"], "found: bytes"),
        ("BYTES", ["\ud800"], "text that UTF-8 can tell"),
    ],
)
def test_elements_of_another_kind_are_refused_by_their_name(datatype: str, data: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        numbers(data, datatype)


def uneven(x: Any) -> list[Any]:
    """Make lists of `x` that are no array."""
    return [
        [[x], [x, x]],
        [[x, x], [x]],
        [x, [x]],
        [[x], x],
        [[], [x]],
        [[x], []],
        [[[x]], [x]],
        [[[x], [x]], [[x]]],
        nested(x, 65),
        nested(x, 5000),
    ]


@pytest.mark.parametrize("number", range(10))
def test_lists_that_are_nested_unevenly_or_too_deep_are_refused(number: int) -> None:
    for element, datatype in (("ab", "BYTES"), (1, "INT16"), (1.5, "BF16"), (True, "BOOL")):
        with pytest.raises(BadInput, match="not nested evenly, or more than 64 deep"):
            numbers(uneven(element)[number], datatype)


def test_lists_may_be_nested_as_deep_as_arrays_have_axes() -> None:
    assert numbers(nested(1, 64), "INT8").ndim == 64
