"""Texts, as a whole and in events, in all three dialects, with odd parameters; some clients go away in between."""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.edits import changed, changes, edited, edits, odd, to_json
from tests.fuzz.playing import Finding, Target
from tests.fuzz.wire import Client, post

_SAMPLING: Final = {
    "temperature": 0.8, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.1, "frequency_penalty": 0.5,
    "presence_penalty": -0.5, "seed": 7, "stop": ["an", "é"],
}  # fmt: skip
_CALLS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("/v2/models/{}/generate_stream", {"text_input": "the", "parameters": {
        "max_tokens": 12, "details": True, **_SAMPLING}}),
    ("/v2/models/{}/generate", {"text_input": "the", "id": "a", "max_tokens": 5, "temperature": 0}),
    ("/predict/{}", {"inputs": "the", "stream": True, "parameters": {
        "max_new_tokens": 12, "do_sample": True, "details": True, "top_n_tokens": 2, "truncate": 4, **_SAMPLING}}),
    ("/predict/{}", {"inputs": "the", "parameters": {
        "max_new_tokens": 8, "best_of": 3, "details": True, "decoder_input_details": True, "return_full_text": True}}),
    ("/v1/completions", {"prompt": ["the", "a"], "stream": True, "stream_options": {"include_usage": True},
                         "max_tokens": 9, "n": 2, "logprobs": 2, "echo": True, **_SAMPLING}),
    ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 4, "n": 2, "best_of": 3, "user": "me"}),
    ("/v1/completions", {"prompt": [[1], [2, 3]], "stream": True, "max_tokens": 30}),
)  # fmt: skip
_MODELS: Final = ("tiny-text", "tiny-text", "tiny-text", "shakespeare", "bare")


@st.composite
def _cases(draw: DrawFn) -> tuple[str, bytes, int | None]:
    """Path, body, and after how many bytes of the answer the client goes away."""
    path, document = draw(st.sampled_from(_CALLS))
    model = draw(st.sampled_from(_MODELS))
    if path == "/v1/completions":
        document = {"model": model, **document}
    places = [document, document.get("parameters", document)]
    document = dict(places[0])
    named = draw(
        st.dictionaries(st.sampled_from((*_SAMPLING, "max_tokens", "n", "logprobs", "inputs")), odd, max_size=2)
    )
    if "parameters" in document:
        document["parameters"] = {**places[1], **named}
    else:
        document |= named
    body = to_json(changed(document, draw(changes)))
    if draw(st.integers(0, 9)) == 0:
        body = edited(body, draw(edits))
    return path.format(model), body, draw(st.one_of(st.none(), st.integers(0, 3000)))


class Streams:
    """Requests for texts."""

    def __init__(self, target: Target) -> None:
        self._client = Client(target.port)
        self._name = target.name

    cases = _cases()
    variants = 0

    def vary(self, case: Any, _random: Random) -> Any:
        """There are no variants: drawing cases takes less than answering them."""
        return case

    def attempt(self, case: tuple[str, bytes, int | None], number: int) -> str:
        """Ask, and read what comes as far as this client would."""
        path, body, drop_after = case
        headers = (("content-type", "application/json"), ("x-request-id", f"{self._name}-{number}"))
        request = post(path, body, *headers)
        answer = self._client.ask(request, drop_after=drop_after)
        if answer.headers.get("content-type", "").startswith("text/event-stream") and not answer.dropped:
            _check_events(answer.body, request)
        return answer.outcome

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _check_events(body: bytes, request: bytes) -> None:
    """See whether every event can be read, and none tells of a failure in mid-stream."""
    if not body.endswith(b"\n\n"):
        raise Finding(f"the stream ends within an event: {body[-200:]!r}", request)
    for event in body.split(b"\n\n")[:-1]:
        if event == b"data: [DONE]":
            continue
        try:
            content = json.loads(event.removeprefix(b"data: "))
        except ValueError as error:
            raise Finding(f"an event is no JSON: {event[:200]!r}", request) from error
        if "error" in content:
            raise Finding(f"the stream failed: {event[:200]!r}", request)
