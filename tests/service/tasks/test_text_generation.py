from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.batching.sampling import Sampling
from service.errors import BadInput, BundleRefused, TooLarge
from service.manifest import Manifest, read_manifest
from service.tasks import TASKS
from service.tasks.base import TaskLimits
from service.tasks.text_generation import TextGeneration, TextRequest
from tests.bundles import make_bundle, with_edit
from tests.text_bundles import HIDDEN, VOCABULARY, encode, make_text_bundle

LIMITS = TaskLimits(max_pixels=1, max_prompt_tokens=12, max_new_tokens=50)
GRAPH = ("variants", "fp32", "graphs", "step")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def task(bundle: Path) -> TextGeneration:
    return TextGeneration(bundle, read_manifest(bundle), LIMITS)


def parsed(task: TextGeneration, inputs: object = "abc", **parameters: object) -> TextRequest:
    request, _ = task.parse(inputs, parameters)
    return request


def refusal(task: TextGeneration, inputs: object = "abc", **parameters: object) -> str:
    with pytest.raises(BadInput) as caught:
        task.parse(inputs, parameters)
    return str(caught.value)


def test_the_table_of_tasks_has_it_by_its_name_on_the_hub() -> None:
    assert TASKS["text-generation"] is TextGeneration


# Requests of the task dialect


def test_a_prompt_alone_is_continued_by_drawing_at_temperature_1(task: TextGeneration) -> None:
    request, asked = task.parse("abc", {})
    assert request.prompts == [encode("abc")]
    assert request.sampling == Sampling()
    assert (request.stops, request.choices, request.best_of) == ((), 1, 1)
    assert (request.top_scores, request.scores_prompt) == (None, False)
    assert not asked.return_full_text


def test_who_does_not_say_how_long_gets_no_more_than_the_server_gives(bundle: Path, task: TextGeneration) -> None:
    assert (parsed(task).max_tokens, task.parse_tensors(["a"], {}).max_tokens) == (50, 20)
    for most, expected in ((4096, (100, 20)), (3, (3, 3))):
        limited = TextGeneration(bundle, read_manifest(bundle), TaskLimits(1, 12, max_new_tokens=most))
        assert (parsed(limited).max_tokens, limited.parse_tensors(["a"], {}).max_tokens) == expected


def test_everything_that_may_be_said_arrives(task: TextGeneration) -> None:
    request = parsed(
        task,
        "hello world",
        max_new_tokens=7,
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        repetition_penalty=1.5,
        frequency_penalty=-1,
        presence_penalty=2,
        seed=11,
        stop=["x", "yz"],
        best_of=4,
        truncate=5,
        top_n_tokens=2,
        decoder_input_details=True,
    )
    assert request == TextRequest(
        prompts=[encode("world")],
        sampling=Sampling(0.5, 3, 0.25, 1.5, -1.0, 2.0),
        max_tokens=7,
        seed=11,
        stops=("x", "yz"),
        best_of=4,
        top_scores=2,
        scores_prompt=True,
    )


def test_texts_of_a_query_are_understood(task: TextGeneration) -> None:
    said = {"max_new_tokens": "7", "temperature": "0.5", "do_sample": "false", "seed": "3", "stop": "x", "best_of": "2"}
    request = parsed(task, **said)
    assert (request.max_tokens, request.sampling, request.seed) == (7, Sampling(temperature=0), 3)
    assert (request.stops, request.best_of) == (("x",), 2)


def test_none_stands_for_what_is_the_default(task: TextGeneration) -> None:
    names = ("temperature", "top_k", "top_p", "stop", "seed", "best_of", "top_n_tokens", "do_sample")
    assert parsed(task, max_new_tokens=5, **dict.fromkeys(names)).sampling == Sampling()


def test_without_sampling_each_token_is_the_likeliest_whatever_the_temperature(task: TextGeneration) -> None:
    assert parsed(task, do_sample=False, temperature=2, max_new_tokens=5).sampling.temperature == 0


def test_scores_come_with_what_shows_them(task: TextGeneration) -> None:
    for said, expected in (
        ({}, None),
        ({"details": True}, 0),
        ({"top_n_tokens": 3}, 3),
        ({"details": True, "top_n_tokens": 5}, 5),
        ({"decoder_input_details": True}, 0),
    ):
        assert parsed(task, max_new_tokens=5, **said).top_scores == expected


def test_requests_without_a_seed_have_one_each(task: TextGeneration) -> None:
    seeds = {parsed(task, max_new_tokens=5).seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63, 2**64 - 1])
def test_seeds_of_64_bits_are_taken_with_a_sign_and_without(task: TextGeneration, seed: int) -> None:
    assert parsed(task, max_new_tokens=5, seed=seed).seed == seed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 101),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "warm"),
        ("temperature", [1]),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", 2**31 + 1),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", "nan"),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", -1),
        ("repetition_penalty", "inf"),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", "nan"),
        ("presence_penalty", -2.1),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("seed", "x"),
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 1.5),
        ("best_of", 0),
        ("best_of", 21),
        ("top_n_tokens", 0),
        ("top_n_tokens", 21),
        ("truncate", 0),
        ("do_sample", "maybe"),
        ("stop", ""),
        ("stop", [""]),
        ("stop", ["a", 1]),
        ("stop", ["a" * 257]),
        ("stop", ["a"] * 17),
        ("stop", {"a": 1}),
        ("max_tokens", 5),
        ("Temperature", 1),
        ("", 1),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_name_with_those_there_are(
    task: TextGeneration, name: str, value: object
) -> None:
    message = refusal(task, **{name: value})
    assert message.startswith(f"parameter '{name}")
    assert message.endswith("details, decoder_input_details, top_n_tokens, best_of, truncate)")
    assert "(allowed: temperature, top_k, top_p, repetition_penalty, " in message


def test_what_a_stop_string_may_be_is_said(task: TextGeneration) -> None:
    assert "at most 16 texts of 1 to 256 characters" in refusal(task, stop=["a"] * 17)
    assert "at most 16 texts of 1 to 256 characters" in refusal(task, stop=[1] * 17), "none of them is looked at"


def test_a_request_has_not_so_many_parameters_that_all_must_be_wrong(task: TextGeneration) -> None:
    assert "there are 101 names, and 100 may be (allowed: temperature," in refusal(
        task, **{f"name_{number}": 1 for number in range(101)}
    )


def test_no_more_tokens_may_be_asked_for_than_the_server_gives(task: TextGeneration) -> None:
    assert parsed(task, max_new_tokens=50).max_tokens == 50
    assert refusal(task, max_new_tokens=51) == "max_new_tokens may be at most 50 (INFERD_MAX_NEW_TOKENS), not 51"


# Prompts


@pytest.mark.parametrize("inputs", [None, 7, True, ["abc"], {"text": "abc"}])
def test_what_is_neither_text_nor_bytes_is_no_prompt(task: TextGeneration, inputs: object) -> None:
    assert refusal(task, inputs) == "inputs must be the prompt, a text"


def test_a_prompt_may_come_as_utf_8(task: TextGeneration) -> None:
    assert parsed(task, "gruß".encode(), max_new_tokens=5).prompts == [encode("gruß")]
    assert refusal(task, b"a\xff").startswith("the prompt is no UTF-8 text (")


def test_an_empty_prompt_stands_for_the_start(task: TextGeneration) -> None:
    for inputs in ("", b""):
        assert parsed(task, inputs, max_new_tokens=5).prompts == [encode("\n")]


def test_characters_that_are_unknown_are_replaced_or_named(task: TextGeneration) -> None:
    assert parsed(task, "ä…", max_new_tokens=5).prompts == [encode("a...")]
    assert "the model does not know 'Q' (U+0051 LATIN CAPITAL LETTER Q)" in refusal(task, "Q", max_new_tokens=5)


def test_a_prompt_has_as_many_tokens_as_the_server_takes(task: TextGeneration) -> None:
    assert parsed(task, "a" * 12, max_new_tokens=5).prompts == [encode("a" * 12)]
    for inputs, length in (("a" * 13, 13), ("a" * 10 + "…", 13)):
        with pytest.raises(TooLarge, match=rf"at most 12 tokens \(INFERD_MAX_PROMPT_TOKENS\); this one has {length}"):
            task.parse(inputs, {"max_new_tokens": 5})
    assert parsed(task, "b" * 100 + "a", truncate=3, max_new_tokens=5).prompts == [encode("bba")]
    with pytest.raises(TooLarge):
        task.parse("a" * 100, {"truncate": 13, "max_new_tokens": 5})


@pytest.mark.parametrize("tokens", [[-1], [len(VOCABULARY)], [0, 10**9]])
def test_tokens_must_be_those_of_the_model(task: TextGeneration, tokens: Sequence[int]) -> None:
    with pytest.raises(BadInput, match=f"a whole number from 0 to {len(VOCABULARY) - 1}"):
        task.checked(tokens)


def test_a_prompt_of_tokens_is_taken_as_it_is(task: TextGeneration) -> None:
    assert task.checked([0, len(VOCABULARY) - 1]) == [0, len(VOCABULARY) - 1]
    assert task.checked([]) == encode("\n")
    with pytest.raises(TooLarge):
        task.checked([0] * 13)


# Requests of the Open Inference Protocol


def test_tensors_have_a_dialect_of_their_own_and_may_say_what_means_nothing(task: TextGeneration) -> None:
    said = {"max_tokens": 3, "temperature": 0, "seed": 4, "stop": "x", "priority": 1, "binary_data_output": True}
    assert task.parse_tensors(["a", "bc"], said) == TextRequest(
        prompts=[encode("a"), encode("bc")], sampling=Sampling(temperature=0), max_tokens=3, seed=4, stops=("x",)
    )
    assert task.parse_tensors(["a"], {}).max_tokens == 20
    assert task.parse_tensors(["a"], {"max_tokens": None, "temperature": None}).max_tokens == 20


def test_tensors_are_refused_as_requests_are(task: TextGeneration) -> None:
    for prompts, said, message in (
        ([], {}, "a request needs at least one prompt"),
        (["a", "Q"], {}, "the model does not know 'Q'"),
        (["a" * 13], {}, "INFERD_MAX_PROMPT_TOKENS"),
        (["a"], {"max_tokens": 51}, r"max_tokens may be at most 50 \(INFERD_MAX_NEW_TOKENS\), not 51"),
        (["a"], {"max_tokens": 0}, "parameter 'max_tokens'"),
        (["a"], {"temperature": "hot"}, "parameter 'temperature'"),
    ):
        with pytest.raises(BadInput, match=message):
            task.parse_tensors(prompts, said)


# What the model says of itself


def test_a_model_says_what_it_reads_and_what_may_be_asked(task: TextGeneration) -> None:
    said = json.loads(json.dumps(task.describe()))
    assert said["input"] == {
        "characters": "".join(VOCABULARY),
        "replacements": {"ä": "a", "—": " ", "\t": " ", "…": "..."},
        "max_prompt_tokens": 12,
        "max_new_tokens": 50,
    }
    assert said["parameters"]["temperature"]["default"] == 1.0


# Bundles that do not fit


def altered(bundle: Path, *keys: str | int, to: object) -> Manifest:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return Manifest.model_validate(with_edit(content, *keys, to=to))


@pytest.mark.parametrize(
    ("keys", "to", "file", "said"),
    [
        (
            (*GRAPH, "inputs", 0, "datatype"),
            "INT32",
            "manifest.json",
            "step.onnx: input 'token' must be INT64 ('batch',)",
        ),
        (
            (*GRAPH, "inputs", 0, "shape"),
            ["batch", 1],
            "manifest.json",
            "step.onnx: input 'token' must be INT64 ('batch',)",
        ),
        (
            (*GRAPH, "outputs", 0, "shape"),
            ["batch", len(VOCABULARY) + 1],
            "vocab.json",
            f"has {len(VOCABULARY)} characters, but output 'logits' of step.onnx is FP32 ('batch', 33)",
        ),
        (
            (*GRAPH, "outputs", 0, "datatype"),
            "FP64",
            "vocab.json",
            f"has {len(VOCABULARY)} characters, but output 'logits' of step.onnx is FP64 ('batch', 32)",
        ),
        (
            (*GRAPH, "outputs", 1, "shape"),
            ["batch", HIDDEN + 1],
            "manifest.json",
            "step.onnx: state 'state' must have one shape, in and out",
        ),
        (
            (*GRAPH, "outputs", 1, "datatype"),
            "FP64",
            "manifest.json",
            "step.onnx: state 'state' must have one shape, in and out",
        ),
        (
            ("preprocessing",),
            {
                "input": "image",
                "width": 1,
                "height": 1,
                "channels": 1,
                "fit": "crop",
                "mean": [0],
                "std": [1],
            },
            "manifest.json",
            "task 'text-generation' needs a preprocessing of characters",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_the_task_is_refused_with_file_and_reason(
    bundle: Path, keys: tuple[str | int, ...], to: object, file: str, said: str
) -> None:
    manifest = altered(bundle, *keys, to=to)
    with pytest.raises(BundleRefused) as caught:
        TextGeneration(bundle, manifest, LIMITS)
    assert (caught.value.file, caught.value.problem) == (file, said)


def test_a_graph_that_is_no_step_is_refused_though_it_has_all_that_other_tasks_need(bundle: Path) -> None:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    content["postprocessing"] = {"output": "logits", "activation": "softmax", "labels": "vocab.json"}
    content = with_edit(content, *GRAPH, "step", to=None)
    with pytest.raises(
        BundleRefused, match=r"manifest\.json: step\.onnx has no step, which task 'text-generation' needs"
    ):
        TextGeneration(bundle, Manifest.model_validate(content), LIMITS)


def test_a_state_whose_size_is_open_has_no_beginning(bundle: Path) -> None:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    content = with_edit(content, *GRAPH, "inputs", 1, "shape", to=["batch", "n"])
    content = with_edit(content, *GRAPH, "outputs", 1, "shape", to=["batch", "n"])
    with pytest.raises(BundleRefused, match="state 'state' must have one shape"):
        TextGeneration(bundle, Manifest.model_validate(content), LIMITS)


def test_a_graph_that_needs_a_context_is_refused_as_nothing_makes_one(bundle: Path) -> None:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    content["variants"]["fp32"]["graphs"]["step"]["inputs"].append(
        {"name": "memory", "datatype": "FP32", "shape": ["batch", 3]}
    )
    content = with_edit(content, *GRAPH, "step", "context", to=["memory"])
    with pytest.raises(BundleRefused, match=r"step\.onnx has a context, and nothing here makes one"):
        TextGeneration(bundle, Manifest.model_validate(content), LIMITS)


def test_other_tasks_read_no_characters(models: Path) -> None:
    manifest = read_manifest(make_bundle(models))
    with pytest.raises(BundleRefused, match="task 'image-classification' needs a preprocessing of characters"):
        TextGeneration(models, manifest, LIMITS)
