"""Tensors between the wire and NumPy: JSON data, raw bytes, gRPC's typed contents.

Nothing is cut, wrapped or guessed: what a datatype does not have is refused. The messages name the tensor.

JSON data come in two forms. Text that is still to be parsed is what is usual and fast: the parser is told which type to
expect, so no element has to be looked at again. What another parser has made of it is for the rest, and for telling
what exactly is wrong.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import BadInput
from service.manifest import Tensor
from service.tensors import DTYPES, numbers

_MOST_AXES = 64
"""What NumPy has at most."""

_MOST_SHOWN = 10
_LONGEST_SHOWN = 80
_COPIED = 4096
"""Bytes up to which copying them takes less than not to."""
_LENGTH = struct.Struct("<I")

_WIDE: Mapping[str, np.dtype[Any]] = {"b": np.dtype(np.int64), "i": np.dtype(np.int64), "u": np.dtype(np.uint64)}
"""By NumPy's kind: what typed contents are read as before they are looked at."""

_JSON_TYPES: Mapping[str, type] = {"b": bool, "i": int, "u": int, "f": float, "O": str}
"""By NumPy's kind: what JSON data are made of. To the parser whole numbers are floats too; truths are no numbers."""

Buffer = bytes | memoryview


def shown(items: Iterable[object]) -> str:
    """List `items` for a message, cut where there are many."""
    first = [brief(item) for item in islice(items, _MOST_SHOWN + 1)]
    return f"[{', '.join(first[:_MOST_SHOWN])}{', ...' if len(first) > _MOST_SHOWN else ''}]"


def brief(item: object) -> str:
    """Show `item` for a message, cut where it is long."""
    text = repr(item[: _LONGEST_SHOWN + 1] if isinstance(item, str) else item)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def shape_of(tensor: Tensor) -> list[int]:
    """The shape that metadata tell: -1 is an axis of any size, and alone any shape at all."""
    if tensor.shape is None:
        return [-1]
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


def size_of(datatype: str) -> int | None:
    """Bytes an element; None for BYTES, whose elements have a length each."""
    return None if datatype == "BYTES" else DTYPES[datatype].itemsize


def check(name: str, datatype: str, shape: Sequence[int], expected: Tensor, *, batched: bool) -> None:
    """Compare what a request says of an input with the graph, before its data are looked at.

    Args:
        name: of the input.
        datatype: as the request names it.
        shape: as the request gives it.
        expected: the graph's input.
        batched: whether the first axis is the batch, which needs at least one row.

    Raises:
        BadInput: datatype or shape differ.
    """
    if datatype != expected.datatype:
        if datatype not in DTYPES:
            raise _unknown(name, datatype)
        raise BadInput(f"input {name!r} must be {expected.datatype}, not {datatype}")
    if expected.shape is None:
        fits = len(shape) <= _MOST_AXES and all(0 <= size < 2**63 for size in shape)
    else:
        fits = len(shape) == len(expected.shape) and all(
            0 <= size < 2**63 and (size == wanted or isinstance(wanted, str))
            for size, wanted in zip(shape, expected.shape, strict=True)
        )
    if batched and fits:
        fits = shape[0] >= 1
    if not fits:
        allowed = (
            f"up to {_MOST_AXES} axes of any size" if expected.shape is None else f"{shape_of(expected)} (-1: any size)"
        )
        raise BadInput(f"input {name!r} has shape {shown(shape)}; expected {allowed}")


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> NDArray[Any]:
    """Make an array of JSON data, flat in row-major order or nested as `shape` says.

    Args:
        name: of the tensor.
        datatype: BYTES are texts; BF16 has no JSON form.
        shape: of the tensor.
        data: as a JSON parser gives it.

    Raises:
        BadInput: the data are no such tensor.
    """
    _dtype(name, datatype)
    if datatype == "BF16":
        raise BadInput(f"input {name!r}: BF16 can't be sent as JSON; send it as binary data")
    try:
        array = numbers(data, datatype)
    except BadInput as error:
        raise BadInput(f"input {name!r}: {error}") from error
    return _arranged(name, array, shape)


def from_json_text(name: str, datatype: str, shape: Sequence[int], text: msgspec.Raw) -> NDArray[Any]:
    """Make an array of JSON data that are not parsed yet; see `from_json`.

    Raises:
        BadInput: the data are no such tensor, or no JSON.
    """
    dtype = _dtype(name, datatype)
    depth = _depth(text)
    if (element := _JSON_TYPES.get(dtype.kind)) and 1 <= depth <= _MOST_AXES:
        try:
            data = _decoder(element, depth).decode(text)
            wide = np.dtype(np.float64) if element is float else dtype
            array = np.fromiter(data, wide, len(data)) if depth == 1 else np.array(data, wide)
        except (ValueError, OverflowError):  # the parser's own errors are ValueErrors too
            pass
        else:
            if element is float and dtype.itemsize < array.itemsize:
                with np.errstate(over="ignore"):
                    array = array.astype(dtype)
                if np.isinf(array).any():  # JSON as such has no infinite numbers: what is one now was too large
                    raise BadInput(f"input {name!r}: data have numbers too large for {datatype}")
            if array.ndim == depth:
                return _arranged(name, array, shape)
    try:
        data = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"input {name!r}: data are no JSON: {error}") from error
    return from_json(name, datatype, shape, data)


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: Buffer) -> NDArray[Any]:
    """Make an array of little-endian bytes in row-major order; numbers are not copied if they are aligned.

    Args:
        name: of the tensor.
        datatype: each element of BYTES has its length before it, in four bytes.
        shape: of the tensor.
        raw: exactly the tensor's bytes.

    Raises:
        BadInput: there are more or fewer bytes than the tensor has, or they are no elements of `datatype`.
    """
    dtype = _dtype(name, datatype)
    count = _count(name, shape)
    if datatype == "BYTES":
        return _shaped(name, _texts(name, count, memoryview(raw)), shape)
    if len(raw) != count * dtype.itemsize:
        raise BadInput(
            f"input {name!r} has {len(raw)} bytes of data; {datatype} of shape {shown(shape)} has "
            f"{count * dtype.itemsize}"
        )
    if datatype == "BOOL":
        return _shaped(name, _truths(name, np.frombuffer(raw, np.uint8)), shape)
    # Native code may count on its numbers being aligned, and dies of it where they are not.
    array = np.frombuffer(raw, dtype)
    return _shaped(name, array if array.flags.aligned else array.copy(), shape)


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> NDArray[Any]:
    """Make an array of typed contents: a flat sequence of numbers, truths or byte strings of one type.

    Args:
        name: of the tensor.
        datatype: BF16 and FP16 have no typed contents.
        shape: of the tensor.
        values: in row-major order.

    Raises:
        BadInput: there are more or fewer values than the tensor has, or they are none of `datatype`.
    """
    dtype = _dtype(name, datatype)
    if datatype in ("BF16", "FP16"):
        raise BadInput(f"input {name!r}: {datatype} has no typed contents; send it as raw contents")
    count = _count(name, shape)
    if len(values) != count:
        raise _miscounted(name, len(values), shape)
    if datatype == "BYTES":
        texts = np.empty(count, object)
        texts[:] = [value if isinstance(value, str) else _text(name, value) for value in values]
        return _shaped(name, texts, shape)
    try:
        array = np.fromiter(values, _WIDE.get(dtype.kind, dtype), count)
    except (OverflowError, TypeError, ValueError) as error:
        raise BadInput(f"input {name!r}: its contents are no {datatype} values") from error
    if dtype.kind == "b":
        array = _truths(name, array)
    elif dtype.kind in "iu" and count:
        limits = np.iinfo(dtype)
        if not limits.min <= array.min() <= array.max() <= limits.max:
            raise BadInput(f"input {name!r}: its contents have numbers that {datatype} has not")
    return _shaped(name, array.astype(dtype, copy=False), shape)


def to_buffer(array: NDArray[Any], datatype: str) -> Buffer:
    """The bytes of an array as `from_raw` takes them; those of many numbers are not copied."""
    if datatype == "BYTES":
        texts = [text.encode() for text in array.ravel().tolist()]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    if array.nbytes <= _COPIED:
        return array.tobytes()
    # Seen as bytes, as not every type that NumPy can hold lends its memory out by itself.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def to_raw(array: NDArray[Any], datatype: str) -> bytes:
    """A copy of the bytes of an array as `from_raw` takes them."""
    return bytes(to_buffer(array, datatype))


def to_json(array: NDArray[Any]) -> list[Any] | msgspec.Raw:
    """The elements in row-major order, ready for msgspec's encoder: NaN, Infinity and -Infinity stand as such."""
    values = to_values(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return msgspec.Raw(json.dumps(values, separators=(",", ":")).encode())
    return values


def to_values(array: NDArray[Any]) -> list[Any]:
    """The elements in row-major order: bool, int, float or str."""
    values: list[Any] = array.ravel().tolist()
    return values


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise _unknown(name, datatype)
    return dtype


def _unknown(name: str, datatype: str) -> BadInput:
    return BadInput(f"input {name!r}: there is no datatype {brief(datatype)}; datatypes: {', '.join(DTYPES)}")


@cache
def _decoder(element: type, depth: int) -> msgspec.json.Decoder[Any]:
    """A parser of lists of `element`, nested so deep."""
    kind: Any = element
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _depth(text: msgspec.Raw) -> int:
    """How deep the first element of JSON data lies, as far as that matters."""
    head = bytes(memoryview(text)[: 4 * _MOST_AXES])
    start = head.translate(None, b" \t\r\n")
    return len(start) - len(start.lstrip(b"["))


def _arranged(name: str, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    # Behind an axis without elements nothing is left to nest.
    nested_as = tuple(shape[: array.ndim] if array.size == 0 else shape)
    if array.ndim > 1 and array.shape != nested_as:
        raise BadInput(f"input {name!r}: data are nested as {list(array.shape)}, but shape is {shown(shape)}")
    return _shaped(name, array, shape)


def _count(name: str, shape: Sequence[int]) -> int:
    # Looked at before it is multiplied: the product of a million sizes takes for ever.
    if len(shape) > _MOST_AXES or (shape and not 0 <= min(shape) <= max(shape) < 2**63):
        raise BadInput(f"input {name!r} can't have shape {shown(shape)}")
    return math.prod(shape)


def _shaped(name: str, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    if array.size != _count(name, shape):
        raise _miscounted(name, array.size, shape)
    try:
        return array.reshape(shape)
    except ValueError as error:  # no elements, but axes that multiply to more than there is memory
        raise BadInput(f"input {name!r} can't have shape {shown(shape)}") from error


def _miscounted(name: str, count: int, shape: Sequence[int]) -> BadInput:
    return BadInput(f"input {name!r}: data have {count} elements; shape {shown(shape)} has {math.prod(shape)}")


def _truths(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.size and not 0 <= array.min() <= array.max() <= 1:
        raise BadInput(f"input {name!r}: BOOL elements must be 0 or 1")
    return array.astype(np.bool_)


def _texts(name: str, count: int, raw: memoryview) -> NDArray[Any]:
    """Cut BYTES elements apart; the shape is believed only as far as the bytes go."""
    if count * _LENGTH.size > len(raw):
        raise BadInput(f"input {name!r} has {len(raw)} bytes of data; {count} BYTES elements have at least 4 each")
    texts = np.empty(count, object)
    end = 0
    for index in range(count):
        start = end + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, end)[0] if start <= len(raw) else start
        if end > len(raw):
            raise BadInput(f"input {name!r}: element {index} of BYTES ends after the data's {len(raw)} bytes")
        texts[index] = _text(name, raw[start:end])
    if end != len(raw):
        raise BadInput(f"input {name!r}: {len(raw) - end} bytes are left over after {count} BYTES elements")
    return texts


def _text(name: str, element: Buffer) -> str:
    try:
        return str(element, "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"input {name!r}: BYTES elements must be UTF-8 text ({error.reason})") from error
    except TypeError as error:
        raise BadInput(f"input {name!r}: its contents are no BYTES values") from error
