"""What OpenAI's dialect answers: completions, as a whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from service.batching.sequences import TokenScores
from service.protocols.streams import event
from service.repository.generation import Generation, Part
from service.repository.text_model import TextModel

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Completion:
    """What is the same in all of an answer, and what was asked of it.

    Attributes:
        id: of the answer.
        created: in seconds since the epoch.
        model: its name.
        pieces: the text of each token, by its id.
        echo: whether choices begin with their prompt.
        logprobs: how many of the likeliest tokens come with each; None = no scores at all.
        include_usage: whether a stream ends with how many tokens it took.
    """

    id: str
    created: int
    model: str
    pieces: Sequence[str]
    echo: bool
    logprobs: int | None
    include_usage: bool

    def envelope(self) -> dict[str, object]:
        """What stands around choices."""
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}


def completion(generation: Generation, written: Completion, answer: Sequence[Sequence[Part]]) -> dict[str, object]:
    """Write the choices of each prompt, one prompt after the other."""
    choices: list[dict[str, object]] = []
    made = 0
    for prompt, parts in enumerate(answer):
        for part in parts:
            lines = _Lines(written, generation, prompt)
            text = lines.prompt() if written.echo else ""
            text += lines.add(part.tokens, part.texts, part.scores)
            choices.append(_choice(len(choices), text, lines.taken(), part.finish))
            made += part.count
    return {**written.envelope(), "choices": choices, "usage": _usage(generation, made)}


async def chunks(model: TextModel, generation: Generation, written: Completion) -> AsyncGenerator[bytes, None]:
    """Write an event a token of each choice as it comes; with `echo` each choice begins with one of its prompt."""
    request = generation.request
    lines: dict[tuple[int, int], _Lines] = {}
    counts: dict[tuple[int, int], int] = {}
    envelope = written.envelope()

    # Where usage is asked for, every chunk has it: nothing in all but the last.
    usage = {"usage": None} if written.include_usage else {}

    def chunk(index: int, text: str, logprobs: object, finish: str | None) -> bytes:
        return event({**envelope, "choices": [_choice(index, text, logprobs, finish)], **usage})

    async with aclosing(generation.parts()) as news:
        async for parts in news:
            events: list[bytes] = []
            for part in parts:
                key = (part.prompt, part.choice)
                index = part.prompt * request.choices + part.choice
                counts[key] = part.count
                if key not in lines:
                    lines[key] = _Lines(written, generation, part.prompt)
                    if written.echo and (text := lines[key].prompt()):
                        events.append(chunk(index, text, lines[key].taken(), None))
                for place, (token, text) in enumerate(zip(part.tokens, part.texts, strict=True)):
                    lines[key].add([token], [text], part.scores[place : place + 1])
                    last = place == len(part.tokens) - 1
                    events.append(chunk(index, text, lines[key].taken(), part.finish if last else None))
                if part.finish and not part.tokens:
                    events.append(chunk(index, "", None, part.finish))
            yield b"".join(events)
    model.count(generation)
    if written.include_usage:
        yield event({**envelope, "choices": [], "usage": _usage(generation, sum(counts.values()))}) + DONE
    else:
        yield DONE


class _Lines:
    """Writes the log-probabilities of one choice, with where in the text each token begins."""

    def __init__(self, written: Completion, generation: Generation, prompt: int) -> None:
        self._written = written
        self._generation = generation
        self._prompt = prompt
        self._offset = 0 if written.echo else sum(len(written.pieces[token]) for token in self._tokens())
        self._clear()

    def prompt(self) -> str:
        """Add the prompt, and return its text; nothing predicts its first token."""
        tokens = self._tokens()
        scores: list[TokenScores | None] = [None, *self._generation.prompt_scores(self._prompt)]
        return self.add(tokens, [self._written.pieces[token] for token in tokens], scores[: len(tokens)])

    def add(self, tokens: Sequence[int], texts: Sequence[str], scores: Sequence[TokenScores | None]) -> str:
        """Add tokens, and return their text."""
        if self._written.logprobs is not None:
            pieces = self._written.pieces
            for text, score in zip(texts, scores, strict=True):
                self._content["tokens"].append(text)
                self._content["token_logprobs"].append(score.logprob if score else None)
                top = None
                if score and score.top:  # the likeliest, and the one that is there
                    top = {pieces[one]: logprob for one, logprob in score.top}
                    top.setdefault(text, score.logprob)
                self._content["top_logprobs"].append(top)
                self._content["text_offset"].append(self._offset)
                self._offset += len(text)
        return "".join(texts)

    def taken(self) -> dict[str, list[Any]] | None:
        """What was added since the last call; None where nobody asked for it."""
        if self._written.logprobs is None:
            return None
        content = self._content
        self._clear()
        return content

    def _clear(self) -> None:
        self._content: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }

    def _tokens(self) -> Sequence[int]:
        return self._generation.request.prompts[self._prompt]


def _choice(index: int, text: str, logprobs: object, finish: str | None) -> dict[str, object]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _usage(generation: Generation, made: int) -> dict[str, int]:
    read = sum(map(len, generation.request.prompts))
    return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
