"""Tensors as every floor passes them on, NumPy's types of the protocol's datatypes, and how JSON becomes arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from service.errors import BadInput

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensors by name; the batch is the first axis of each, where the model has one."""

DTYPES: Mapping[str, np.dtype[Any]] = {
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
    "BYTES": np.dtype(object),
}
"""NumPy's type of each datatype of the Open Inference Protocol. The elements of BYTES are `str`: ONNX's strings are
UTF-8 text, and ONNX Runtime takes and gives objects of that type."""

_WHOLE: frozenset[type] = frozenset({int})
_FLOATS: frozenset[type] = frozenset({int, float})
_ELEMENTS: Mapping[str, tuple[frozenset[type], str]] = {
    "BOOL": (frozenset({bool}), "true and false"),
    "BYTES": (frozenset({str}), "texts"),
    **{name: (_WHOLE, "whole numbers") for name, dtype in DTYPES.items() if dtype.kind in "iu"},
    **dict.fromkeys(("FP16", "FP32", "FP64", "BF16"), (_FLOATS, "numbers")),
}
"""What a datatype is made of in JSON. `bool` is an `int` to Python, but not here: `true` is no number."""


_UNEVEN = "data are not nested evenly, or more than 64 deep"

_JSON_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    str: "a text",
    type(None): "null",
    dict: "an object",
    list: "a list",
}


def not_finite(arrays: Arrays) -> list[str]:
    """The names of those in which a number is NaN or infinite."""
    floats = (
        (name, array) for name, array in arrays.items() if array.dtype.kind == "f" or array.dtype == DTYPES["BF16"]
    )
    return [name for name, array in floats if not np.isfinite(array).all()]


def numbers(data: object, datatype: str) -> NDArray[Any]:
    """Make an array of what JSON held, if every element is one of `datatype`: nothing is cut, wrapped or guessed.

    Args:
        data: one element, or evenly nested lists of them, as deep as the array shall have axes.
        datatype: one of `DTYPES`.

    Returns:
        An array of exactly that datatype and of the shape of the nesting.

    Raises:
        BadInput: the lists are nested unevenly, or an element is of another kind or too large. The message does not
            name the tensor, which is the caller's to know.
    """
    dtype = DTYPES[datatype]
    allowed, kind = _ELEMENTS[datatype]
    found, depth = _elements(data)
    if wrong := found - allowed:
        if list in wrong:
            raise BadInput(_UNEVEN)
        named = sorted(_JSON_NAMES.get(one, one.__name__) for one in wrong)
        raise BadInput(f"data of {datatype} must be {kind}; found: {', '.join(named)}")
    try:
        # Floats are looked at as the widest ones first: there they are still finite, if they ever were.
        array = np.array(data, np.float64 if allowed is _FLOATS else dtype)
    except OverflowError as error:
        raise BadInput(f"data have numbers that {datatype} has not") from error
    except (TypeError, ValueError) as error:
        raise BadInput(_UNEVEN) from error
    if array.ndim != depth:  # objects may be lists, so NumPy lets uneven ones pass
        raise BadInput(_UNEVEN)
    if datatype == "BYTES":
        _check_text(array)
    if allowed is not _FLOATS or dtype == np.float64:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if (np.isinf(narrow) & np.isfinite(array)).any():
        raise BadInput(f"data have numbers too large for {datatype}")
    return narrow


def _elements(data: object) -> tuple[set[type], int]:
    """The types of all elements, and how deep the first one lies."""
    depth = 0
    first = data
    while isinstance(first, list):
        depth += 1
        first = first[0] if first else None
    flat: Iterable[Any] = [data]
    for _ in range(depth):
        if not set(map(type, level := list(flat))) <= {list}:
            raise BadInput(_UNEVEN)
        flat = chain.from_iterable(level)
    return set(map(type, flat)), depth


def _check_text(array: NDArray[Any]) -> None:
    try:
        "".join(array.ravel().tolist()).encode()
    except UnicodeEncodeError as error:
        raise BadInput("data of BYTES must be text that UTF-8 can tell") from error
