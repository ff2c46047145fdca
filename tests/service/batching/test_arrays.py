from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from service.batching.arrays import gather, layout, misfit, scatter

TEXTS = ["", "ant", "Übung", "\N{SNOWMAN}" * 300]


def made_of(dtype: Any, shape: tuple[int, ...], start: int) -> NDArray[Any]:
    """Make an array whose elements are told apart."""
    numbers = np.arange(start, start + np.prod(shape, dtype=int))
    if dtype is object:
        texts = [f"{number} {TEXTS[number % len(TEXTS)]}" for number in numbers]
        return np.array(texts, dtype=object).reshape(shape)
    return numbers.astype(dtype).reshape(shape)


@st.composite
def requests(draw: st.DrawFn) -> list[dict[str, NDArray[Any]]]:
    """Draw the arrays of requests of one layout."""
    dtypes = st.sampled_from([np.float32, np.float16, bfloat16, np.int64, np.uint8, np.bool_, object])
    inner = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    tensors = draw(st.dictionaries(st.sampled_from("xyz"), st.tuples(dtypes, inner), min_size=1))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    return [
        {name: made_of(dtype, (size, *shape), 100 * number) for name, (dtype, shape) in tensors.items()}
        for number, size in enumerate(sizes)
    ]


@given(requests())
def test_what_was_joined_parts_into_what_it_was(parts: list[dict[str, NDArray[Any]]]) -> None:
    assert len({layout(part) for part in parts}) == 1
    sizes = [len(next(iter(part.values()))) for part in parts]
    joined = gather(parts)
    assert misfit(joined, sum(sizes)) is None
    for share, part in zip(scatter(joined, sizes), parts, strict=True):
        assert share.keys() == part.keys()
        for name, array in part.items():
            assert share[name].dtype == array.dtype
            assert share[name].shape == array.shape
            assert share[name].tolist() == array.tolist()


def test_texts_stay_the_objects_that_they_were() -> None:
    text = "long " * 1000
    joined = gather([{"x": np.array([[text]], dtype=object)}, {"x": np.array([["short"]], dtype=object)}])
    assert joined["x"][0, 0] is text
    assert type(joined["x"][1, 0]) is str


def test_one_request_is_neither_copied_nor_cut() -> None:
    arrays = {"x": np.ones((2, 0, 3))}
    assert gather([arrays]) is arrays
    assert next(scatter(arrays, [2])) is arrays


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.ones((5, 0), np.float16)},
        {"x": np.ones((5, 1), bfloat16)},
        {"x": np.ones((5, 0, 0), bfloat16)},
        {"x": np.ones((5, 0), object)},
        {"y": np.ones((5, 0), bfloat16)},
        {"x": np.ones((5, 0), bfloat16), "y": np.ones((5, 0), bfloat16)},
    ],
    ids=["dtype", "inner size", "rank", "texts", "name", "one more"],
)
def test_what_differs_past_the_batch_axis_is_another_layout(other: dict[str, NDArray[Any]]) -> None:
    same = {"x": np.ones((3, 0), bfloat16)}
    assert layout({"x": np.ones((5, 0), bfloat16)}) == layout(same)
    assert layout(other) != layout(same)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (3, 2), (0, 2)])
def test_an_array_that_has_not_the_rows_is_named(shape: tuple[int, ...]) -> None:
    arrays = {"good": np.ones((2, 3)), "bad": np.ones(shape, object)}
    assert misfit(arrays, 2) == f"'bad' has shape {list(shape)}, where the first axis should be 2"
