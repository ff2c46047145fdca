"""What every dialect of image generation does: read what is asked for, have it drawn, write it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from service.batching.records import Answer
from service.protocols.requests import answer_headers, while_connected
from service.repository.image_model import ImageModel
from service.tasks.image_requests import Drawings, ImageRequest

T = TypeVar("T")

SEED_HEADER = "x-inferd-seed"

_INLINE_LATENTS = 8
"""So many of a list of latents are checked in the event loop."""
_INLINE_PICTURES = 4
_INLINE_BYTES = 8 * 1024
"""Of pixels: what has no more is written in the event loop, in less than a millisecond whatever the format."""


async def parse(model: ImageModel, inputs: object, parameters: Mapping[str, object]) -> ImageRequest:
    """Check what is asked for, in a thread where that takes long.

    Args:
        model: that is asked.
        inputs: as of the task.
        parameters: likewise.

    Raises:
        BadInput: either is wrong.
        Overloaded: too much waits for a thread.
    """
    latents = parameters.get("latent")
    several = isinstance(latents, list) and len(latents) > _INLINE_LATENTS and isinstance(latents[0], list)
    checking = partial(model.task.parse, inputs, parameters)
    if model.is_large(inputs) or several:
        return await model.offload(checking)
    return checking()


async def draw(
    request: Request, model: ImageModel, wanted: ImageRequest, deadline: float | None
) -> tuple[Drawings, Answer]:
    """Draw for as long as the client is there.

    Args:
        request: its body was read.
        model: what draws.
        wanted: checked by its task.
        deadline: on the clock of `time.monotonic`.

    Returns:
        The pictures, and the time that the generator took.

    Raises:
        Cancelled: the client went away.
        InferdError: as the model raises.
    """
    starts_at_once = model.is_idle
    drawing = model.draw(wanted, deadline=deadline)
    # Watching costs a task, so only those are watched that have to wait for others.
    return await (drawing if starts_at_once else while_connected(request, drawing))


async def put_down(model: ImageModel, drawings: Drawings, write: Callable[[Drawings], T]) -> T:
    """Do `write`, in a thread where it takes long.

    Raises:
        BadInput: the pictures are too large for their format.
        Overloaded: too much waits for a thread.
    """
    started = time.perf_counter()
    pixels = drawings.pixels
    is_little = len(pixels) <= _INLINE_PICTURES and pixels.nbytes <= _INLINE_BYTES
    written = write(drawings) if is_little else await model.offload(partial(write, drawings))
    model.metrics.postprocess_seconds.observe(time.perf_counter() - started)
    return written


def headers_of(model: ImageModel, drawings: Drawings, answer: Answer) -> dict[str, str]:
    """Who drew, how long it took, and from which seed if there is one."""
    seed = {} if drawings.seed is None else {SEED_HEADER: str(drawings.seed)}
    return {**answer_headers(model, answer), **seed}
