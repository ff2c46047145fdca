"""Text generation: a prompt in, what follows it out, token by token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.batching.sampling import Sampling
from service.errors import BadInput, BundleRefused, TooLarge
from service.manifest import CharacterPreprocessing, Manifest
from service.tasks.base import TaskLimits, parse_parameters
from service.tasks.characters import Characters

MOST_STOPS = 16
LONGEST_STOP = 256
MOST_TOP_SCORES = 20
MOST_BEST_OF = 20


def _stops(given: object) -> object:
    """Make a list of a text; refuse a long one before any of it is looked at."""
    if isinstance(given, list) and len(given) > MOST_STOPS:
        raise ValueError(_USABLE_STOPS)
    return [given] if isinstance(given, str) else given


def _usable_stops(stops: tuple[str, ...]) -> tuple[str, ...]:
    if len(stops) > MOST_STOPS or not all(0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise ValueError(_USABLE_STOPS)
    return stops


_USABLE_STOPS = f"at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"


Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, le=2**31)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
Stops = Annotated[tuple[str, ...], BeforeValidator(_stops), AfterValidator(_usable_stops)]


class SamplingParameters(BaseModel):
    """What every dialect may say of how tokens are chosen, see `Sampling`; the same seed gives the same text.

    None stands for what is the default: clients in some languages say it of all that was not set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    seed: Seed | None = None
    stop: Stops = ()

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, given: object) -> object:
        if isinstance(given, Mapping):
            return {name: value for name, value in given.items() if value is not None}
        return given

    def sampling(self, *, greedy: bool = False) -> Sampling:
        """How tokens are chosen; `greedy`: whatever the temperature."""
        return Sampling(
            temperature=0.0 if greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
        )


class TensorParameters(SamplingParameters):
    """What a request of the Open Inference Protocol may say; `max_tokens` are generated at most."""

    max_tokens: int = Field(20, ge=1)


class GenerateParameters(TensorParameters):
    """What its generate extension may say besides; `details`: tokens, their scores and why the text ended."""

    details: bool = False


class Parameters(SamplingParameters):
    """What a request of the task dialect may ask for, in the names of Hugging Face's text generation.

    Attributes:
        max_new_tokens: that are generated at most.
        do_sample: whether tokens are drawn; else each is the likeliest.
        return_full_text: whether the answer begins with the prompt.
        details: whether tokens, their scores and the reason of the end come with the answer.
        decoder_input_details: whether the prompt's tokens and scores do.
        top_n_tokens: so many of the likeliest tokens in each place, with the details.
        best_of: so many answers are made, and the one the model held likeliest comes back.
        truncate: so many of the prompt's last tokens are read.
    """

    max_new_tokens: int = Field(100, ge=1)
    do_sample: bool = True
    return_full_text: bool = False
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: int | None = Field(None, ge=1, le=MOST_TOP_SCORES)
    best_of: int = Field(1, ge=1, le=MOST_BEST_OF)
    truncate: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class TextRequest:
    """What every dialect asks for in its own words.

    Attributes:
        prompts: token ids of each, at least one prompt and at least one token each.
        sampling: how tokens are chosen.
        max_tokens: of each choice; 0 = none, where only the prompt's scores are wanted.
        stops: texts that end a choice, and are not part of it.
        seed: what the random numbers depend on, besides the indices of prompt and choice.
        choices: that come back for each prompt.
        best_of: that are made for each prompt; those the model held likeliest come back.
        top_scores: so many of the likeliest tokens go with each token's own score; None = no scores at all.
        scores_prompt: whether the prompt's tokens get scores too.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    max_tokens: int
    seed: int
    stops: tuple[str, ...] = ()
    choices: int = 1
    best_of: int = 1
    top_scores: int | None = None
    scores_prompt: bool = False


class TextGeneration:
    """The task of one model.

    Args:
        folder: the bundle's folder.
        manifest: its manifest.
        limits: of a request.

    Attributes:
        characters: what its tokens are.

    Raises:
        BundleRefused: the manifest has no vocabulary, or it is not as large as the graph's answers.
    """

    graphs: tuple[str, ...] = ("step",)
    slots_a_row = 1

    def __init__(self, folder: Path, manifest: Manifest, limits: TaskLimits) -> None:
        if not isinstance(manifest.preprocessing, CharacterPreprocessing):
            raise BundleRefused("manifest.json", f"task {manifest.task!r} needs a preprocessing of characters")
        how = manifest.preprocessing
        self.characters = Characters(folder, how, manifest.files[how.vocabulary])
        self.limits = limits
        _check_graphs(manifest, len(self.characters.pieces), manifest.preprocessing.vocabulary)

    def parse(self, inputs: object, parameters: Mapping[str, object]) -> tuple[TextRequest, Parameters]:
        """Check a request of the task dialect.

        Args:
            inputs: the prompt.
            parameters: see `Parameters`.

        Raises:
            BadInput: either is wrong.
        """
        prompt = self.text_of(inputs)
        asked = parse_parameters(Parameters, parameters)
        scored = asked.details or asked.top_n_tokens or asked.decoder_input_details
        request = TextRequest(
            prompts=[self.tokens_of(prompt, keep_last=asked.truncate)],
            sampling=asked.sampling(greedy=not asked.do_sample),
            max_tokens=self.length(asked, "max_new_tokens"),
            seed=seed_or_new(asked.seed),
            stops=asked.stop,
            best_of=asked.best_of,
            top_scores=asked.top_n_tokens or 0 if scored else None,
            scores_prompt=asked.decoder_input_details,
        )
        return request, asked

    def text_of(self, inputs: object) -> str:
        """The prompt of a request, which may have come as bytes.

        Raises:
            BadInput: it is no text.
        """
        if isinstance(inputs, bytes):
            try:
                return inputs.decode()
            except UnicodeDecodeError as error:
                raise BadInput(f"the prompt is no UTF-8 text ({error})") from error
        if not isinstance(inputs, str):
            raise BadInput("inputs must be the prompt, a text")
        return inputs

    def parse_tensors(self, prompts: Sequence[str], parameters: Mapping[str, object]) -> TextRequest:
        """Check a request of the Open Inference Protocol, which may have parameters that mean nothing here.

        Args:
            prompts: texts.
            parameters: see `TensorParameters`.

        Raises:
            BadInput: a parameter makes no sense, or a prompt has unknown characters.
        """
        if not prompts:
            raise BadInput("a request needs at least one prompt")
        known = {name: value for name, value in parameters.items() if name in TensorParameters.model_fields}
        return self._continuing(prompts, parse_parameters(TensorParameters, known))

    def parse_text(self, prompt: str, parameters: Mapping[str, object]) -> TextRequest:
        """Check a request of the protocol's generate extension.

        Args:
            prompt: any text.
            parameters: see `GenerateParameters`.

        Raises:
            BadInput: a parameter is unknown or makes no sense, or the prompt has unknown characters.
        """
        asked = parse_parameters(GenerateParameters, parameters)
        request = self._continuing([prompt], asked)
        return replace(request, top_scores=0) if asked.details else request

    def _continuing(self, prompts: Sequence[str], asked: TensorParameters) -> TextRequest:
        return TextRequest(
            prompts=[self.tokens_of(prompt) for prompt in prompts],
            sampling=asked.sampling(),
            max_tokens=self.length(asked, "max_tokens"),
            seed=seed_or_new(asked.seed),
            stops=asked.stop,
        )

    def tokens_of(self, prompt: str, *, keep_last: int | None = None) -> list[int]:
        """Make tokens of a prompt; an empty one stands for the start.

        Args:
            prompt: any text.
            keep_last: so many of its last tokens, if it has more.

        Raises:
            BadInput: it has characters that the model doesn't know, or (as TooLarge) too many.
        """
        most = self.limits.max_prompt_tokens
        if keep_last is None and len(prompt) > most:
            raise _too_long(len(prompt), most)
        tokens = self.characters.encode(prompt)
        if keep_last is not None:
            tokens = tokens[-keep_last:]
        return self.checked(tokens)

    def checked(self, tokens: Sequence[int]) -> list[int]:
        """Return a prompt that came as tokens, if it is one; an empty one stands for the start.

        Raises:
            BadInput: a token is unknown, or (as TooLarge) there are too many.
        """
        most, size = self.limits.max_prompt_tokens, len(self.characters.pieces)
        if len(tokens) > most:
            raise _too_long(len(tokens), most)
        if not tokens:
            return [self.characters.start]
        if min(tokens) < 0 or max(tokens) >= size:
            raise BadInput(f"a token of this model is a whole number from 0 to {size - 1}")
        return list(tokens)

    def length(self, asked: BaseModel, name: str) -> int:
        """How many tokens are asked for as `name`; where nobody said, no more than may be.

        Raises:
            BadInput: so many may not be asked for.
        """
        length: int = getattr(asked, name)
        most = self.limits.max_new_tokens
        if name in asked.model_fields_set and length > most:
            raise BadInput(f"{name} may be at most {most} (INFERD_MAX_NEW_TOKENS), not {length}", parameter=name)
        return min(length, most)

    def describe(self) -> dict[str, object]:
        """What the model takes."""
        return {
            "parameters": Parameters.model_json_schema()["properties"],
            "input": {
                "characters": "".join(self.characters.pieces),
                "replacements": self.characters.replacements,
                "max_prompt_tokens": self.limits.max_prompt_tokens,
                "max_new_tokens": self.limits.max_new_tokens,
            },
        }


def seed_or_new(seed: int | None) -> int:
    """The seed that was asked for, or one that nobody has used."""
    return secrets.randbits(64) if seed is None else seed


def _too_long(length: int, most: int) -> TooLarge:
    return TooLarge(f"a prompt may have at most {most} tokens (INFERD_MAX_PROMPT_TOKENS); this one has {length}")


def _check_graphs(manifest: Manifest, size: int, vocabulary: str) -> None:
    """Refuse graphs that are no steps, or whose answers are not about the tokens of the vocabulary."""
    for variant in manifest.variants.values():
        for graph in variant.graphs.values():
            if graph.step is None:
                raise BundleRefused("manifest.json", f"{graph.file} has no step, which task {manifest.task!r} needs")
            if graph.step.logits is None:
                raise BundleRefused("manifest.json", f"{graph.file} has no logits, which task {manifest.task!r} needs")
            if graph.step.context:
                raise BundleRefused("manifest.json", f"{graph.file} has a context, and nothing here makes one")
            inputs, outputs = ({one.name: one for one in tensors} for tensors in (graph.inputs, graph.outputs))
            token, logits = inputs[graph.step.token], outputs[graph.step.logits]
            if (token.datatype, token.shape) != ("INT64", ("batch",)):
                raise BundleRefused("manifest.json", f"{graph.file}: input {token.name!r} must be INT64 ('batch',)")
            if (logits.datatype, logits.shape) != ("FP32", ("batch", size)):
                raise BundleRefused(
                    vocabulary,
                    f"has {size} characters, but output {logits.name!r} of {graph.file} is {logits.datatype} "
                    f"{logits.shape}",
                )
            for pair in graph.step.states:
                before, after = inputs[pair.input], outputs[pair.output]
                fixed = all(isinstance(axis, int) for axis in (before.shape or ())[1:])
                if (before.datatype, before.shape) != (after.datatype, after.shape) or not fixed:
                    raise BundleRefused(
                        "manifest.json", f"{graph.file}: state {before.name!r} must have one shape, in and out"
                    )
