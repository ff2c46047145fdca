"""A step graph that looks at a context and picks candidates, without ONNX Runtime; and beam search by the book."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.batching.beams import BeamGroup, BeamStrategy
from service.batching.slots import Slots
from service.manifest import Candidates, Graph, StatePair, Step, Tensor
from service.tensors import Arrays

TOKENS, CANDIDATES, WIDTH, START, END = 14, 12, 3, 0, 1
GRAPH: Final = Graph(
    file="decoder.onnx",
    inputs=(
        Tensor(name="token", datatype="INT64", shape=("batch",)),
        Tensor(name="state", datatype="FP32", shape=("batch", WIDTH + 1)),
        Tensor(name="memory", datatype="FP32", shape=("batch", "source", WIDTH)),
        Tensor(name="present", datatype="BOOL", shape=("batch", "source")),
        Tensor(name="length", datatype="INT64", shape=("batch",)),
    ),
    outputs=(
        Tensor(name="tokens", datatype="INT64", shape=("batch", CANDIDATES)),
        Tensor(name="logprobs", datatype="FP32", shape=("batch", CANDIDATES)),
        Tensor(name="next_state", datatype="FP32", shape=("batch", WIDTH + 1)),
        Tensor(name="attention", datatype="FP32", shape=("batch", "source")),
    ),
    step=Step(
        token="token",
        candidates=Candidates(tokens="tokens", logprobs="logprobs"),
        states=(StatePair(input="state", output="next_state"),),
        context=("memory", "present", "length"),
        attention="attention",
    ),
)

_DRAW = np.random.default_rng(11)
_WEIGHTS = _DRAW.normal(0, 1.2, (TOKENS, WIDTH))
_EMBEDDING = _DRAW.normal(0, 1, (TOKENS, WIDTH))


class DecoderModel:
    """What a row answers depends on its tokens, its first state and what is present of its context, on nothing else.

    Attributes:
        sources: how long the contexts of each run were.
        rows: how many rows it had.
        diverges_at: a row that has read this token answers with no number.
        likes_end: what is added to the score of the end token; it rises with what is written.
    """

    def __init__(self, likes_end: float = 1.0) -> None:
        self.sources: list[int] = []
        self.rows: list[int] = []
        self.diverges_at: int | None = None
        self.likes_end = likes_end

    def __call__(self, inputs: Arrays) -> Arrays:
        tokens, states, memory, present = (inputs[name] for name in ("token", "state", "memory", "present"))
        assert (tokens.dtype, states.dtype, memory.dtype, present.dtype) == (np.int64, np.float32, np.float32, np.bool_)
        assert memory.shape[:2] == present.shape
        assert (inputs["length"] == present.sum(axis=1)).all()
        assert not memory[~present].any(), "what is filled up is zeros"
        self.sources.append(memory.shape[1])
        self.rows.append(len(tokens))
        answers = [self._row(*row) for row in zip(tokens, states, memory, present, strict=True)]
        names = ("tokens", "logprobs", "next_state", "attention")
        return {name: np.stack(arrays) for name, arrays in zip(names, zip(*answers, strict=True), strict=True)}

    def _row(
        self, token: np.int64, state: NDArray[Any], memory: NDArray[Any], present: NDArray[Any]
    ) -> tuple[NDArray[Any], ...]:
        own = memory[present].astype(np.float64)
        written, state = state[-1] + 1, np.tanh(0.6 * state[[1, 2, 0]] + _EMBEDDING[token])
        weights = np.exp(own @ state)
        weights /= weights.sum()
        scores = _WEIGHTS @ (state + weights @ own)
        scores[END] += self.likes_end + 0.4 * written
        scores[START] = -np.inf
        if self.diverges_at == token:
            scores[2] = np.nan
        logprobs = scores - np.log(np.exp(scores).sum())
        best = np.argsort(-logprobs, kind="stable")[:CANDIDATES]
        attention = np.zeros(len(present), np.float32)
        attention[: len(own)] = weights
        state = np.append(state, written).astype(np.float32)
        return best.astype(np.int64), logprobs[best].astype(np.float32), state, attention


@dataclass(frozen=True)
class Asked:
    """A search: what is looked at, and how."""

    source: int
    seed: int
    beams: int = 3
    limit: int = 12
    penalty: float = 1.0
    wanted: int = 1
    prompt: tuple[int, ...] = (START,)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The first state and the context, padded by one place if the source's length is odd."""
        draw = np.random.default_rng(self.seed)
        size = self.source + self.source % 2
        memory = np.zeros((1, size, WIDTH), np.float32)
        memory[0, : self.source] = draw.normal(0, 1, (self.source, WIDTH))
        return {
            "state": draw.normal(0, 1, (1, WIDTH + 1)).astype(np.float32),
            "memory": memory,
            "present": np.arange(size)[None] < self.source,
            "length": np.array([self.source]),
        }

    def group(self, **others: Any) -> BeamGroup:
        """What a stepper is given of it."""
        context = self.arrays
        start = {"state": context.pop("state")}
        return BeamGroup(
            self.prompt,
            beams=self.beams,
            limit=self.limit,
            length_penalty=self.penalty,
            wanted=self.wanted,
            start=start,
            context=context,
            **{"changed": asyncio.Event(), **others},
        )


@dataclass(frozen=True)
class Found:
    """A finished answer: its score, its tokens, the logarithm of its probability and where it looked."""

    score: float
    tokens: tuple[int, ...]
    logprob: float
    looked: NDArray[np.float32]


@dataclass(frozen=True)
class _Beginning:
    logprob: float
    tokens: tuple[int, ...]
    state: NDArray[np.float32]
    looked: tuple[NDArray[np.float32], ...]


def search(model: DecoderModel, asked: Asked) -> list[Found]:
    """Beam search as a book has it: lists of beginnings, the graph run for one of them at a time."""
    context = asked.arrays
    state = context.pop("state")

    def run(token: int, state: NDArray[np.float32]) -> Arrays:
        return model({"token": np.array([token]), "state": state, **context})

    for token in asked.prompt[:-1]:
        state = run(token, state)["next_state"]
    exponent = asked.penalty if asked.beams > 1 else 0.0
    live = [_Beginning(0.0, (), state, ())]
    finished: list[Found] = []
    for length in range(1, asked.limit + 1):
        extended = []
        for one in live:
            answer = run(one.tokens[-1] if one.tokens else asked.prompt[-1], one.state)
            looked = (*one.looked, answer["attention"][0])
            for token, logprob in zip(answer["tokens"][0].tolist(), answer["logprobs"][0].tolist(), strict=True):
                extended.append(
                    (_Beginning(one.logprob + logprob, (*one.tokens, token), answer["next_state"], looked), token)
                )
        extended.sort(key=lambda pair: -pair[0].logprob)
        penalty = ((5 + length) / 6) ** exponent
        for one, token in extended[: asked.beams]:
            if token == END:
                finished.append(Found(one.logprob / penalty, one.tokens[:-1], one.logprob, np.stack(one.looked)))
        live = [one for one, token in extended if token != END][: asked.beams]
        finished.sort(key=lambda one: -one.score)
        del finished[asked.wanted :]
        bar = finished[-1].score if len(finished) == asked.wanted else -math.inf
        if length < asked.limit and bar >= live[0].logprob / ((6 + length) / 6) ** exponent:
            break
        if length == asked.limit:
            missing = live[: asked.wanted - len(finished)]
            finished += [Found(one.logprob / penalty, one.tokens, one.logprob, np.stack(one.looked)) for one in missing]
    return sorted(finished, key=lambda one: -one.score)


def beam_slots(model: DecoderModel, *, capacity: int, **others: Any) -> Slots:
    """Slots of `GRAPH` in which beginnings are searched on."""
    assert GRAPH.step is not None
    return Slots(model, GRAPH, BeamStrategy(GRAPH.step, END), capacity=capacity, **others)


def expect(group: BeamGroup, found: Sequence[Found]) -> None:
    """Check that a group that has ended found this."""
    assert group.error is None
    assert [one.tokens for one in group.finished] == [one.tokens for one in found]
    np.testing.assert_allclose([one.score for one in group.finished], [one.score for one in found], rtol=1e-6)
    np.testing.assert_allclose([one.logprob for one in group.finished], [one.logprob for one in found], rtol=1e-6)
    for mine, other in zip(group.finished, found, strict=True):
        if group.attentive:
            assert mine.attention is not None
            np.testing.assert_array_equal(mine.attention, other.looked)
        else:
            assert mine.attention is None
