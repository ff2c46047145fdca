"""What a task is to the rest of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from service.tensors import Arrays

RequestT = TypeVar("RequestT")


@dataclass(frozen=True)
class TaskLimits:
    """What a single request may cost.

    Attributes:
        max_pixels: width times height of a picture.
    """

    max_pixels: int


class Task(Protocol[RequestT]):
    """Turns a typed request into tensors and the graph's outputs into a typed result."""

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
