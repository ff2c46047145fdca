"""What a server is asked: requests that are made from what it says of a model, or from a file."""

from __future__ import annotations

import json
import mimetypes
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from service.bench import inputs
from service.bench.address import Address
from service.bench.asking import Asking
from service.bench.description import (
    IMAGE_CLASSIFICATION,
    IMAGE_GENERATION,
    PREDICT,
    STREAM,
    TENSORS,
    TEXT_GENERATION,
    TRANSLATION,
    UNIT_OF_TEXTS,
    Described,
)
from service.bench.messages import Answer, Request

_MOST_REQUESTS = 64
_MOST_BYTES = 16 * 2**20
"""Of all requests together."""
_TOKENS = 100
"""Of a text, on average."""
_SIZES = (8, 32, 1, 224, 3)
"""What is tried for axes of any size, where nothing tells which is right."""
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Wanted:
    """What is to be asked.

    Attributes:
        model: its name.
        version: None = the highest.
        protocol: one of `PROTOCOLS`; None = what suits the model's task.
        rows: of a request of tensors.
        parameters: of every request, beside what there is by itself.
        input: a file that is the input: a picture, or a text a line.
        body: a file that is the JSON body of every request.
    """

    model: str
    version: int | None = None
    protocol: str | None = None
    rows: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    input: Path | None = None
    body: Path | None = None


@dataclass(frozen=True)
class Scenario:
    """Requests, and what they are.

    Attributes:
        protocol: by which they ask.
        requests: in the order in which they are asked, over and over again.
        unit: in which is counted what they give: images, rows, tokens, texts.
        about: what they ask, in words.
        texts: that are asked to be translated,
        parameters: and how.
    """

    protocol: str
    requests: Sequence[Request]
    unit: str
    about: str
    texts: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def streamed(self) -> bool:
        """Whether answers are streams of tokens."""
        return self.protocol == STREAM

    @property
    def counts_units(self) -> bool:
        """Whether it is known how much the requests ask for."""
        return self.streamed or all(one.units for one in self.requests)

    @property
    def rows(self) -> float:
        """How many rows a request takes of the graph that batches are made for, on average; of a text, one."""
        if self.unit == UNIT_OF_TEXTS or not self.counts_units:
            return 1.0
        return sum(one.units for one in self.requests) / len(self.requests)


Shapes = Mapping[str, Sequence[int]]


def make_scenario(address: Address, wanted: Wanted, described: Described, shapes: Shapes | None = None) -> Scenario:
    """Make the requests, and try one out.

    Args:
        address: of the server.
        wanted: what is to be asked.
        described: what the server says of the model.
        shapes: of its inputs, the batch left out, where they are known better than it says.

    Raises:
        OSError: the server can't be reached, or a file not be read.
        ValueError: the task is not asked by that protocol, a file does not suit it, or the server refuses the request.
    """
    protocol = wanted.protocol or described.protocols[0]
    if protocol not in described.protocols:
        allowed = ", ".join(described.protocols)
        raise ValueError(f"{wanted.model} ({described.task}) is not asked by {protocol}, but by {allowed}")
    ask = Asking(address, wanted.model, wanted.version, protocol)
    problem = ""
    for scenario in _scenarios(ask, wanted, described, shapes or {}):
        problem = problem_of(address, scenario.requests[0])
        if not problem:
            return scenario
    what, instead = ("was given", "") if wanted.body or wanted.input else ("was made up", "; --json takes one of yours")
    raise ValueError(f"{address} does not answer the request that {what} for {wanted.model}: {problem}{instead}")


def problem_of(address: Address, request: Request) -> str:
    """Ask once, and say what is wrong with the answer; nothing if it is good.

    Raises:
        OSError: the server can't be reached.
    """
    family, where = address.resolved()
    answer = Answer()
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(where)
            connection.sendall(request.content)
            while not answer.feed(data := connection.recv(64 * 1024)):
                if not data:
                    raise ConnectionResetError("the server closed the connection")
        except OSError as error:
            raise OSError(f"{address} can't be asked: {error}") from error
    if answer.status == 200:
        return "its stream ends with an error" if answer.failed else ""
    return f"{answer.status} {answer.shown.decode(errors='replace')}"


def _scenarios(ask: Asking, wanted: Wanted, described: Described, shapes: Shapes) -> Iterator[Scenario]:
    """The scenario; more than one, to be tried in turn, where it is not known what the model takes."""
    task = described.task
    if wanted.body and (wanted.input or wanted.parameters):
        raise ValueError("--json is all of a request; --input and --parameters have no place beside it")
    if wanted.body:
        yield _of_body(ask, wanted.body, described)
    elif task == TRANSLATION:
        yield _of_sentences(ask, wanted, described)
    elif task == TEXT_GENERATION:
        yield _of_prompts(ask, wanted, described)
    elif ask.protocol == PREDICT and task == IMAGE_CLASSIFICATION:
        yield _of_pictures(ask, wanted, described)
    elif wanted.input:
        raise ValueError(f"--input is a picture for predict, or texts; {task} by {ask.protocol} takes --json")
    elif ask.protocol == PREDICT and task in IMAGE_GENERATION:
        yield _of_labels(ask, wanted, described)
    else:
        yield from _of_tensors(ask, wanted, described, shapes)


def _of_body(ask: Asking, file: Path, described: Described) -> Scenario:
    """One request, its body from a file."""
    content = file.read_bytes()
    try:
        body = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ValueError(f"{file} must have a JSON object, the body of a request")
    texts = _texts_in(body) if described.task == TRANSLATION else []
    units = len(texts) if described.task == TRANSLATION else _units_in(body, ask.protocol, described)
    request = ask.raw(content, "application/json", units)
    return Scenario(ask.protocol, [request], described.unit, f"the body in {file.name}", texts, _parameters_in(body))


def _texts_in(body: Mapping[str, Any]) -> list[str]:
    """The texts that a body asks to be translated."""
    given = body.get("inputs")
    if isinstance(given, list) and given and isinstance(given[0], dict):
        given = given[0].get("data")
    texts = given if isinstance(given, list) else [given]
    return [one for one in texts if isinstance(one, str)]


def _parameters_in(body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get("parameters")
    return given if isinstance(given, dict) else {}


def _units_in(body: Mapping[str, Any], protocol: str, described: Described) -> float:
    """How much a body asks for; 0 = that can't be told."""
    parameters = _parameters_in(body)
    given = body.get("inputs")
    if described.task == TEXT_GENERATION:
        return _number(parameters.get("max_new_tokens", parameters.get("max_tokens")))
    if protocol == PREDICT and described.task in IMAGE_GENERATION:
        return _number(parameters.get("num_images", 1))
    if not described.batched or (protocol == PREDICT and described.task != TENSORS):
        return 1
    if protocol == PREDICT:
        first = next(iter(given.values()), None) if isinstance(given, dict) else given
        return len(first) if isinstance(first, list) else 0
    try:
        return _number(body["inputs"][0]["shape"][0])
    except (LookupError, TypeError):
        return 0


def _of_sentences(ask: Asking, wanted: Wanted, described: Described) -> Scenario:
    texts = _lines(wanted.input) if wanted.input else inputs.sentences(described.predict["source"])
    requests = [ask.text(text, wanted.parameters) for text in texts]
    about = f"{len(texts)} texts of {wanted.input.name}" if wanted.input else f"{len(texts)} sentences"
    return Scenario(ask.protocol, requests, described.unit, about, texts, wanted.parameters)


def _of_prompts(ask: Asking, wanted: Wanted, described: Described) -> Scenario:
    told = described.predict["input"]
    texts = _lines(wanted.input) if wanted.input else inputs.prompts(told["characters"], _MOST_REQUESTS)
    name = "max_new_tokens" if ask.protocol == PREDICT else "max_tokens"
    # Texts of different lengths end at different times, and so others begin at different times ever after.
    lengths = _lengths(min(_TOKENS, told["max_new_tokens"] * 2 // 3))
    if name in wanted.parameters:
        lengths = [int(_number(wanted.parameters[name]))]
    asked = list(zip(texts, cycle(lengths), strict=False))
    requests = [ask.text(text, {name: length, **wanted.parameters}, length) for text, length in asked]
    shortest, longest = min(length for _, length in asked), max(length for _, length in asked)
    length = f"{shortest} to {longest}" if shortest < longest else str(longest)
    return Scenario(ask.protocol, requests, described.unit, f"{len(texts)} prompts, {length} tokens each")


def _lengths(mean: int) -> list[int]:
    """Lengths between half of `mean` and one and a half, in no order."""
    lengths = np.linspace(mean / 2, mean * 3 / 2, _MOST_REQUESTS)
    return [max(1, round(one)) for one in np.random.default_rng(1).permutation(lengths).tolist()]


def _of_pictures(ask: Asking, wanted: Wanted, described: Described) -> Scenario:
    if wanted.parameters:
        raise ValueError("--parameters have no place beside a picture; --json takes both")
    if wanted.input:
        kind = mimetypes.guess_type(wanted.input.name)[0] or "application/octet-stream"
        request = ask.raw(wanted.input.read_bytes(), kind)
        return Scenario(ask.protocol, [request], described.unit, f"the picture {wanted.input.name}")
    seen = described.predict["input"]["seen_as"]
    width, height, channels = seen["width"], seen["height"], seen["channels"]
    random = np.random.default_rng(1)
    requests = _different(lambda: ask.raw(inputs.noise(width, height, channels, random), "image/png"))
    about = f"pictures of noise, PNG, {width}x{height}, {'grey' if channels == 1 else 'in colour'}"
    return Scenario(ask.protocol, requests, described.unit, about)


def _of_labels(ask: Asking, wanted: Wanted, described: Described) -> Scenario:
    labels = described.predict["labels"][:_MOST_REQUESTS]
    units = _number(wanted.parameters.get("num_images", 1))
    if described.predict["input"]["reads_texts"]:
        about = f"texts that name {len(labels)} labels"
        parameters = {"strict": False, **wanted.parameters}
        bodies = [{"inputs": f"a picture of: {label}", "parameters": parameters} for label in labels]
    else:
        about = f"{len(labels)} labels" if labels else "pictures of whatever comes"
        said = [{"label": label} for label in labels] or [{}]
        bodies = [{"parameters": {**one, **wanted.parameters}} for one in said]
    return Scenario(ask.protocol, [ask.json(one, units) for one in bodies], described.unit, about)


def _of_tensors(ask: Asking, wanted: Wanted, described: Described, shapes: Shapes) -> Iterator[Scenario]:
    """Tensors, in a scenario for each size that may be right."""
    if wanted.rows > 1 and not described.batched:
        raise ValueError(f"--rows is {wanted.rows}, but {wanted.model} takes one input at a time")
    told = {
        one["name"]: shapes.get(one["name"], one["shape"][1:] if described.batched else one["shape"])
        for one in described.tensors
    }
    for size in _SIZES if any(-1 in shape for shape in told.values()) else _SIZES[:1]:
        yield _of_shapes(
            ask,
            wanted,
            described,
            {
                name: [*[wanted.rows] * described.batched, *(size if axis == -1 else axis for axis in shape)]
                for name, shape in told.items()
            },
        )


def _of_shapes(ask: Asking, wanted: Wanted, described: Described, shapes: Shapes) -> Scenario:
    kinds = {one["name"]: one["datatype"] for one in described.tensors}
    random = np.random.default_rng(1)

    def make() -> Request:
        arrays = {name: (kinds[name], inputs.tensor(kinds[name], shape, random)) for name, shape in shapes.items()}
        return ask.tensors(arrays, wanted.parameters, wanted.rows)

    about = ", ".join(f"{name} {kinds[name]} {list(shape)}" for name, shape in shapes.items())
    return Scenario(ask.protocol, _different(make), described.unit, f"tensors {about}")


def _different(make: Callable[[], Request]) -> list[Request]:
    """As many different requests as are worth their memory."""
    first = make()
    return [first, *(make() for _ in range(min(_MOST_REQUESTS, _MOST_BYTES // len(first.content)) - 1))]


def _lines(file: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        lines = [one for one in file.read_text(encoding="utf-8").splitlines() if one.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must have a text a line: {error}") from error
    if not lines:
        raise ValueError(f"{file} has no texts")
    return lines


def _number(given: object) -> float:
    """A number over 0, or 0."""
    return float(given) if isinstance(given, int | float) and given > 0 else 0.0
