"""What ONNX Runtime alone gives: a model's graphs run in a bare loop on one thread, in a process of its own.

The parent writes an order to standard input, a line of JSON, and is answered a line: what the model is. Then it writes
how many rows to run at once and for how long, and is answered what that gave, as often as it likes. The end of its
input ends the process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from service.batching.beams import Hypothesis
from service.bench.lines import Done, Order, Ready, Task
from service.errors import InferdError
from service.manifest import Step
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.repository.translating import translate_alone
from service.settings import Settings
from service.tasks.text_generation import TextGeneration
from service.tasks.translation import Translation
from service.tensors import Arrays

Clock = Callable[[], float]

_WARM_UP_RUNS = 3


def main() -> None:
    """Answer on standard output."""
    # What libraries print goes where errors go: only answers may come out of here.
    with os.fdopen(os.dup(1), "wb") as taken:
        os.dup2(2, 1)
        answer(sys.stdin.buffer, taken)


def answer(given: IO[bytes], taken: IO[bytes]) -> None:
    """Answer the lines of `given` until they end."""

    def say(content: object) -> None:
        taken.write(msgspec.json.encode(content) + b"\n")
        taken.flush()

    order = msgspec.json.decode(given.readline(), type=Order)
    try:
        options = LoadOptions.of(Settings.from_json(order.settings.encode()))
        bundle = load_bundle(BundleFolder(order.name, order.version, Path(order.path)), options)
    except (InferdError, OSError, ValueError) as error:
        say(Ready(error=str(error)))
        return
    example = bundle.examples.get(bundle.task.graphs[-1])
    if example is None:
        say(Ready(error="it runs on no inputs that could be made up for it"))
        return
    shapes = {name: list(array.shape[bundle.batched :]) for name, array in example.items()}
    say(Ready(variant=bundle.variant, batched=bundle.batched, shapes=shapes))
    loops: dict[int, Loop] = {}
    for line in given:
        task = msgspec.json.decode(line, type=Task)
        if task.rows not in loops:
            loops[task.rows] = loop_of(bundle, task)
        say(run(loops[task.rows], task.seconds))


class Loop:
    """What is done over and over again; each time it gives so many units."""

    def __init__(self, once: Callable[[], object], units: float) -> None:
        self.once = once
        self.units = units


def loop_of(bundle: Bundle, task: Task) -> Loop:
    """What the graphs of a model do for `task.rows` requests at once."""
    if isinstance(bundle.task, TextGeneration):
        return _growing(bundle, task.rows)
    if isinstance(bundle.task, Translation):
        return _translating(bundle, bundle.task, task)
    example = bundle.examples[bundle.task.graphs[-1]]
    if not bundle.batched:
        return Loop(lambda: bundle.session.run(example), 1)
    inputs = {name: np.resize(array, (task.rows, *array.shape[1:])) for name, array in example.items()}
    return Loop(lambda: bundle.session.run(inputs), task.rows)


def run(loop: Loop, seconds: float, clock: Clock = time.perf_counter) -> Done:
    """Run for at least so long, after some runs to warm up."""
    for _ in range(_WARM_UP_RUNS):
        loop.once()
    count = 0
    started = clock()
    while True:
        loop.once()
        count += 1
        elapsed = clock() - started
        if elapsed >= seconds:
            return Done(count, elapsed, count * loop.units)


def _growing(bundle: Bundle, rows: int) -> Loop:
    """A step of so many texts, the states fed back; nothing is sampled."""
    graph = bundle.session.graph
    assert graph.step is not None  # noqa: S101 - the task has checked it
    shapes = {tensor.name: (rows, *(tensor.shape or ())[1:]) for tensor in graph.inputs}
    inputs: dict[str, np.ndarray] = {
        pair.input: np.zeros([int(size) for size in shapes[pair.input]], np.float32) for pair in graph.step.states
    }
    inputs[graph.step.token] = np.arange(rows, dtype=np.int64) % 7
    return Loop(_step_of(bundle, graph.step, inputs), rows)


def _translating(bundle: Bundle, task: Translation, asked: Task) -> Loop:
    """So many sentences read at once, and then as many steps as their translations take on average, nothing searched.

    All of them are filled up to one size, that which most have, with a row for each beginning that the search keeps.
    """
    encoder, decoder = (bundle.sessions[role] for role in task.graphs)
    step = decoder.graph.step
    assert step is not None  # noqa: S101 - the task has checked it
    request, _ = task.parse(asked.texts, asked.parameters)
    found = translate_alone(request, task, encoder.run, decoder.run, decoder.graph)
    steps = _mean_steps(found)
    encoded = [task.encode(tokens) for tokens in request.sentences]
    sizes = [_size(one) for one in encoded]
    alike = [one for one in encoded if _size(one) == max(set(sizes), key=sizes.count)]
    batch = {name: np.concatenate([alike[row % len(alike)][name] for row in range(asked.rows)]) for name in alike[0]}
    read = encoder.run(batch)
    carried = (*step.context, *(pair.input for pair in step.states))
    inputs = {name: np.repeat(read[name], request.beams, axis=0) for name in carried}
    inputs[step.token] = np.full(asked.rows * request.beams, task.start, np.int64)
    one_step = _step_of(bundle, step, inputs)
    left = 0.0

    def once() -> None:
        nonlocal left
        encoder.run(batch)
        left += steps
        while left >= 1:
            one_step()
            left -= 1

    return Loop(once, asked.rows * len(asked.texts) / len(request.sentences))


def _step_of(bundle: Bundle, step: Step, inputs: dict[str, np.ndarray]) -> Callable[[], None]:
    def one_step() -> None:
        outputs = bundle.session.run(inputs)
        for pair in step.states:
            inputs[pair.input] = outputs[pair.output]

    return one_step


def _mean_steps(found: Sequence[Sequence[Hypothesis]]) -> float:
    """How many steps a sentence's search takes: as many as its translation has tokens, and the end."""
    return sum(len(best.tokens) + 1 for best, *_ in found) / len(found)


def _size(encoded: Arrays) -> int:
    """To how many tokens a sentence is filled up."""
    return max(int(array.shape[-1]) for array in encoded.values())


if __name__ == "__main__":
    main()
