"""What an inference request asks for, whichever dialect it came in: inputs, outputs, deadline, priority."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.records import Answer
from service.errors import BadInput, Unsupported
from service.manifest import Graph, Tensor
from service.protocols.open_inference import tensors
from service.protocols.open_inference.tensors import brief, shown
from service.tensors import Arrays

_LONGEST_TIMEOUT_US = 10**12
"""Eleven days: a longer one is none."""

_LOWEST_PRIORITY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Given:
    """An input as a request describes it; `array_maker` converts its data, and is called once the rest is checked."""

    name: str
    datatype: str
    shape: Sequence[int]
    array_maker: Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that a request wants.

    Attributes:
        tensor: of the graph.
        classification: so many of its highest values, as texts; 0 = the tensor itself.
        binary: as raw bytes (REST).
    """

    tensor: Tensor
    classification: int = 0
    binary: bool = False

    @property
    def datatype(self) -> str:
        """Of what is answered."""
        return "BYTES" if self.classification else self.tensor.datatype

    def array(self, outputs: Arrays, labels: Sequence[str] | None, *, batched: bool) -> NDArray[Any]:
        """What is answered, of the graph's `outputs`."""
        array = outputs[self.tensor.name]
        return classified(array, self.classification, labels, batched=batched) if self.classification else array


@dataclass(frozen=True, slots=True)
class Inference:
    """A request that the graph can take.

    Attributes:
        id: comes back in the answer.
        arrays: the graph's inputs.
        outputs: wanted, in the order of the answer.
        deadline: on the clock of `time.monotonic`.
        priority: 1 is the highest; 0 the default.
        parameters: of the request, those included that were read here.
        told: by the shapes of outputs that are all binary, what an answer's JSON says of them.
    """

    id: str
    arrays: Arrays
    outputs: tuple[Wanted, ...]
    deadline: float | None
    priority: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    told: dict[tuple[tuple[int, ...], ...], bytes] = field(default_factory=dict)


def inputs_of(given: Sequence[Given], graph: Graph, *, batched: bool) -> Arrays:
    """Make the graph's inputs of those that a request gives.

    Args:
        given: in any order.
        graph: what shall run.
        batched: whether the first axis of every input is the batch.

    Raises:
        BadInput: an input is missing, unknown, given twice, of another datatype or shape; or its data are wrong.
    """
    check_names([one.name for one in given], graph)
    by_name = {one.name: one for one in given}
    for tensor in graph.inputs:
        one = by_name[tensor.name]
        tensors.check(one.name, one.datatype, one.shape, tensor, batched=batched)
    if batched and len(rows := {one.shape[0] for one in given}) > 1:
        raise BadInput(f"inputs must have one batch size; given: {shown(sorted(rows))}")
    return {tensor.name: by_name[tensor.name].array_maker() for tensor in graph.inputs}


def check_names(given: Sequence[str], graph: Graph) -> None:
    """Compare the names of the inputs that came with the graph's, before anything is done for each of them.

    Raises:
        BadInput: one is missing, unknown, or there more than once.
    """
    names = [tensor.name for tensor in graph.inputs]
    if len(given) != len(names) or set(given) != set(names):
        raise BadInput(f"inputs must be {shown(names)}, once each; given: {shown(given)}")


def wanted(
    asked: Iterable[tuple[str, Mapping[str, object]]], graph: Graph, *, binary: bool = False
) -> tuple[Wanted, ...]:
    """Find the outputs that a request asks for.

    Args:
        asked: names with their parameters; none = every output.
        graph: what shall run.
        binary: whether outputs are raw bytes unless their own parameter `binary_data` says otherwise.

    Raises:
        BadInput: an output is unknown, named twice, or a parameter of it makes no sense.
        Unsupported: an output shall go to shared memory.
    """
    by_name = {tensor.name: tensor for tensor in graph.outputs}
    found: dict[str, Wanted] = {}
    for name, parameters in asked:
        tensor = by_name.get(name)
        if tensor is None:
            raise BadInput(f"there is no output {brief(name)}; outputs: {shown(by_name)}")
        if name in found:
            raise BadInput(f"output {name!r} is asked for more than once")
        refuse_shared_memory(f"output {name!r}", parameters)
        found[name] = Wanted(
            tensor,
            _classification(tensor, parameters.get("classification")),
            flag(f"output {name!r}", parameters, "binary_data", default=binary),
        )
    return tuple(found.values()) if found else tuple(Wanted(tensor, binary=binary) for tensor in graph.outputs)


def parameters(given: Mapping[str, object], now: float) -> tuple[float | None, int]:
    """Read the parameters of a whole request; names that mean nothing here are passed over.

    Args:
        given: by name. `timeout` is in microseconds, 0 = none; `priority` is 1 for the highest, 0 for the default.
        now: on the clock of the deadline.

    Returns:
        The deadline, or None; the priority.

    Raises:
        BadInput: a value makes no sense.
        Unsupported: the request belongs to a sequence.
    """
    if not given:
        return None, 0
    if given.get("sequence_id") not in (None, 0, ""):
        raise Unsupported("sequences are not supported: no model here keeps state between requests (sequence_id)")
    timeout_us = _whole(given, "timeout")
    deadline = now + timeout_us / 1e6 if 0 < timeout_us < _LONGEST_TIMEOUT_US else None
    return deadline, min(_whole(given, "priority"), _LOWEST_PRIORITY)


def flag(owner: str, given: Mapping[str, object], name: str, *, default: bool) -> bool:
    """Read a parameter that is true or false.

    Raises:
        BadInput: it is neither.
    """
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise BadInput(f"{owner}: {name} must be true or false")
    return value


def refuse_shared_memory(owner: str, given: Mapping[str, object]) -> None:
    """Say so where data shall come from, or go to, memory that client and server share.

    Raises:
        Unsupported: they shall.
    """
    if "shared_memory_region" in given:
        raise Unsupported(f"{owner}: shared memory is not supported; send the data themselves")


def timings(answer: Answer) -> dict[str, int]:
    """What an answer's own parameters tell: the time in the queue and in the run, and how many rows ran together."""
    return {
        "queue_us": round(1e6 * answer.queue_s),
        "compute_us": round(1e6 * answer.compute_s),
        "batch_size": answer.batch_rows,
    }


def classified(array: NDArray[Any], count: int, labels: Sequence[str] | None, *, batched: bool) -> NDArray[Any]:
    """The highest values as texts `value:index:label` (`value:index` without a label), the highest first.

    A value is written as short as it can be and still be read as the same number. Of equal values the first in the
    tensor comes first; what is no number counts as the lowest.

    Args:
        array: numbers.
        count: how many; no more than there are.
        labels: by index.
        batched: whether each row is looked at by itself.

    Returns:
        Texts, (rows, count) or (count,).
    """
    rows = array.reshape(len(array), math.prod(array.shape[1:])) if batched else array.reshape(1, -1)
    keys = rows if rows.dtype.kind in "iu" else rows.astype(np.float64)
    if keys.dtype.kind == "f":
        keys = np.where(np.isnan(keys), -np.inf, keys)
    # Sorted backwards and read backwards: highest first, and equal ones in their order.
    best = rows.shape[1] - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]
    texts = np.empty(best.shape, object)
    for row, indices in enumerate(best.tolist()):
        values = rows[row]
        for place, index in enumerate(indices):
            label = f":{labels[index]}" if labels is not None and index < len(labels) else ""
            texts[row, place] = f"{values[index]!s}:{index}{label}"
    return texts if batched else texts[0]


def _classification(tensor: Tensor, count: object) -> int:
    if count is None:
        return 0
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BadInput(f"output {tensor.name!r}: classification must be a whole number, 1 or more")
    if tensor.datatype in ("BOOL", "BYTES"):
        raise BadInput(f"output {tensor.name!r}: classification needs numbers, and it is {tensor.datatype}")
    return count


def _whole(given: Mapping[str, object], name: str) -> int:
    value = given.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadInput(f"parameter {name} must be a whole number, 0 or more")
    return value
