"""The task dialect for translation: what Hugging Face's translation asks and answers, for a text or several."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadInput
from service.protocols.predict_text import Asked
from service.protocols.requests import answer_headers, json_response
from service.protocols.translations import translate
from service.repository.translation_model import TranslationModel
from service.tasks.translation_parameters import USUAL, Parameters
from service.tasks.translation_requests import Translated, TranslationRequest


async def answer(request: Request, model: TranslationModel, asked: Asked, deadline: float | None) -> Response:
    """Translate a text, or several.

    Args:
        request: its body was read.
        model: what translates.
        asked: what the body held.
        deadline: on the clock of `time.monotonic`.

    Raises:
        InferdError: as the task and the model raise.
    """
    if asked.stream:
        raise BadInput("stream: a translation comes as a whole, since the best is not known before it has ended")
    parameters = USUAL

    def parse() -> TranslationRequest:
        nonlocal parameters
        wanted, parameters = model.task.parse(asked.inputs, asked.parameters or {})
        return wanted

    done = await translate(request, model, parse, deadline, heavy=model.task.is_heavy(asked.inputs))
    content = [_content(one, parameters) for one in done.texts]
    return json_response(content, answer_headers(model, done.answer))


def _content(translated: Translated, asked: Parameters) -> dict[str, object]:
    content: dict[str, object] = {"translation_text": translated.text}
    if asked.num_return_sequences > 1:
        content["alternatives"] = translated.alternatives
    if translated.alignment is not None:
        content["alignment"] = translated.alignment
    return content
