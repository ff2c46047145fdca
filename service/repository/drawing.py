"""What a request's pictures are drawn from, in a model that serves and without one: its texts are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.runtime.session import OnnxSession
from service.tasks.image_generation import ImageGeneration
from service.tasks.image_graphs import GENERATOR, TEXT
from service.tasks.image_requests import Drawings, ImageRequest, Sketch
from service.tensors import Arrays

Run = Callable[[Arrays], Arrays]


def sketch_of(request: ImageRequest, task: ImageGeneration, read: Run | None) -> Sketch:
    """Read the texts of `request`, each alone and at its own length, and say what its pictures are drawn from.

    Args:
        request: checked by the task.
        task: its task.
        read: the text encoder, if there is one.

    Raises:
        BadInput: a text means nothing that can be drawn.
        RuntimeFailure: the graph failed, or answered with no numbers.
    """
    readings = {text: task.read(read(task.encode(text))) for text in request.texts} if read else {}
    return task.sketch(request, readings)


def draw_alone(
    request: ImageRequest, task: ImageGeneration, sessions: Mapping[str, OnnxSession], *, most_rows: int
) -> Drawings:
    """Draw the pictures of `request`, with no batcher.

    Args:
        request: checked by the task.
        task: its task.
        sessions: its graphs by role.
        most_rows: the largest batch that the generator is run with.

    Raises:
        BadInput, RuntimeFailure: as `sketch_of`.
    """
    sketch = sketch_of(request, task, sessions[TEXT].run if TEXT in sessions else None)
    inputs = task.inputs(sketch)
    parts = [
        sessions[GENERATOR].run({name: array[begin : begin + most_rows] for name, array in inputs.items()})
        for begin in range(0, request.count, most_rows)
    ]
    return task.finish(request, sketch, _joined(parts))


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
