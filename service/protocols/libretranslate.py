"""LibreTranslate's dialect: `/translate`, `/languages` and `/detect`, for every model that translates.

Which model answers is said by the two languages alone. Bodies are JSON or forms; what is said of errors, and with which
status, is LibreTranslate's, but for texts that are too long (413), as everywhere here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadInput, NotFound, NotReady, TooLarge
from service.protocols.detection import Candidate, Detector
from service.protocols.gate import admit_by
from service.protocols.languages import name_of
from service.protocols.requests import answer_headers, deadline_of, form_of, json_response, read_json
from service.protocols.translations import translate
from service.repository.repository import Repository
from service.repository.translation_model import TranslationModel
from service.security.access import Access
from service.tasks.markup import parts_of
from service.tasks.translation_parameters import check_texts, texts_of
from service.tasks.translation_requests import Translated

Pairs: TypeAlias = Mapping[tuple[str, str], TranslationModel]
"""What translates from a language to another."""

AUTO = "auto"
_FORMATS = ("text", "html")
_BODY = msgspec.json.Decoder(dict[str, Any])

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def _openapi(required: Sequence[str], **properties: object) -> dict[str, object]:
    schema = {"schema": {"type": "object", "required": required, "properties": {"q": _TEXTS, **properties}}}
    kinds = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, schema)}}


_OPENAPI_TRANSLATE = _openapi(
    ("q", "source", "target"),
    source={"type": "string", "description": "code of a language, or auto"},
    target={"type": "string", "description": "code of a language"},
    format={"enum": _FORMATS, "default": "text"},
    alternatives={"type": "integer", "default": 0},
    api_key={"type": "string"},
)
_OPENAPI_DETECT = _openapi(("q",), api_key={"type": "string"})


@dataclass(frozen=True)
class _Asked:
    """What a request says.

    Attributes:
        texts: that are meant.
        several: whether they came as a list, and are answered as lists.
        source: the language of all of them, or `auto`.
        target: to translate to.
        markup: whether they are HTML.
        alternatives: so many translations of each besides the best.
    """

    texts: list[str]
    several: bool
    source: str
    target: str
    markup: bool
    alternatives: int


def router(
    repository: Repository, detector: Detector, *, access: Access, max_body_bytes: int, max_text_characters: int
) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(tags=["libretranslate"])

    async def translate_texts(request: Request) -> Response:
        """Translate a text or several, by the model for their language and the one that is asked for."""
        deadline = deadline_of(request)
        fields = await _fields(request, max_body_bytes)
        with admit_by(request, access, fields.get("api_key")):
            return await translate_fields(request, fields, deadline)

    async def translate_fields(request: Request, fields: Mapping[str, Any], deadline: float | None) -> Response:
        asked = _asked(fields)
        check_texts(asked.texts, max_text_characters)
        pairs = _needed(repository)
        source, detected = asked.source, None
        if source == AUTO:
            detected = (await _detect(detector, _readable(asked), pairs, towards=asked.target))[0]
            source = str(detected["language"])
        _check_supported(source, asked.target, pairs)
        if source == asked.target:
            return json_response(_content(asked, [Translated(text) for text in asked.texts], detected))
        model = _model(source, asked.target, pairs)
        with model.measured():
            most = model.task.most_beams - 1
            if asked.alternatives > most:
                raise BadInput(f"Invalid request: alternatives parameter must be <= {most}", parameter="alternatives")
            parse = partial(model.task.request, asked.texts, hypotheses=asked.alternatives + 1, markup=asked.markup)
            done = await translate(request, model, parse, deadline, heavy=model.task.is_heavy(asked.texts))
            return json_response(_content(asked, done.texts, detected), answer_headers(model, done.answer))

    async def languages() -> Response:
        """List the languages of every model that translates, and what can be had from each."""
        pairs = _pairs(repository)
        return json_response(
            [
                {
                    "code": language,
                    "name": name_of(language),
                    "targets": sorted({language, *(target for source, target in pairs if source == language)}),
                }
                for language in _languages(pairs)
            ]
        )

    async def detect(request: Request) -> Response:
        """Say which of the languages a text is in."""
        fields = await _fields(request, max_body_bytes)
        with admit_by(request, access, fields.get("api_key")):
            texts, _ = _texts(fields)
            check_texts(texts, max_text_characters)
            return json_response(await _detect(detector, texts, _needed(repository)))

    routes.add_api_route(
        "/translate", translate_texts, methods=["POST"], response_model=None, openapi_extra=_OPENAPI_TRANSLATE
    )
    routes.add_api_route("/languages", languages, response_model=None)
    routes.add_api_route("/detect", detect, methods=["POST"], response_model=None, openapi_extra=_OPENAPI_DETECT)
    return routes


async def _fields(request: Request, limit: int) -> Mapping[str, Any]:
    """The fields of whichever kind of body came, and of the query where the body is a form."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return await read_json(request, limit, _BODY, "an object")
        except TooLarge:
            raise
        except BadInput as error:
            raise BadInput("Invalid JSON format") from error
    async with form_of(request, limit, max_files=0, max_fields=16) as form:
        fields = {name: value for name, value in reversed(form.multi_items()) if isinstance(value, str)}
        return {**request.query_params, **fields}


def _asked(fields: Mapping[str, Any]) -> _Asked:
    """Check what a request to translate says.

    Raises:
        BadInput: in LibreTranslate's words.
    """
    texts, several = _texts(fields)
    return _Asked(
        texts=texts,
        several=several,
        source=_needed_field(fields, "source"),
        target=_needed_field(fields, "target"),
        markup=_format(fields) == "html",
        alternatives=_alternatives(fields),
    )


def _texts(fields: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The texts, and whether they came as a list."""
    given = fields.get("q")
    if not given:
        raise BadInput("Invalid request: missing q parameter", parameter="q")
    try:
        return texts_of(given), isinstance(given, list)
    except BadInput as error:
        raise BadInput("Invalid request: q must be a text or a list of texts", parameter="q") from error


def _needed_field(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not value:
        raise BadInput(f"Invalid request: missing {name} parameter", parameter=name)
    return str(value)


def _format(fields: Mapping[str, Any]) -> str:
    given = str(fields.get("format") or "text")
    if given not in _FORMATS:
        raise BadInput(f"{given[:40]} format is not supported", parameter="format")
    return given


def _alternatives(fields: Mapping[str, Any]) -> int:
    try:
        return max(0, int(fields.get("alternatives") or 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput("Invalid request: alternatives parameter is not a number", parameter="alternatives") from error


def _pairs(repository: Repository) -> Pairs:
    """Every model that translates, its highest version that serves; of two for the same languages the first by name."""
    found: dict[tuple[str, str], TranslationModel] = {}
    for name in sorted({entry.name for entry in repository.entries() if entry.state == "READY"}):
        if repository.versions(name):
            model = repository.get(name)
            if isinstance(model, TranslationModel):
                found.setdefault((model.task.source, model.task.target), model)
    return found


def _needed(repository: Repository) -> Pairs:
    """Likewise, where there is one.

    Raises:
        NotFound: no model here translates.
        NotReady: not yet.
    """
    pairs = _pairs(repository)
    if not pairs:
        if not repository.is_ready:
            raise NotReady("no model that translates is ready; /health/ready says why")
        raise NotFound("no model that translates is loaded here")
    return pairs


def _languages(pairs: Pairs) -> list[str]:
    return sorted({language for pair in pairs for language in pair})


def _check_supported(source: str, target: str, pairs: Pairs) -> None:
    languages = _languages(pairs)
    for name, language in (("source", source), ("target", target)):
        if language not in languages:
            supported = f"supported: {', '.join(languages)}"
            raise BadInput(f"{language[:40]} is not supported ({supported})", parameter=name)


def _model(source: str, target: str, pairs: Pairs) -> TranslationModel:
    try:
        return pairs[source, target]
    except KeyError as error:
        raise BadInput(
            f"{name_of(target)} ({target}) is not available as a target language from {name_of(source)} ({source})",
            parameter="target",
        ) from error


async def _detect(
    detector: Detector, texts: Sequence[str], pairs: Pairs, *, towards: str | None = None
) -> list[dict[str, object]]:
    """The languages that texts may be in, the likeliest first; at least one, with no confidence if nothing tells.

    Args:
        detector: that looks at them.
        texts: in one language, all together.
        pairs: whose languages are meant.
        towards: a language; where two are as likely, the one comes first that can be translated to it.
    """
    rank = partial(detector.rank, texts, _languages(pairs))
    ranked = await next(iter(pairs.values())).offload(rank) if detector.is_slow(texts) else rank()
    ranked = ranked or [Candidate(language, 0.0) for language in _languages(pairs)]
    ranked.sort(key=lambda one: (-one.likelihood, (one.language, towards) not in pairs))
    if not ranked[0].likelihood:
        del ranked[1:]
    return [{"confidence": round(100 * one.likelihood, 2), "language": one.language} for one in ranked]


def _readable(asked: _Asked) -> list[str]:
    """The texts without their tags."""
    if not asked.markup:
        return asked.texts
    return ["".join(part.content for part in parts_of(text) if part.is_text) for text in asked.texts]


def _content(
    asked: _Asked, translated: Sequence[Translated], detected: Mapping[str, object] | None
) -> dict[str, object]:
    """The answer: of one text itself, of several lists."""
    fields: dict[str, list[object]] = {"translatedText": [one.text for one in translated]}
    if detected is not None:
        fields["detectedLanguage"] = [detected] * len(translated)
    if asked.alternatives:
        fields["alternatives"] = [one.alternatives for one in translated]
    return {name: values if asked.several else values[0] for name, values in fields.items()}
