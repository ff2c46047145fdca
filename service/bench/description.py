"""What a server says of a model, and by which protocols its task is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.bench.address import Address, path_of_model

PREDICT, INFER, BINARY, STREAM = "predict", "infer", "infer-binary", "generate-stream"
PROTOCOLS: Final = (PREDICT, INFER, BINARY, STREAM)

TEXT_GENERATION, TRANSLATION, TENSORS = "text-generation", "translation", "tensors"
IMAGE_CLASSIFICATION = "image-classification"
IMAGE_GENERATION = ("text-to-image", "unconditional-image-generation")

UNIT_OF_TEXTS = "tokens"
"""Of texts that grow: a row is a text, and a run gives a token for each."""

_PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    TEXT_GENERATION: (STREAM, PREDICT, INFER, BINARY),
    **dict.fromkeys((IMAGE_CLASSIFICATION, TRANSLATION, TENSORS, *IMAGE_GENERATION), (PREDICT, INFER, BINARY)),
}
_UNITS: Mapping[str, str] = {
    TEXT_GENERATION: UNIT_OF_TEXTS,
    TRANSLATION: "texts",
    **dict.fromkeys((IMAGE_CLASSIFICATION, *IMAGE_GENERATION), "images"),
}


@dataclass(frozen=True)
class Described:
    """What a server says of a model.

    Attributes:
        version: that answers.
        task: of it.
        variant: that serves.
        predict: the answer to `GET /predict/{model}`.
        tensors: its inputs, as `GET /v2/models/{model}` has them.
        batched: whether their first axis is the batch.
    """

    version: int
    task: str
    variant: str
    predict: Mapping[str, Any]
    tensors: Sequence[Mapping[str, Any]]
    batched: bool

    @classmethod
    def of(cls, address: Address, model: str, version: int | None = None) -> Described:
        """Ask a server.

        Raises:
            OSError: it can't be reached.
            ValueError: it does not serve the model, or is no inferd.
        """
        predict = address.get(path_of_model(model, version, "/predict"))
        path = path_of_model(model, version, "/v2/models")
        try:
            return cls(
                predict["version"],
                predict["task"],
                predict["variant"],
                predict,
                address.get(path)["inputs"],
                address.get(f"{path}/config")["max_batch_size"] > 0,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"what {address} says of {model} is not what inferd says of models: {error!r}") from error

    @property
    def protocols(self) -> tuple[str, ...]:
        """By which models of this task are asked, the usual one first."""
        return _PROTOCOLS.get(self.task, (INFER, BINARY))

    @property
    def unit(self) -> str:
        """In which is counted what a model of this task gives."""
        return _UNITS.get(self.task, "rows")
