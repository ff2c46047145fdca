"""The body of a REST inference: JSON, JSON followed by raw tensors, or one raw tensor alone; and that of its answer.

Bulk data are not copied on the way in (they stay where the body was read to) and once on the way out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.batching.records import Answer
from service.errors import BadInput, TooLarge
from service.manifest import Graph
from service.protocols.open_inference import inference, tensors
from service.protocols.open_inference.inference import Given, Inference, Wanted
from service.protocols.requests import parse_json
from service.repository.model import Model
from service.tensors import DTYPES

DataT = TypeVar("DataT")

Body: TypeAlias = bytes | memoryview


class _Input(msgspec.Struct, Generic[DataT]):
    name: str
    shape: list[int]
    datatype: str
    data: DataT | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct, Generic[DataT]):
    inputs: list[_Input[DataT]]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_REQUEST = msgspec.json.Decoder(_Request[msgspec.Raw])
_EXPECTED = "an inference request"

_MOST_TOLD = 64
_MOST_KNOWN, _LONGEST_KNOWN_HEAD = 64, 1024

_NO_DATA = (msgspec.UNSET, None, msgspec.Raw(b"null"))
"""KServe's client says null beside the size of an empty tensor."""

_ONE_BY_ONE = ("BYTES", "BOOL")
"""Datatypes whose elements are looked at where they come as bytes."""

_NO_NUMBERS = (b"NaN", b"Inf")
_LARGEST_RESPELLED = 2**20
"""Bytes of JSON up to which `Inf` is read: it takes a look at every string, and hardly anybody writes it."""
_STRING_OR_INF = re.compile(rb'"(?:[^"\\]|\\.)*+"?|Inf(?!inity)', re.DOTALL)
"""What has to be told apart for reading `Inf` as a number: a string takes all of itself, so no Inf is found in one."""


_ALIGNED: Final = 16
"""Numbers that lie at a multiple of so many bytes can be read by whatever reads them."""


def whole(pieces: Sequence[bytes], header_length: int | None) -> Body:
    """Join a body that came in pieces, so that the numbers behind its JSON are aligned: else they would be copied."""
    if len(pieces) == 1:
        return pieces[0]
    room = -header_length % _ALIGNED if header_length else 0
    joined = b"".join((bytes(room), *pieces))
    return memoryview(joined)[room:] if room else joined


class Reader:
    """Reads the requests of one graph and checks them against it.

    Where tensors are binary, clients say the same JSON before them again and again, or nothing; what was found of the
    last few is kept.

    Args:
        graph: what shall run.
        batched: whether the first axis of every tensor is the batch.
    """

    def __init__(self, graph: Graph, *, batched: bool) -> None:
        self._graph = graph
        self._batched = batched
        self._known: dict[bytes, _Known] = {}  # by their JSON
        self._known_raw: dict[int, _Known] = {}  # by their size
        self._all_numbers = not any(tensor.datatype in _ONE_BY_ONE for tensor in graph.inputs)

    def bytes_to_parse(self, size: int, header_length: int | None) -> int:
        """Of a body's `size` so many bytes are looked at one by one; the others are numbers, which lie as they come."""
        return header_length if header_length is not None and self._all_numbers else size

    def read(self, body: Body, header_length: int | None, now: float, deadline: float | None = None) -> Inference:
        """Read a request.

        Args:
            body: all of it, not compressed.
            header_length: how much of it is JSON; None = all, 0 = nothing: it is the only input's data.
            now: when the request came, on the clock of `deadline`.
            deadline: that it has already; its own may be earlier.

        Raises:
            BadInput: it is no request, or not one that the graph can take.
        """
        graph, batched = self._graph, self._batched
        if header_length == 0:
            return self._read_raw(body, now, deadline)
        if header_length is not None and header_length > len(body):
            raise BadInput(
                f"the body has {len(body)} bytes; inference-header-content-length says {header_length} for its JSON "
                "alone"
            )
        text = None
        if header_length is not None and header_length <= _LONGEST_KNOWN_HEAD:
            text = bytes(body[:header_length])
            known = self._known.get(text)
            if known and known.size == len(body):
                return known.inference(body, now, deadline)
        request = _parse(body if header_length is None else memoryview(body)[:header_length])
        parameters = request.parameters or {}
        own_deadline, priority = inference.parameters(parameters, now)
        given = _given(request.inputs, body, header_length, graph)
        read = Inference(
            request.id or "",
            inference.inputs_of(given, graph, batched=batched),
            _wanted(request, parameters, graph),
            _earlier(deadline, own_deadline),
            priority,
            parameters,
        )
        if text is not None and all(one.data in _NO_DATA for one in request.inputs):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[text] = _Known(len(body), _places(request.inputs, len(body)), read)
        return read

    def _read_raw(self, body: Body, now: float, deadline: float | None) -> Inference:
        """Read the only input's data."""
        if known := self._known_raw.get(len(body)):
            return known.inference(body, now, deadline)
        graph = self._graph
        array = _of_raw(body, graph, batched=self._batched)
        tensor = graph.inputs[0]
        read = Inference("", {tensor.name: array}, inference.wanted((), graph, binary=True), deadline, 0)
        if tensor.datatype != "BYTES":
            if len(self._known_raw) >= _MOST_KNOWN:
                self._known_raw.clear()
            place = _Place(tensor.name, tensor.datatype, array.shape, 0, len(body))
            self._known_raw[len(body)] = _Known(len(body), [place], read)
        return read


class _Known:
    """Requests that are alike but for what is in their tensors, which are all binary: read and checked.

    Args:
        size: of the whole body, in bytes.
        inputs: where each is in it.
        read: the first of them.
    """

    def __init__(self, size: int, inputs: Sequence[_Place], read: Inference) -> None:
        self.size = size
        self._inputs = inputs
        self._id, self._outputs, self._parameters, self._told = read.id, read.outputs, read.parameters, read.told

    def inference(self, body: Body, now: float, deadline: float | None) -> Inference:
        """Another one of them; see `Reader.read`."""
        arrays = {place.name: place.array(body) for place in self._inputs}
        own_deadline, priority = inference.parameters(self._parameters, now)
        until = _earlier(deadline, own_deadline)
        return Inference(self._id, arrays, self._outputs, until, priority, self._parameters, self._told)


class _Place:
    """Where in a body the data of an input are.

    Args:
        name: of the input.
        datatype: of its elements, of which there are as many as there are bytes for.
        shape: of it.
        start: of its data in the body,
        size: and how many bytes they are.
    """

    __slots__ = ("_count", "_datatype", "_dtype", "_end", "_shape", "_start", "name")

    def __init__(self, name: str, datatype: str, shape: tuple[int, ...], start: int, size: int) -> None:
        self.name = name
        self._datatype, self._shape = datatype, shape
        self._start, self._end = start, start + size
        # The others are looked at one by one.
        self._dtype = DTYPES[datatype] if datatype not in _ONE_BY_ONE else None
        self._count = math.prod(shape)

    def array(self, body: Body) -> NDArray[Any]:
        """Those of one body; numbers are not copied if they are aligned."""
        if self._dtype is None:
            return tensors.from_raw(self.name, self._datatype, self._shape, memoryview(body)[self._start : self._end])
        array = np.frombuffer(body, self._dtype, self._count, self._start).reshape(self._shape)
        return array if array.flags.aligned else array.copy()


def _places(inputs: Sequence[_Input[Any]], size: int) -> list[_Place]:
    """Where inputs are that come one after the other at the end of a body of `size` bytes."""
    sizes = [(one.parameters or {})["binary_data_size"] for one in inputs]
    starts = accumulate(sizes, initial=size - sum(sizes))
    return [
        _Place(one.name, one.datatype, tuple(one.shape), start, length)
        for one, start, length in zip(inputs, starts, sizes, strict=False)
    ]


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def write(model: Model, asked: Inference, answer: Answer) -> tuple[bytes, int | None]:
    """Make the body of an answer.

    Args:
        model: which answered.
        asked: what it was asked for.
        answer: what it gave.

    Returns:
        The body, and how much of it is JSON if that is not all.
    """
    arrays = [one.array(answer.outputs, model.labels, batched=model.batched) for one in asked.outputs]
    shapes = tuple([array.shape for array in arrays])
    outputs = asked.told.get(shapes)
    if outputs is not None:  # all of them binary, and numbers
        raw: list[tensors.Buffer] = [tensors.to_buffer(array, "") for array in arrays]
    else:
        outputs, raw = _write(asked, arrays)
        if len(raw) == len(arrays) and not any(one.datatype == "BYTES" for one in asked.outputs):
            if len(asked.told) >= _MOST_TOLD:
                asked.told.clear()
            asked.told[shapes] = outputs
    identity = f',"id":{msgspec.json.encode(asked.id).decode()}' if asked.id else ""
    times = inference.timings(answer)
    header = (
        f'{{"model_name":"{model.name}","model_version":"{model.version}"{identity},"parameters":'
        f'{{"queue_us":{times["queue_us"]},"compute_us":{times["compute_us"]},"batch_size":{times["batch_size"]}}},'
        '"outputs":'
    ).encode() + outputs
    return (b"".join((header, *raw)), len(header)) if raw else (header, None)


def _write(asked: Inference, arrays: Sequence[NDArray[Any]]) -> tuple[bytes, list[tensors.Buffer]]:
    """The JSON of an answer from its outputs on, and what comes behind it."""
    described = []
    raw: list[tensors.Buffer] = []
    for one, array in zip(asked.outputs, arrays, strict=True):
        output: dict[str, Any] = {"name": one.tensor.name, "datatype": one.datatype, "shape": list(array.shape)}
        if one.binary:
            raw.append(tensors.to_buffer(array, one.datatype))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = tensors.to_json(array)
        described.append(output)
    return msgspec.json.encode(described) + b"}", raw


def elements_to_write(asked: Inference, answer: Answer) -> int:
    """How many elements of an answer have to be looked at one by one."""
    return sum(
        answer.outputs[one.tensor.name].size for one in asked.outputs if not one.binary or one.datatype == "BYTES"
    )


def header_length_of(given: Sequence[str]) -> int | None:
    """Read the header `inference-header-content-length`.

    Args:
        given: its values.

    Raises:
        BadInput: there is more than one, or it is no length.
    """
    if not given:
        return None
    if len(given) > 1 or not (given[0].isascii() and given[0].isdigit() and len(given[0]) < 19):
        raise BadInput(f"inference-header-content-length must be one number of bytes, not {', '.join(given)[:80]!r}")
    return int(given[0])


def _parse(text: bytes | memoryview) -> _Request[Any]:
    """Parse the JSON of a request; with another parser where it has NaN or Infinity, which Triton takes."""
    try:
        return parse_json(_REQUEST, text, _EXPECTED)
    except TooLarge:
        raise
    except BadInput:
        content = bytes(text)
        if not any(spelling in content for spelling in _NO_NUMBERS):
            raise
    try:
        if len(text) <= _LARGEST_RESPELLED:
            text = _STRING_OR_INF.sub(lambda found: b"Infinity" if found[0] == b"Inf" else found[0], text)
        request = msgspec.convert(json.loads(str(text, "utf-8"), parse_float=_finite), _Request[Any])
        (request.id or "").encode()  # this parser takes halves of characters, which no answer could give back
        return request
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body must be {_EXPECTED}: {error}") from error


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _given(inputs: list[_Input[Any]], body: Body, header_length: int | None, graph: Graph) -> list[Given]:
    """Find the data of every input: in the JSON, or its share of what comes after it."""
    inference.check_names([one.name for one in inputs], graph)
    view = memoryview(body)
    end = len(body) if header_length is None else header_length
    given = []
    for one in inputs:
        parameters = one.parameters or {}
        inference.refuse_shared_memory(f"input {one.name!r}", parameters)
        size = parameters.get("binary_data_size")
        if (size is None) == (one.data in _NO_DATA):
            raise BadInput(f"input {one.name!r} must have either data or the parameter binary_data_size")
        if size is None and isinstance(one.data, msgspec.Raw):
            maker = partial(tensors.from_json_text, one.name, one.datatype, one.shape, one.data)
        elif size is None:
            maker = partial(tensors.from_json, one.name, one.datatype, one.shape, one.data)
        else:
            start, end = end, end + _size(one.name, size)
            if end > len(body):
                raise BadInput(
                    f"input {one.name!r}: binary_data_size is {size}, but the body has {len(body) - start} bytes left"
                )
            maker = partial(tensors.from_raw, one.name, one.datatype, one.shape, view[start:end])
        given.append(Given(one.name, one.datatype, one.shape, maker))
    if end != len(body):
        raise BadInput(f"{len(body) - end} bytes are left over after the inputs' binary data")
    return given


def _size(name: str, size: object) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadInput(f"input {name!r}: binary_data_size must be a whole number, 0 or more")
    return size


def _wanted(request: _Request[Any], parameters: dict[str, Any], graph: Graph) -> tuple[Wanted, ...]:
    wanted = inference.wanted(
        [(one.name, one.parameters or {}) for one in request.outputs or ()],
        graph,
        binary=inference.flag("the request", parameters, "binary_data_output", default=False),
    )
    for one in wanted:
        if one.datatype == "BF16" and not one.binary:
            raise BadInput(
                f"output {one.tensor.name!r}: BF16 can't be sent as JSON; ask for it with the parameter binary_data"
            )
    return wanted


def _of_raw(body: Body, graph: Graph, *, batched: bool) -> NDArray[Any]:
    """Make the only input of a body that is nothing but its data, one row if there are rows."""
    if len(graph.inputs) != 1:
        raise BadInput(
            f"a raw body (inference-header-content-length: 0) needs a model of one input, not {len(graph.inputs)}"
        )
    tensor = graph.inputs[0]
    known = tensors.shape_of(tensor)
    if batched:
        known[0] = 1
    if tensor.datatype == "BYTES":
        if math.prod(map(abs, known)) != 1:
            raise BadInput(f"a raw body is one element, but input {tensor.name!r} has shape {tensors.shape_of(tensor)}")
        return tensors.from_values(tensor.name, "BYTES", [1] * len(known), [body])
    if known.count(-1) > 1:
        raise BadInput(
            f"a raw body tells no shape, and input {tensor.name!r} has {tensors.shape_of(tensor)} (-1: any size)"
        )
    fixed = math.prod(size for size in known if size != -1) * DTYPES[tensor.datatype].itemsize
    shape = [size if size != -1 else (len(body) // fixed if fixed else 0) for size in known]
    return tensors.from_raw(tensor.name, tensor.datatype, shape, body)
