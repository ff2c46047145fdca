"""Graphs: ONNX files with their tensors, and what the tensors of those mean that are run once a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from service.manifest.ground import BATCH, Contract, FileName, Size

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]
"""The datatypes of the Open Inference Protocol."""


class Tensor(Contract):
    """An input or output of a graph.

    Attributes:
        name: in the graph.
        datatype: of its elements.
        shape: sizes; a text is a symbolic axis. The batch axis is the first, and is called `batch`. None: not even the
            number of axes is known.
    """

    name: str
    datatype: Datatype
    shape: tuple[Size | str, ...] | None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits: as many axes, and the declared sizes where they are no symbols."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            size == declared or isinstance(declared, str) for size, declared in zip(shape, self.shape, strict=True)
        )


class StatePair(Contract):
    """A state of an autoregressive graph: an input (zeros at the start), and the output that is its next value."""

    input: str
    output: str


class Candidates(Contract):
    """Outputs of a graph that picks the likeliest next tokens of each sequence itself, the best first.

    Attributes:
        tokens: INT64 (batch, candidates).
        logprobs: natural logarithms of their probabilities, FP32 (batch, candidates).
    """

    tokens: str
    logprobs: str


class Step(Contract):
    """What the tensors of a graph mean that is run once a token.

    Attributes:
        token: the input, INT64 (batch,): the last token of each sequence.
        logits: the output, FP32 (batch, vocabulary): of each sequence's next token. There are either these,
        candidates: or these.
        states: what is carried from step to step, FP32, batch axis first.
        context: inputs that stay as they are for as long as a sequence lives. An axis of theirs that is symbolic, and
            is not the batch's, may be longer than a sequence needs, and is then filled up with zeros.
        attention: the output, FP32 (batch, the context's length), if there is one: how much each sequence looked at
            each place of its context.
    """

    token: str
    logits: str | None = None
    candidates: Candidates | None = None
    states: tuple[StatePair, ...] = Field(min_length=1)
    context: tuple[str, ...] = ()
    attention: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_answer(self) -> Self:
        if (self.logits is None) == (self.candidates is None):
            raise ValueError("a step answers either logits or candidates")
        return self

    @property
    def answers(self) -> tuple[str, ...]:
        """The outputs that are no states."""
        picked = (self.candidates.tokens, self.candidates.logprobs) if self.candidates else ()
        return tuple(name for name in (self.logits, *picked, self.attention) if name is not None)


class Graph(Contract):
    """One ONNX file with its tensors; `step` is there where it is run once a token."""

    file: FileName
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    step: Step | None = None

    @model_validator(mode="after")
    def _step_names_every_tensor(self) -> Self:
        if self.step:
            states = self.step.states
            named = sorted([self.step.token, *self.step.context, *(pair.input for pair in states)])
            answered = sorted([*self.step.answers, *(pair.output for pair in states)])
            for kind, found, tensors in (("inputs", named, self.inputs), ("outputs", answered, self.outputs)):
                if found != (expected := sorted(tensor.name for tensor in tensors)):
                    raise ValueError(f"step names the {kind} {found}, and the graph has {expected}")
        return self

    @property
    def batched(self) -> bool:
        """Whether requests may share a run: the first axis of every input and output is the batch."""
        return all(tensor.shape and tensor.shape[0] == BATCH for tensor in (*self.inputs, *self.outputs))


class Tolerance(Contract):
    """How far an output may lie from its golden value.

    Attributes:
        framework: largest absolute difference to PyTorch's output, measured at export, with a margin. None where there
            is nothing but the graph.
        runtime: largest absolute difference to ONNX Runtime's own output on the machine of the export.
    """

    framework: float | None = Field(None, gt=0)
    runtime: float = Field(gt=0)


class Variant(Contract):
    """One way of computing the model (float32 or quantised): graphs by role, and what its golden replay allows."""

    graphs: dict[str, Graph] = Field(min_length=1)
    tolerance: Tolerance
