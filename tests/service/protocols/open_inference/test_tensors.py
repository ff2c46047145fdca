"""Tensors between the wire and NumPy, without a server."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import BadInput
from service.manifest import Tensor
from service.protocols.open_inference.tensors import (
    brief,
    check,
    from_json,
    from_json_text,
    from_raw,
    from_values,
    shape_of,
    shown,
    size_of,
    to_json,
    to_raw,
    to_values,
)
from service.tensors import DTYPES

Read = Callable[[str, str, list[int], Any], NDArray[Any]]


def from_text(name: str, datatype: str, shape: list[int], data: Any) -> NDArray[Any]:
    """Read data as they stand in a body."""
    return from_json_text(name, datatype, shape, msgspec.Raw(json.dumps(data).encode()))


@pytest.fixture(params=[from_json, from_text], ids=["parsed", "text"])
def read(request: pytest.FixtureRequest) -> Read:
    """Give both ways of reading JSON data: they differ in speed alone."""
    function: Read = request.param
    return function


# JSON


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("INT8", [-128, 127]),
        ("UINT16", [0, 65_535]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("UINT32", [0, 2**32 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [2**63, 2**64 - 1]),
        ("FP16", [-65_504.0, 0.5]),
        ("FP32", [1, -2]),
        ("FP64", [1e300, 2**53]),
        ("FP32", [0.1, 2]),
        ("FP32", [3.4028234663852886e38, 1e-45]),
        ("BYTES", ["", "a\0\u00fc\U0001f600"]),
    ],
)
def test_elements_that_a_datatype_has_are_taken_as_they_are(read: Read, datatype: str, data: list[Any]) -> None:
    for given_data in (data, [[one] for one in data]):
        found = read("x", datatype, [2, 1], given_data)
        assert found.dtype == DTYPES[datatype]
        assert found.shape == (2, 1)
        assert found.ravel().tolist() == np.array(data, DTYPES[datatype]).tolist()


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [1, 0]),
        ("BOOL", [0.0, 1.0]),
        ("UINT8", [0, 256]),
        ("UINT8", [-1, 0]),
        ("UINT8", [0.0, 1.0]),
        ("UINT8", [True, False]),
        ("INT8", [-129, 0]),
        ("INT32", [0.5, 1]),
        ("INT32", [0, 2**31]),
        ("INT64", [0, 2**63]),
        ("UINT64", [0, 2**64]),
        ("UINT64", [-1, 2**63]),
        ("FP16", [0, 70_000]),
        ("FP32", [1e39, 0]),
        ("FP32", [0, 10**400]),
        ("FP64", [True, False]),
        ("FP64", ["1", "2"]),
        ("FP64", [None, None]),
        ("FP64", [{}, {}]),
        ("BYTES", ["a", 1]),
        ("BYTES", ["a", None]),
        ("BYTES", [["a"], "b"]),
        ("BYTES", [["a", "b"], ["c"]]),
        ("BF16", [1, 2]),
        ("FLOAT", [1, 2]),
        ("", [1, 2]),
    ],
)
def test_elements_that_a_datatype_has_not_are_refused(read: Read, datatype: str, data: list[Any]) -> None:
    with pytest.raises(BadInput, match="input 'x': "):
        read("x", datatype, [2, 1], data)


@pytest.mark.parametrize(
    ("shape", "data", "expected"),
    [
        ([], 5, np.array(5.0)),
        ([], [5], np.array(5.0)),
        ([1], 5, np.array([5.0])),
        ([0], [], np.zeros(0)),
        ([2, 0], [], np.zeros((2, 0))),
        ([2, 0], [[], []], np.zeros((2, 0))),
        ([0, 3], [], np.zeros((0, 3))),
        ([1, 0, 5], [[]], np.zeros((1, 0, 5))),
        ([2, 1, 0], [[[]], [[]]], np.zeros((2, 1, 0))),
        ([2, 2], [1, 2, 3, 4], np.array([[1, 2], [3, 4.0]])),
        ([2, 2], [[1, 2], [3, 4]], np.array([[1, 2], [3, 4.0]])),
        ([4], [1, 2, 3, 4], np.array([1, 2, 3, 4.0])),
        ([1, 1, 1, 1], [[[[7]]]], np.full((1, 1, 1, 1), 7.0)),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES"])
def test_data_are_flat_or_nested_as_the_shape_says(
    read: Read, datatype: str, shape: list[int], data: Any, expected: NDArray[Any]
) -> None:
    if datatype == "BYTES":
        data, expected = (
            json.loads(json.dumps(data).translate({ord(digit): f'"{digit}"' for digit in "1234567"})),
            (np.array([str(int(one)) for one in expected.ravel()], object).reshape(expected.shape)),
        )
    found = read("x", datatype, shape, data)
    assert found.shape == tuple(shape)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("shape", "data", "said"),
    [
        ([2, 2], [[1, 2, 3, 4]], r"data are nested as \[1, 4\], but shape is \[2, 2\]"),
        ([4], [[1, 2], [3, 4]], r"data are nested as \[2, 2\], but shape is \[4\]"),
        ([3], [[1, 2], [3]], "data are not nested evenly"),
        ([3], [1, [2, 3]], "data are not nested evenly"),
        ([2], [[1], 2], "data are not nested evenly"),
        ([1, 0], [[], []], r"data are nested as \[2, 0\], but shape is \[1, 0\]"),
        ([2, 1, 0], [[]], r"data are nested as \[1, 0\], but shape is \[2, 1, 0\]"),
        ([0, 0, 2], [[]], r"data are nested as \[1, 0\], but shape is \[0, 0, 2\]"),
        ([3], [1, 2], r"data have 2 elements; shape \[3\] has 3"),
        ([1], [], r"data have 0 elements; shape \[1\] has 1"),
        ([], [], r"data have 0 elements; shape \[\] has 1"),
        ([], [1, 2], r"data have 2 elements; shape \[\] has 1"),
        ([0], [1], r"data have 1 elements; shape \[0\] has 0"),
        ([2**62, 2**62], [1, 2], "data have 2 elements"),
        ([-1], [], r"can't have shape \[-1\]"),
        ([2**70], [], "can't have shape"),
        ([0, 2**62, 2**62], [], "can't have shape"),
        ([1] * 65, [1], "can't have shape"),
        ([7] * 10**6, [1], "can't have shape"),
        ([1], json.loads("[" * 60 + "1" + "]" * 60), "data are nested as"),
        ([1], json.loads("[" * 64 + "1" + "]" * 64), "data are nested as"),
        ([1], json.loads("[" * 65 + "1" + "]" * 65), "not nested evenly, or more than 64 deep"),
        ([1], json.loads("[" * 300 + "1" + "]" * 300), "not nested evenly, or more than 64 deep"),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "INT64"])
def test_data_of_another_shape_are_refused(read: Read, datatype: str, shape: list[int], data: Any, said: str) -> None:
    with pytest.raises(BadInput, match=f"^input 'x':? .*{said}") as refused:
        read("x", datatype, shape, data)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("spaces", ["", " ", "\n\t \r"])
def test_spaces_between_brackets_mean_nothing(spaces: str) -> None:
    text = spaces.join(["[", "[", "1", ",", "2", "]", ",", "[", "3", ",", "4", "]", "]"])
    found = from_json_text("x", "FP32", [2, 2], msgspec.Raw(text.encode()))
    assert found.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", [b"[1,]", b"[01]", b"[1 2]", b"[\xff]", b"[NaN]", b"[1", b'["\\ud800"]', b""])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "INT8"])
def test_text_that_is_no_json_is_refused(text: bytes, datatype: str) -> None:
    with pytest.raises(BadInput, match="input 'x': data are no JSON: "):
        from_json_text("x", datatype, [1], msgspec.Raw(text))


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_parsed_data_may_have_numbers_that_are_not_finite(datatype: str) -> None:
    found = from_json("x", datatype, [3], [float("nan"), float("inf"), -float("inf")])
    assert found.dtype == DTYPES[datatype]
    assert str(found.tolist()) == "[nan, inf, -inf]"


def test_a_text_that_utf8_can_not_tell_is_refused() -> None:
    with pytest.raises(BadInput, match="input 'x': "):
        from_json("x", "BYTES", [1], ["\ud800"])


@given(st.lists(st.floats(width=32), max_size=20))
def test_floats_come_back_from_json_with_the_same_bits(values: list[float]) -> None:
    array = np.array(values, np.float32)
    text = msgspec.json.encode(to_json(array))
    parsed = json.loads(text)
    np.testing.assert_array_equal(from_json("x", "FP32", [len(values)], parsed), array)
    if np.isfinite(array).all():
        assert from_json_text("x", "FP32", [len(values)], msgspec.Raw(text)).tobytes() == array.tobytes()
    else:
        assert any(word in text for word in (b"NaN", b"Infinity"))


# Raw bytes


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name not in ("BYTES", "BOOL")])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)])
def test_raw_numbers_are_little_endian_and_row_major(datatype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape, dtype=int))
    array = np.arange(size).astype(DTYPES[datatype]).reshape(shape)
    raw = to_raw(array, datatype)
    found = from_raw("x", datatype, list(shape), raw)
    assert found.dtype == array.dtype
    assert found.shape == shape
    assert found.tobytes() == array.tobytes() == raw
    assert to_raw(np.asfortranarray(array), datatype) == raw
    assert to_raw(np.repeat(array.reshape(-1), 2)[::2].reshape(shape), datatype) == raw


def test_raw_numbers_have_the_bytes_that_the_protocol_says() -> None:
    assert to_raw(np.array([[1, -2]], np.int32), "INT32") == b"\1\0\0\0\xfe\xff\xff\xff"
    assert to_raw(np.array([True, False]), "BOOL") == b"\1\0"
    assert to_raw(np.array(1.5, ml_dtypes.bfloat16), "BF16") == b"\xc0\x3f"
    assert to_raw(np.array(["a", "\u00fc"], object), "BYTES") == b"\1\0\0\0a\2\0\0\0\xc3\xbc"
    assert to_raw(np.array([], object), "BYTES") == b""


def test_aligned_numbers_are_not_copied_and_others_are_aligned() -> None:
    memory = np.zeros(17, np.uint8).data
    found = from_raw("x", "FP64", [2], memory[:16])
    assert np.shares_memory(found, np.frombuffer(memory, np.uint8))
    assert found.flags.aligned
    moved = from_raw("x", "FP64", [2], memory[1:])
    assert moved.flags.aligned


def test_any_bits_of_a_float_are_taken() -> None:
    raw = struct.pack("<4I", 0x7FC00001, 0xFF800001, 0x80000000, 1)  # NaNs that say something, -0, the smallest number
    assert from_raw("x", "FP32", [4], raw).tobytes() == raw


@pytest.mark.parametrize("size", [0, 15, 17, 20])
def test_raw_numbers_must_have_exactly_the_size_of_the_shape(size: int) -> None:
    with pytest.raises(BadInput, match=rf"input 'x' has {size} bytes of data; FP32 of shape \[2, 2\] has 16"):
        from_raw("x", "FP32", [2, 2], bytes(size))


def test_truths_are_a_byte_each_0_or_1() -> None:
    found = from_raw("x", "BOOL", [2], b"\1\0")
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False]
    with pytest.raises(BadInput, match="BOOL elements must be 0 or 1"):
        from_raw("x", "BOOL", [2], b"\1\2")


@given(st.lists(st.text(), max_size=8))
def test_texts_come_back_from_raw_bytes(texts: list[str]) -> None:
    raw = to_raw(np.array([*texts, None], object)[:-1], "BYTES")
    found = from_raw("x", "BYTES", [len(texts)], raw)
    assert found.dtype == object
    assert found.tolist() == texts


@pytest.mark.parametrize(
    ("shape", "raw", "said"),
    [
        ([1], b"", "has 0 bytes of data; 1 BYTES elements have at least 4 each"),
        ([1], b"\1\0\0", "has 3 bytes of data"),
        ([1], b"\1\0\0\0", "element 0 of BYTES ends after the data's 4 bytes"),
        ([1], b"\xff\xff\xff\xffab", "element 0 of BYTES ends after the data's 6 bytes"),
        ([2], b"\1\0\0\0a\1\0\0", "element 1 of BYTES ends after the data's 8 bytes"),
        ([2], b"\1\0\0\0a\1\0\0\0", "element 1 of BYTES ends after the data's 9 bytes"),
        ([1], b"\1\0\0\0ab", "1 bytes are left over after 1 BYTES elements"),
        ([0], b"\0\0\0\0", "4 bytes are left over after 0 BYTES elements"),
        ([2**60], b"\0\0\0\0", "has 4 bytes of data"),
        ([1], b"\1\0\0\0\xff", "must be UTF-8 text"),
    ],
)
def test_texts_that_do_not_fit_their_bytes_are_refused(shape: list[int], raw: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=f"^input 'x':? .*{said}"):
        from_raw("x", "BYTES", shape, raw)


@given(st.binary(max_size=40), st.lists(st.integers(0, 4), max_size=3), st.sampled_from(sorted(DTYPES)))
def test_whatever_the_bytes_are_they_are_taken_or_refused(raw: bytes, shape: list[int], datatype: str) -> None:
    try:
        found = from_raw("x", datatype, shape, raw)
    except BadInput:
        return
    assert found.shape == tuple(shape)
    assert to_raw(found, datatype) == raw


# Typed contents


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("UINT8", [0, 255]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("FP32", [0.5, float("inf")]),
        ("FP64", [1e300, -0.0]),
    ],
)
def test_typed_contents_are_taken_as_they_are(datatype: str, values: list[Any]) -> None:
    found = from_values("x", datatype, [1, 2], values)
    assert found.dtype == DTYPES[datatype]
    assert found.tolist() == [values]
    assert to_values(found) == values
    assert from_values("x", datatype, [0, 2], []).shape == (0, 2)


def test_typed_texts_are_bytes_or_text() -> None:
    found = from_values("x", "BYTES", [2], [b"a\xc3\xbc", "b"])
    assert to_values(found) == ["a\u00fc", "b"]


@pytest.mark.parametrize(
    ("datatype", "values", "said"),
    [
        ("INT8", [0, 128], "numbers that INT8 has not"),
        ("UINT16", [0, 65_536], "numbers that UINT16 has not"),
        ("UINT32", [-1, 0], "no UINT32 values"),
        ("BOOL", [0, 2], "BOOL elements must be 0 or 1"),
        ("INT64", [2**63, 0], "no INT64 values"),
        ("FP32", ["a", "b"], "no FP32 values"),
        ("FP32", [b"a", None], "no FP32 values"),
        ("BYTES", [b"\xff", b""], "must be UTF-8 text"),
        ("BYTES", [1.5, b""], "no BYTES values"),
        ("FP16", [1, 2], "FP16 has no typed contents; send it as raw contents"),
        ("BF16", [1, 2], "BF16 has no typed contents; send it as raw contents"),
        ("FP32", [1.0], r"data have 1 elements; shape \[2\] has 2"),
        ("BYTES", [b"", b"", b""], r"data have 3 elements; shape \[2\] has 2"),
        ("STRING", ["", ""], "there is no datatype 'STRING'; datatypes: BOOL, "),
    ],
)
def test_typed_contents_that_a_datatype_has_not_are_refused(datatype: str, values: list[Any], said: str) -> None:
    with pytest.raises(BadInput, match=f"^input 'x':? .*{said}"):
        from_values("x", datatype, [2], values)


# The graph's side


IMAGE = Tensor(name="x", datatype="FP32", shape=("batch", 3, "n"))


@pytest.mark.parametrize("shape", [[1, 3, 1], [7, 3, 0], [1, 3, 2**62]])
def test_a_shape_that_the_graph_has_fits(shape: list[int]) -> None:
    check("x", "FP32", shape, IMAGE, batched=True)


@pytest.mark.parametrize(
    "shape", [[], [1, 3], [0, 3, 1], [1, 4, 1], [-1, 3, 1], [1, 3, -1], [1, 3, 2**63], [1] * 10**6]
)
def test_a_shape_that_the_graph_has_not_is_named_with_the_one_it_has(shape: list[int]) -> None:
    with pytest.raises(
        BadInput, match=r"input 'x' has shape \[.*\]; expected \[-1, 3, -1\] \(-1: any size\)"
    ) as refused:
        check("x", "FP32", shape, IMAGE, batched=True)
    assert len(str(refused.value)) < 500


def test_without_a_batch_there_may_be_no_rows() -> None:
    check("x", "FP32", [0, 3, 1], IMAGE, batched=False)


def test_a_graph_that_tells_no_rank_takes_any_shape() -> None:
    anything = Tensor(name="x", datatype="FP32", shape=None)
    assert shape_of(anything) == [-1]
    for shape in ([], [1], [0, 2], [1] * 64):
        check("x", "FP32", shape, anything, batched=False)
    for shape in ([-1], [1] * 65, [2**63]):
        with pytest.raises(BadInput, match="expected up to 64 axes of any size"):
            check("x", "FP32", shape, anything, batched=False)


@pytest.mark.parametrize(
    ("datatype", "said"),
    [
        ("FP64", "input 'x' must be FP32, not FP64"),
        ("float" * 100, "input 'x': there is no datatype 'floatfloat.*...; datatypes: BOOL, UINT8, .*, BF16, BYTES"),
    ],
)
def test_another_datatype_is_named(datatype: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"^{said}$"):
        check("x", datatype, [1, 3, 1], IMAGE, batched=True)


def test_sizes_of_elements() -> None:
    assert [size_of(name) for name in ("BOOL", "FP16", "BF16", "UINT64", "BYTES")] == [1, 2, 2, 8, None]


def test_long_lists_and_texts_are_cut_in_messages() -> None:
    assert shown([]) == "[]"
    assert shown(range(10)) == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    assert shown(range(10**9)) == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...]"
    assert brief("a" * 10**6) == "'" + "a" * 79 + "..."
