"""OpenAI's own client, of threads and of asyncio."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest

from tests.clients.serving import Served
from tests.clients.text.callers import SLOW, TINY, Caller


def text_of(chunks: Sequence[Any], index: int = 0) -> str:
    return "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == index)


def finish_of(chunks: Sequence[Any], index: int = 0) -> str:
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.index == index]
    assert set(reasons[:-1]) <= {None}
    return str(reasons[-1])


# Models


def test_models_that_write_texts_are_listed_and_described(caller: Caller) -> None:
    listed = caller.models()
    assert [model.id for model in listed] == [SLOW, TINY]
    for model in listed:
        assert (model.object, model.owned_by) == ("model", "inferd")
        assert caller.wait(caller.client.models.retrieve(model.id)) == model


@pytest.mark.parametrize("name", ["nobody", "a model"])
def test_an_unknown_model_is_not_found(caller: Caller, name: str) -> None:
    for call in (lambda: caller.client.models.retrieve(name), lambda: caller.complete(model=name)):
        with pytest.raises(openai.NotFoundError, match="there is no model") as caught:
            caller.wait(call())
        assert (caught.value.status_code, caught.value.param, caught.value.code) == (404, "model", "not_found")


# Completions


def test_a_completion_says_all_that_the_client_reads(caller: Caller) -> None:
    before = int(time.time())
    answer = caller.complete(seed=1, max_tokens=5)
    assert (answer.object, answer.model) == ("text_completion", TINY)
    assert answer.id.startswith("cmpl-")
    assert before <= answer.created <= time.time()
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert len(choice.text) == 5
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 5, 10)


def test_a_stream_has_the_text_and_the_scores_of_the_whole(caller: Caller) -> None:
    wanted = {"seed": 7, "max_tokens": 30, "logprobs": 2, "echo": True}
    (whole,) = caller.complete(**wanted).choices
    chunks = caller.stream(**wanted)
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) == 31, "an event a token, and one for the prompt"
    assert (text_of(chunks), finish_of(chunks)) == (whole.text, whole.finish_reason)
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        told = [one for chunk in chunks for one in getattr(chunk.choices[0].logprobs, name)]
        assert told == getattr(whole.logprobs, name)
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_its_usage_if_asked_to(caller: Caller) -> None:
    *chunks, last = caller.stream(seed=7, max_tokens=6, stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (5, 6, 11)


def test_the_first_token_is_there_long_before_the_last(caller: Caller) -> None:
    arrivals: list[float] = []

    async def read() -> None:
        async for _ in await created:
            arrivals.append(time.monotonic())

    created = caller.client.completions.create(model=SLOW, prompt="a", max_tokens=60, stream=True, seed=1)
    began = time.monotonic()
    if isinstance(caller.client, openai.AsyncOpenAI):
        caller.runner.run(read())
    else:
        arrivals += [time.monotonic() for _ in created]
    assert len(arrivals) == 60
    assert arrivals[0] - began < (arrivals[-1] - began) / 4


def test_several_choices_of_several_prompts_come_in_their_order(caller: Caller) -> None:
    prompts = ["hello", "world", "."]
    wanted = {"seed": 3, "max_tokens": 12, "n": 4}
    answer = caller.complete(prompts, **wanted)
    assert [choice.index for choice in answer.choices] == list(range(12))
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts)) == 12
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 144)
    chunks = caller.stream(prompts, **wanted)
    assert [text_of(chunks, index) for index in range(12)] == texts
    assert {finish_of(chunks, index) for index in range(12)} == {"length"}
    assert [choice.text for choice in caller.complete("hello", **wanted).choices] == texts[:4]


def test_the_likeliest_of_best_of_come_back_the_best_first(caller: Caller) -> None:
    def likelihood(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    wanted = {"seed": 3, "max_tokens": 8, "logprobs": 0}
    every = caller.complete(n=10, **wanted).choices
    ranked = [choice.text for choice in sorted(every, key=likelihood, reverse=True)]
    answer = caller.complete(n=3, best_of=10, **wanted)
    assert [choice.text for choice in answer.choices] == ranked[:3]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_prompts_may_be_tokens(caller: Caller) -> None:
    wanted = {"seed": 3, "max_tokens": 12}
    texts = [choice.text for choice in caller.complete(["hello", "a"], **wanted).choices]
    hello, a = [9, 6, 13, 13, 16], [2]
    assert [choice.text for choice in caller.complete([hello, a], **wanted).choices] == texts
    (alone,) = caller.complete(hello, **wanted).choices
    assert alone.text == texts[0]
    (echoed,) = caller.complete(hello, echo=True, **wanted).choices
    assert echoed.text == "hello" + texts[0]


def test_a_text_is_scored_as_evaluation_harnesses_do(caller: Caller) -> None:
    context, continuation = "hello ", "world"
    (choice,) = caller.complete(context + continuation, max_tokens=0, echo=True, logprobs=1, temperature=0).choices
    assert choice.text == context + continuation
    scores = choice.logprobs
    assert scores.tokens == list(context + continuation)
    assert scores.text_offset == list(range(11))
    assert scores.token_logprobs[0] is scores.top_logprobs[0] is None
    for token, score, top in zip(scores.tokens[1:], scores.token_logprobs[1:], scores.top_logprobs[1:], strict=True):
        best = max(top, key=top.get)
        assert score <= top[best] <= 0
        assert (score == top[best]) == (best == token)
    # A token at a time, each as the continuation of what is before it.
    total = 0.0
    for place in range(len(context), len(context + continuation)):
        (one,) = caller.complete((context + continuation)[:place], max_tokens=1, temperature=0, logprobs=5).choices
        total += one.logprobs.top_logprobs[0].get(scores.tokens[place], scores.token_logprobs[place])
    assert sum(scores.token_logprobs[len(context) :]) == pytest.approx(total, abs=1e-5)


def test_the_likeliest_text_is_what_scoring_finds_likeliest(caller: Caller) -> None:
    (choice,) = caller.complete(temperature=0, max_tokens=20).choices
    (scored,) = caller.complete("hello" + choice.text, max_tokens=0, echo=True, logprobs=1).choices
    tokens, tops = scored.logprobs.tokens[5:], scored.logprobs.top_logprobs[5:]
    assert tokens == [max(top, key=top.get) for top in tops]


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(caller: Caller) -> None:
    (whole,) = caller.complete(seed=9, max_tokens=40).choices
    stop = whole.text[20:23]
    (stopped,) = caller.complete(seed=9, max_tokens=40, stop=[stop, "nowhere"]).choices
    assert (stopped.text, stopped.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    chunks = caller.stream(seed=9, max_tokens=40, stop=stop)
    assert (text_of(chunks), finish_of(chunks)) == (stopped.text, "stop")


def test_penalties_and_nucleus_are_taken(caller: Caller) -> None:
    plain = caller.complete(seed=5, max_tokens=40).choices[0].text
    for parameters in ({"frequency_penalty": 2}, {"presence_penalty": -2}, {"top_p": 0.2}, {"temperature": 0.3}):
        assert caller.complete(seed=5, max_tokens=40, **parameters).choices[0].text != plain
    ours = {"top_k": 1, "repetition_penalty": 1.5}
    assert caller.complete(seed=5, max_tokens=40, extra_body=ours).choices[0].text != plain


# Errors


@pytest.mark.parametrize(
    ("parameters", "name", "words"),
    [
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"n": 129}, "n", "128"),
        ({"best_of": 2, "n": 3}, "best_of", "at least n"),
        ({"best_of": 2, "stream": True}, "best_of", "stream"),
        ({"logprobs": 6}, "logprobs", "5"),
        ({"max_tokens": 5000}, "max_tokens", "INFERD_MAX_NEW_TOKENS"),
        ({"suffix": "."}, "suffix", "not supported"),
        ({"logit_bias": {"3": 1}}, "logit_bias", "not supported"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"prompt": "żółć"}, "prompt", "U\\+017C"),
        ({"prompt": [999]}, "prompt", "0 to 31"),
    ],
)
def test_what_cannot_be_had_is_a_bad_request_that_names_it(
    caller: Caller, parameters: dict[str, Any], name: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        caller.complete(**parameters)
    assert (caught.value.status_code, caught.value.param, caught.value.type) == (400, name, "invalid_request_error")


def test_other_statuses_reach_their_exceptions(caller: Caller) -> None:
    with pytest.raises(openai.APIStatusError, match="INFERD_MAX_PROMPT_TOKENS") as caught:
        caller.complete("a" * 20_000)
    assert (caught.value.status_code, caught.value.param) == (413, "prompt")
    with pytest.raises(openai.NotFoundError, match="generates no text") as caught:
        caller.complete(model="fixed")
    assert (caught.value.status_code, caught.value.param) == (404, "model")
    for call in (caller.complete, caller.stream):
        with pytest.raises(openai.InternalServerError, match="deadline") as failed:
            call(model=SLOW, max_tokens=4000, extra_headers={"x-request-timeout-ms": "0.001"})
        assert failed.value.status_code == 504


def test_a_deadline_in_mid_stream_is_an_error_of_the_stream(caller: Caller) -> None:
    with pytest.raises(openai.APIError, match="deadline") as caught:
        caller.stream(model=SLOW, max_tokens=4000, extra_headers={"x-request-timeout-ms": "700"})
    assert not isinstance(caught.value, openai.APIStatusError), "its status was 200"
    assert (caught.value.type, caught.value.code) == ("server_error", "deadline")


def test_a_full_server_is_a_rate_limit_that_says_when_to_come_again(crowded: Served, visitor: Caller) -> None:
    body = {"model": SLOW, "prompt": ["a", "b"], "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", f"{crowded.server.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)  # one text grows now, and the other waits
        with pytest.raises(openai.RateLimitError, match="the queue is full") as caught:
            visitor.complete(model=SLOW, n=2)
    assert (caught.value.status_code, caught.value.type, caught.value.code) == (429, "rate_limit_error", "overloaded")
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_client_that_may_try_again_does_so(crowded: Served, visitor: Caller) -> None:
    patient = visitor.client.with_options(max_retries=8)
    body = {"model": SLOW, "prompt": ["a", "b"], "max_tokens": 30, "stream": True}
    with httpx.stream("POST", f"{crowded.server.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        answer = visitor.wait(patient.completions.create(model=SLOW, prompt="a", n=2, max_tokens=2))
    assert [len(choice.text) for choice in answer.choices] == [2, 2]
