"""What a translation may be asked for, in the names of Hugging Face's translation, and the texts it is asked of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from service.errors import BadInput, TooLarge
from service.tasks.base import check_names

MOST_TEXTS = 128

_HALF = re.compile("[\ud800-\udfff]")


class Parameters(BaseModel):
    """What a request of the task dialect may ask for; None is the default.

    Attributes:
        src_lang: the language of the texts, which must be the model's.
        tgt_lang: the language to translate to, likewise.
        num_beams: beginnings of a translation that are kept; 1 takes the likeliest token after token.
        max_length: tokens after which the translation of a sentence is cut off, if the model's own limit is not lower;
            also called max_new_tokens.
        length_penalty: the exponent; the larger, the longer translations get.
        num_return_sequences: so many translations of each text, the best first; at most as many as beams.
        return_alignment: whether it is told where the model looked for what it wrote.
        do_sample: translations are never drawn.
        clean_up_tokenization_spaces: means nothing here: there are none to clean up.
        truncation: means nothing here: what is too long is cut into parts, and no part is left out.
        generate_parameters: the same parameters, as Hugging Face's client sends some of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    src_lang: str | None = None
    tgt_lang: str | None = None
    num_beams: int | None = Field(None, ge=1)
    max_length: Annotated[int | None, Field(ge=1, validation_alias=AliasChoices("max_length", "max_new_tokens"))] = None
    length_penalty: float | None = Field(None, ge=0, le=10)
    num_return_sequences: int = Field(1, ge=1)
    return_alignment: bool = False
    do_sample: Literal[False] = False
    clean_up_tokenization_spaces: bool = True
    truncation: Literal["do_not_truncate", "longest_first", "only_first", "only_second"] = "do_not_truncate"
    generate_parameters: Mapping[str, Any] = Field({}, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        nested = given.get("generate_parameters")
        if isinstance(nested, Mapping):
            check_names(nested)
            given = {**nested, **given, "generate_parameters": {}}
        return {name: value for name, value in given.items() if value is not None}


USUAL = Parameters()
"""What is asked for where nothing is said."""


def texts_of(inputs: object) -> list[str]:
    """The texts of a request: one, or several.

    Raises:
        BadInput: they are none.
    """
    if isinstance(inputs, bytes):
        try:
            inputs = inputs.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"the text is no UTF-8 ({error})") from error
    several = inputs if isinstance(inputs, list) else [inputs]
    texts = [text for text in several if isinstance(text, str)]
    if len(texts) < len(several):
        raise BadInput("inputs must be a text or a list of texts")
    if any(map(_HALF.search, texts)):
        raise BadInput("a text has half of a character (a surrogate) in it, which no text can hold")
    return texts


def check_texts(texts: Sequence[str], max_characters: int) -> None:
    """Refuse more than may come in a request.

    Raises:
        TooLarge: there are too many texts, or one has more than `max_characters`.
    """
    if len(texts) > MOST_TEXTS:
        raise TooLarge(f"a request may have at most {MOST_TEXTS} texts; this one has {len(texts)}")
    longest = max(map(len, texts), default=0)
    if longest > max_characters:
        raise TooLarge(
            f"a text may have at most {max_characters} characters (INFERD_MAX_TEXT_CHARACTERS); this one has {longest}"
        )
