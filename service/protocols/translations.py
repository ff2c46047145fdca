"""What every dialect of translation does: read texts, have them translated, put them together again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from service.batching.records import Answer
from service.protocols.requests import while_connected
from service.repository.translation_model import TranslationModel
from service.tasks.translation_requests import Translated, TranslationRequest

_INLINE_SENTENCES = 16
"""So many are put together in the event loop, where it isn't asked what stands for what."""


@dataclass(frozen=True)
class TranslatedTexts:
    """What became of each text, and how long it took."""

    texts: list[Translated]
    answer: Answer


async def translate(
    request: Request,
    model: TranslationModel,
    parse: Callable[[], TranslationRequest],
    deadline: float | None,
    *,
    heavy: bool,
) -> TranslatedTexts:
    """Answer a request, for as long as its client is there.

    Args:
        request: its body was read.
        model: what translates.
        parse: makes the task's request.
        deadline: on the clock of `time.monotonic`.
        heavy: whether `parse` belongs in a thread.

    Raises:
        Cancelled: the client went away.
        InferdError: as the task and the model raise.
    """
    wanted = await model.offload(parse) if heavy else parse()
    translations = await while_connected(request, model.translate(wanted, deadline=deadline))
    finish = partial(model.task.put_together, wanted, translations.found)
    is_much = wanted.alignment or len(wanted.sentences) > _INLINE_SENTENCES
    texts = await model.offload(finish) if is_much else finish()
    model.count(translations, len(wanted.texts))
    return TranslatedTexts(texts, translations.answer)
