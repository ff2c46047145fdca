"""The task dialect for text: what Hugging Face's text generation asks and answers, as a whole or in events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.batching.sequences import Finish, TokenScores
from service.errors import BadInput
from service.protocols.requests import answer_headers, json_response, model_headers, while_connected
from service.protocols.streams import EventStream, event
from service.repository.generation import Generation, Timings
from service.repository.text_model import TextModel, answer_of
from service.tasks.text_generation import Parameters, TextRequest


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A request of the task dialect, whatever the task."""

    inputs: Any
    parameters: dict[str, Any] | None = None
    stream: bool | None = None


async def answer(
    request: Request, model: TextModel, asked: Asked, deadline: float | None, measured: ExitStack
) -> Response:
    """Answer one prompt.

    Args:
        request: its body was read.
        model: what continues the prompt.
        asked: what the body held.
        deadline: on the clock of `time.monotonic`.
        measured: what is open around the request; a stream takes it over.

    Raises:
        InferdError: as the task and the model raise.
    """
    parse = partial(model.task.parse, asked.inputs, asked.parameters or {})
    wanted, parameters = await model.offload(parse) if model.is_large(asked.inputs) else parse()
    prompt = model.task.text_of(asked.inputs) if parameters.return_full_text else ""
    if asked.stream:
        if wanted.best_of > 1:
            raise BadInput("best_of needs whole answers to choose from, and stream gives none")
        wanted = replace(wanted, top_scores=wanted.top_scores or 0)
        generation = model.generate(wanted, deadline=deadline, streamed=True)
        return EventStream(
            _events(model, generation, prompt, parameters),
            measured=measured.pop_all(),
            failure=lambda error: event({"error": str(error), "error_type": error.reason}),
            headers=model_headers(model),
        )
    generation = model.generate(wanted, deadline=deadline)
    ((choice,),) = await while_connected(request, generation.answer())
    timings = model.count(generation)
    content: dict[str, object] = {"generated_text": prompt + choice.text}
    if wanted.top_scores is not None:
        content["details"] = {
            **_details(wanted, choice.finish, choice.count, timings),
            "prefill": _prefill(model, generation) if wanted.scores_prompt else [],
            "tokens": [_token(*one) for one in zip(choice.tokens, choice.texts, choice.scores, strict=True)],
            "top_tokens": [_top(model, scores) for scores in choice.scores] if parameters.top_n_tokens else None,
        }
    return json_response([content], answer_headers(model, answer_of(timings, {})))


async def _events(
    model: TextModel, generation: Generation, prompt: str, parameters: Parameters
) -> AsyncGenerator[bytes, None]:
    """An event a token; the last has the whole text."""
    index = 0
    text = [prompt]
    async with aclosing(generation.parts()) as news:
        async for (part,) in news:
            text += part.texts
            if not part.finish and not parameters.top_n_tokens:
                yield b"".join(map(_plain_event, count(index), part.tokens, part.texts, part.scores))
                index += len(part.tokens)
                continue
            tokens = [_token(*one) for one in zip(part.tokens, part.texts, part.scores, strict=True)]
            tops = [_top(model, scores) if parameters.top_n_tokens else None for scores in part.scores]
            if part.finish and part.count > index + len(tokens):
                # The stop string took tokens as a whole, and an event is about a token. It comes even where another
                # could tell the end: what is told does not depend on how fast it came.
                tokens.append(_NO_TOKEN)
                tops.append(None)
            events: list[dict[str, object]] = [
                {"index": index + place, "token": token, "top_tokens": top, "generated_text": None, "details": None}
                for place, (token, top) in enumerate(zip(tokens, tops, strict=True))
            ]
            index += len(events)
            if part.finish:
                timings = model.count(generation)
                events[-1]["generated_text"] = "".join(text)
                events[-1]["details"] = _details(generation.request, part.finish, part.count, timings)
            yield b"".join(map(event, events))


def _plain_event(index: int, token: int, text: str, scores: TokenScores) -> bytes:
    """An event with nothing but a token: there are many, and this takes half the time of what knows all events."""
    return _PLAIN_EVENT % (index, token, _encode(text), _encode(scores.logprob))


_encode = msgspec.json.encode
_PLAIN_EVENT = (
    b'data: {"index":%d,"token":{"id":%d,"text":%b,"logprob":%b,"special":false},'
    b'"top_tokens":null,"generated_text":null,"details":null}\n\n'
)
_NO_TOKEN = {"id": 0, "text": "", "logprob": 0.0, "special": True}


def _token(token: int, text: str, scores: TokenScores) -> dict[str, object]:
    return {"id": token, "text": text, "logprob": scores.logprob, "special": False}


def _top(model: TextModel, scores: TokenScores) -> list[dict[str, object]]:
    pieces = model.task.characters.pieces
    return [_token(token, pieces[token], TokenScores(logprob)) for token, logprob in scores.top]


def _prefill(model: TextModel, generation: Generation) -> list[dict[str, object]]:
    """The prompt's tokens; nothing predicts the first."""
    pieces = model.task.characters.pieces
    logprobs = [None, *(scores.logprob for scores in generation.prompt_scores(0))]
    return [
        {"id": token, "text": pieces[token], "logprob": logprob}
        for token, logprob in zip(generation.request.prompts[0], logprobs, strict=True)
    ]


def _details(wanted: TextRequest, finish: Finish | None, count: int, timings: Timings) -> dict[str, object]:
    return {
        "finish_reason": "stop_sequence" if finish == "stop" else "length",
        "generated_tokens": count,
        "input_length": len(wanted.prompts[0]),
        "seed": wanted.seed,
        "queue_ms": round(1000 * timings.queue_s, 3),
        "compute_ms": round(1000 * timings.run_s, 3),
        "batch_size": round(timings.rows, 2),
        "time_to_first_token_ms": None if timings.first_token_s is None else round(1000 * timings.first_token_s, 3),
    }
