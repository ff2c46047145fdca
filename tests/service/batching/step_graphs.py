"""A step graph without ONNX Runtime, whose texts can be told without it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.batching.sampling import Past, Sampler, Sampling, key_of, log_softmax
from service.batching.sequences import Continuation, Finish, SampledGroup, SamplingStrategy
from service.batching.slots import Slots
from service.manifest import Graph, StatePair, Step, Tensor
from service.tensors import Arrays

TOKENS: Final = 11
GRAPH: Final = Graph(
    file="step.onnx",
    inputs=(
        Tensor(name="token", datatype="INT64", shape=("batch",)),
        Tensor(name="sum", datatype="FP32", shape=("batch", 3)),
        Tensor(name="count", datatype="INT64", shape=("batch",)),
    ),
    outputs=(
        Tensor(name="logits", datatype="FP32", shape=("batch", TOKENS)),
        Tensor(name="next_sum", datatype="FP32", shape=("batch", 3)),
        Tensor(name="next_count", datatype="INT64", shape=("batch",)),
    ),
    step=Step(
        token="token",
        logits="logits",
        states=(StatePair(input="sum", output="next_sum"), StatePair(input="count", output="next_count")),
    ),
)

_WEIGHTS: Final = np.random.default_rng(5).normal(0, 2, (3, TOKENS)).astype(np.float32)


def sampled_slots(model: Callable[[Arrays], Arrays], **others: Any) -> Slots:
    """Slots of `GRAPH` whose sequences are sampled."""
    assert GRAPH.step is not None
    return Slots(model, GRAPH, SamplingStrategy(GRAPH.step), **others)


class StepModel:
    """What a row answers depends on all of its tokens since zero states, and on no other row.

    Attributes:
        batches: how many rows each run had.
        fails_with: what the next run raises, once.
        diverges_at: a row that has read this token answers with no number.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fails_with: Exception | None = None
        self.diverges_at: int | None = None

    def __call__(self, inputs: Arrays) -> Arrays:
        token, total, count = inputs["token"], inputs["sum"], inputs["count"]
        assert token.dtype == count.dtype == np.int64
        assert total.dtype == np.float32
        assert len(token) == len(total) == len(count)
        self.batches.append(len(token))
        if self.fails_with:
            error, self.fails_with = self.fails_with, None
            raise error
        count = count + 1
        turned = total[:, [1, 2, 0]] * np.float32(0.75)
        told = np.stack([np.sin(token + 1.0), np.cos(token * 2.0), np.sin(count * 0.5)], axis=1)
        total = turned + told.astype(np.float32)
        # Products one by one: a matrix product may add up in another order for other numbers of rows.
        logits = sum(total[:, [axis]] * _WEIGHTS[axis] for axis in range(3))
        if self.diverges_at is not None:
            logits[token == self.diverges_at] = np.nan
        return {"logits": logits, "next_sum": total, "next_count": count}


class GatedModel(StepModel):
    """A model whose runs wait: each until the test allows it.

    Attributes:
        entered: released by each run that begins.
        allowed: acquired by each before it goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self._opened = False

    def __call__(self, inputs: Arrays) -> Arrays:
        self.entered.release()
        assert self._opened or self.allowed.acquire(timeout=30), "the test forgot about a run"
        return super().__call__(inputs)

    def let_run(self, steps: int = 1) -> None:
        """Have as many runs end; those must have begun or begin on their own."""
        self.allowed.release(steps)

    def open(self) -> None:
        """Let everything run from now on."""
        self._opened = True
        self.allowed.release()  # of the run that waits


def alone(
    prompt: Sequence[int], key: int, sampling: Sampling, limit: int, stop: int | None = None
) -> tuple[list[int], Finish, list[NDArray[np.float64]]]:
    """What follows `prompt`, why it ends, and the log-probabilities in each place, by the model with one row alone."""
    model = StepModel()
    states: dict[str, Any] = {"sum": np.zeros((1, 3), np.float32), "count": np.zeros(1, np.int64)}
    generated: list[int] = []
    places: list[NDArray[np.float64]] = []
    for token in prompt:
        answer = model({"token": np.array([token]), **states})
        states = {"sum": answer["next_sum"], "count": answer["next_count"]}
    while len(generated) < limit:
        sampler = Sampler()
        sampler.arrange([Past(key, sampling, prompt, generated)])
        (token,) = sampler.choose(answer["logits"]).tolist()
        places.append(log_softmax(answer["logits"])[0])
        generated.append(token)
        if token == stop:
            return generated, "stop", places
        answer = model({"token": np.array([token]), **states})
        states = {"sum": answer["next_sum"], "count": answer["next_count"]}
    return generated, "length", places


def group_of(
    prompt: Sequence[int] = (0,),
    *,
    choices: int = 1,
    seed: int = 0,
    sampling: Sampling | None = None,
    limit: int = 5,
    stop: int | None = None,
    **others: Any,
) -> SampledGroup:
    """A group of sequences whose keys are those of its choices."""
    sequences = [
        Continuation(
            key_of(seed, 0, choice),
            sampling or Sampling(),
            limit=limit,
            is_complete=None if stop is None else stop.__eq__,
        )
        for choice in range(choices)
    ]
    return SampledGroup(prompt, sequences, **{"changed": asyncio.Event(), **others})


def expect_as_alone(group: SampledGroup, seed: int = 0, stop: int | None = None, *, ended: bool = True) -> None:
    """Check that each sequence is what it is alone, or the beginning of it where it may not have ended."""
    for choice, one in enumerate(group.sequences):
        limit = one.limit if ended else len(one.tokens)
        tokens, finish, places = alone(group.prompt, key_of(seed, 0, choice), one.sampling, limit, stop)
        if ended:
            assert (one.tokens, one.finish) == (tokens, finish)
        else:
            assert one.tokens == tokens
        if group.top_scores is not None:
            assert [score.logprob for score in one.scores] == [
                float(place[token]) for place, token in zip(places, one.tokens, strict=False)
            ]
