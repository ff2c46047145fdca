"""Tensors of every datatype, and what it means that two of them are the same."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES: Final = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(np.object_),
}

TEXTS: Final = (
    "",
    "a",
    "plain ASCII",
    'quoted "text" \\ and /',
    "tab\tand\nline",
    "\0",
    "żółć",
    "日本語",
    "🎉👩‍🔬",
    "\x7f\u0080",
)
"""Of one, two, three and four bytes a character, and what JSON writes in another way."""


def random(datatype: str, shape: tuple[int, ...], generator: np.random.Generator, *, any_bits: bool = True) -> Array:
    """Make a tensor.

    Args:
        datatype: of the tensor.
        shape: of the tensor.
        generator: of its elements.
        any_bits: numbers of any bits at all, every kind of NaN among them; else of NaNs only the usual one, which is
            all that JSON can tell.
    """
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        texts = np.empty(shape, object)
        texts.reshape(-1)[:] = generator.choice(np.array(TEXTS, object), texts.size)
        return texts
    if datatype == "BOOL":
        return generator.integers(0, 2, shape).astype(dtype)
    array = np.frombuffer(generator.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    if any_bits or dtype.kind in "iu":
        return array
    return np.where(np.isnan(array), np.array(np.nan, dtype), array)


def extremes(datatype: str) -> Array:
    """Make a row of the least usual values of a datatype."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return np.array([TEXTS], object)
    if datatype == "BOOL":
        return np.array([[True, False]])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([[limits.min, 0, 1, limits.max]], dtype)
    floats = ml_dtypes.finfo(dtype)
    values = [floats.min, -floats.tiny, -floats.smallest_subnormal, -0.0, 0.0, floats.smallest_subnormal, floats.max]
    return np.array([[*values, np.inf, -np.inf, np.nan]], dtype)


def content(array: Array) -> tuple[tuple[int, ...], bytes | list[bytes]]:
    """What has to be the same: shape and bytes. Texts may come as such or encoded."""
    if array.dtype == np.object_:
        return array.shape, [one.encode() if isinstance(one, str) else one for one in array.reshape(-1).tolist()]
    return array.shape, np.ascontiguousarray(array).tobytes()
