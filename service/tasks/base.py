"""What a task is to the rest of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.errors import BadInput
from service.tensors import Arrays

RequestT = TypeVar("RequestT")
ParametersT = TypeVar("ParametersT", bound=BaseModel)

_MOST_NAMES = 100
"""Parameters of a request: each unknown one would be an error of its own, which takes time to write."""

_IN_JSON: Mapping[str, str] = {"model_type": "Input should be an object", "tuple_type": "Input should be a list"}
"""What is said to callers, who know no Python, where Pydantic would speak of its classes."""


@dataclass(frozen=True)
class TaskLimits:
    """What a single request may cost.

    Attributes:
        max_pixels: width times height of a picture, or of all pictures that are drawn.
        max_prompt_tokens: of a text that is continued.
        max_new_tokens: that follow it.
        max_text_characters: of a text that is translated, or that says what is drawn.
    """

    max_pixels: int
    max_prompt_tokens: int = 16_384
    max_new_tokens: int = 4096
    max_text_characters: int = 10_000


class Task(Protocol[RequestT]):
    """Turns a typed request into tensors and the graph's outputs into a typed result.

    Attributes:
        graphs: the roles of the graphs that it needs; the last is the one that batches are made for.
        slots_a_row: how many rows of that graph a row of a request takes.
    """

    graphs: tuple[str, ...]
    slots_a_row: int

    def parse(self, inputs: object, parameters: Mapping[str, object]) -> RequestT:
        """Check a request as a protocol hands it over.

        Args:
            inputs: bytes as they came, or the value of `inputs` in a JSON body.
            parameters: from the JSON body or the query.

        Raises:
            BadInput: it is not what the task takes.
        """
        ...

    def is_heavy(self, request: RequestT) -> bool:
        """Whether `encode` may take over a millisecond, and so belongs in a thread."""
        ...

    def encode(self, request: RequestT) -> Arrays:
        """Make the graph's inputs, batch axis first.

        Raises:
            BadInput: the content turns out to be broken.
        """
        ...

    def decode(self, request: RequestT, outputs: Arrays) -> object:
        """Make the answer, ready for JSON, from the graph's outputs for this request."""
        ...

    def describe(self) -> dict[str, object]:
        """What a caller should know of the model: what goes in and what comes out, ready for JSON."""
        ...


def parse_parameters(model: type[ParametersT], given: Mapping[str, object]) -> ParametersT:
    """Check what a request says besides its input.

    Args:
        model: what may be said.
        given: as it came.

    Raises:
        BadInput: a name is unknown, or a value makes no sense.
    """
    try:
        check_names(given)
    except ValueError as error:
        raise BadInput(f"{error} (allowed: {', '.join(model.model_fields)})") from error
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        where = f"parameter {name!r}: " if problem["loc"] else ""
        within = any(isinstance(part, str) for part in problem["loc"][1:])  # an object that has other names
        allowed = "" if within else f" (allowed: {', '.join(model.model_fields)})"
        raise BadInput(f"{where}{_told(problem)}{allowed}", parameter=name or None) from error


def _told(problem: ErrorDetails) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return _IN_JSON.get(problem["type"], problem["msg"])


def check_names(given: Mapping[str, object]) -> None:
    """Refuse an object that has so many names that they can't all be meant.

    Raises:
        ValueError: it has.
    """
    if len(given) > _MOST_NAMES:
        raise ValueError(f"there are {len(given)} names, and {_MOST_NAMES} may be")
