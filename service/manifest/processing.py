"""What happens to an input before the graph, and to an output after it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from service.manifest.ground import Contract, FileName, Language, Size


class ImagePreprocessing(Contract):
    """From the bytes of a picture to the graph's input (N, channels, height, width), float32.

    The picture is turned upright by its EXIF orientation, laid on `background` where it is transparent, made grey or
    RGB, brought to size, inverted where asked, then mapped to `(value / 255 - mean) / std`.

    Attributes:
        input: the graph's input.
        fit: `stretch` to size, `crop` the middle after resizing the shorter side, or `pad` the shorter side.
        background: brightness 0..255 under transparency and around a padded picture.
        invert: whether brightness is turned round unless the request says otherwise.
    """

    kind: Literal["image"] = "image"
    input: str
    width: Annotated[int, Field(ge=1, le=4096)]
    height: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3]
    fit: Literal["stretch", "crop", "pad"]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    background: Annotated[int, Field(ge=0, le=255)] = 0
    invert: bool = False
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values each, one a channel")
        return self


def _single_characters(replacements: dict[str, str]) -> dict[str, str]:
    if long := [character for character in replacements if len(character) != 1]:
        raise ValueError(f"replacements are of single characters, not of {long}")
    return replacements


class CharacterPreprocessing(Contract):
    """From a text to the tokens of a graph that reads it character by character.

    Attributes:
        vocabulary: a JSON file, the list of characters in the order of their token ids.
        start: the character that an empty prompt stands for.
        replacements: what stands in for characters outside the vocabulary; any other such character is refused.
    """

    kind: Literal["characters"] = "characters"
    vocabulary: FileName = "vocab.json"
    start: Annotated[str, Field(min_length=1, max_length=1)] = "\n"
    replacements: Annotated[dict[str, str], AfterValidator(_single_characters)] = Field(default={})


class TokenizerPreprocessing(Contract):
    """From a sentence to the inputs of a graph that reads all of it: tokens (N, length) and their numbers (N,), INT64.

    Attributes:
        input: the graph's input of tokens, the end token among them.
        lengths: the graph's input that says how many of them are the sentence's.
        tokenizer: a file in the format of Hugging Face's library `tokenizers`.
        start: the token with which an answer begins.
        end: the token with which a sentence and its answer end.
        padding: the token that fills a sentence up.
        sizes: to the smallest of these that is enough, in tokens. Nothing is longer than the largest.
    """

    kind: Literal["tokenizer"] = "tokenizer"
    input: str
    lengths: str
    tokenizer: FileName = "tokenizer.json"
    start: Size
    end: Size
    padding: Size
    sizes: tuple[Annotated[int, Field(ge=2, le=4096)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes must rise")
        return self


class NgramPreprocessing(Contract):
    """From a text to the input of a graph that tells what it means, and what that graph answers.

    A text is read as `service.ngrams` says: its words, runs of letters of each, and pairs of neighbouring words, as
    numbers.

    Attributes:
        input: the graph's input, INT64 (N, length): numbers of n-grams, and zeros that fill a row up.
        buckets: numbers that n-grams are hashed to.
        shortest: letters of an n-gram that is a part of a word, at least,
        longest: and at most.
        most: n-grams of a text that are read.
        conditions: the graph's output, FP32 (N, classes): weights of the classes, if the text means any of them.
        meant: the graph's output, FP32 (N,): how surely it does, 0..1.
        threshold: a text is taken to mean a class from here on.
    """

    kind: Literal["ngrams"] = "ngrams"
    input: str
    buckets: Annotated[int, Field(ge=3, le=2**24)]
    shortest: Annotated[int, Field(ge=1, le=16)] = 3
    longest: Annotated[int, Field(ge=1, le=16)] = 5
    most: Annotated[int, Field(ge=1, le=65_536)] = 1024
    conditions: str
    meant: str
    threshold: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError("shortest must not be more than longest")
        return self


def _discriminator(default: str, *kinds: str) -> Discriminator:
    """By `kind`; `default` where it does not say, as version 1 knew no other."""

    def kind_of(given: object) -> object:
        if isinstance(given, dict):
            return given.get("kind", default)
        return getattr(given, "kind", None)

    allowed = " or ".join(map(repr, kinds))
    return Discriminator(kind_of, custom_error_type="kind", custom_error_message=f"kind must be {allowed}")


Preprocessing = Annotated[
    Annotated[ImagePreprocessing, Tag("image")]
    | Annotated[CharacterPreprocessing, Tag("characters")]
    | Annotated[TokenizerPreprocessing, Tag("tokenizer")]
    | Annotated[NgramPreprocessing, Tag("ngrams")],
    _discriminator("image", "image", "characters", "tokenizer", "ngrams"),
]


class ClassificationPostprocessing(Contract):
    """From the graph's output (N, classes) to scores by label.

    Attributes:
        output: the graph's output.
        activation: what makes scores of it; `none` where the graph gives scores already.
        labels: a JSON file, the list of class names in the order of the output.
    """

    kind: Literal["classification"] = "classification"
    output: str
    activation: Literal["softmax", "sigmoid", "none"]
    labels: FileName


class TranslationPostprocessing(Contract):
    """How a translation is searched for and put together.

    Attributes:
        source: the language that is read, as ISO 639 has it.
        target: the language that is written.
        beams: beginnings that are kept unless the request says otherwise; 1 takes the likeliest token after token.
        length_penalty: the exponent of Wu et al. 2016 (arXiv:1609.08144, section 7), 0 for none.
        length_factor: a translation is cut off after so many tokens for each of its sentence's, without end tokens,
        length_offset: and so many more.
    """

    kind: Literal["translation"] = "translation"
    source: Language
    target: Language
    beams: Annotated[int, Field(ge=1, le=64)] = 5
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0
    length_factor: Annotated[float, Field(ge=0, le=100)] = 2.0
    length_offset: Annotated[int, Field(ge=1, le=10_000)] = 10


class ImagesPostprocessing(Contract):
    """How images are drawn: what the graph draws from, and what it answers.

    Attributes:
        latent: the graph's input, FP32 (N, numbers): what an image is drawn from, each number from a standard normal
            distribution.
        condition: the graph's input, FP32 (N, classes): a weight for each class. None where there are no classes.
        output: UINT8 (N, height, width, channels), of 1 channel or 3.
        labels: a JSON file, the list of class names in the order of the conditions.
        truncation: what latents are multiplied by unless the request says otherwise: below 1, images are more like each
            other, and more surely of their class.
    """

    kind: Literal["images"] = "images"
    latent: str
    condition: str | None = None
    output: str
    labels: FileName | None = None
    truncation: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _classes_have_names(self) -> Self:
        if (self.condition is None) != (self.labels is None):
            raise ValueError("a condition needs labels, and labels a condition")
        return self


Postprocessing = Annotated[
    Annotated[ClassificationPostprocessing, Tag("classification")]
    | Annotated[TranslationPostprocessing, Tag("translation")]
    | Annotated[ImagesPostprocessing, Tag("images")],
    _discriminator("classification", "classification", "translation", "images"),
]
