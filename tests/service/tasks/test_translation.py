from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.beams import Hypothesis
from service.errors import BadInput, BundleRefused, TooLarge
from service.manifest import Manifest, read_manifest
from service.tasks import TASKS
from service.tasks.base import TaskLimits
from service.tasks.translation import MOST_SENTENCES, Translation
from service.tasks.translation_parameters import MOST_TEXTS, Parameters
from service.tasks.translation_requests import Translated, TranslationRequest
from tests.bundles import make_bundle, with_edit
from tests.translation_bundles import (
    CANDIDATES,
    END,
    PAD,
    SIZES,
    START,
    counterparts,
    encode,
    make_translation_bundle,
    translated,
)

LIMITS = TaskLimits(max_pixels=1, max_text_characters=500)
ENCODER = ("variants", "fp32", "graphs", "encoder")
DECODER = ("variants", "fp32", "graphs", "decoder")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_translation_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def task(bundle: Path) -> Translation:
    return Translation(bundle, read_manifest(bundle), LIMITS)


def parsed(task: Translation, inputs: object = "Hello.", **parameters: object) -> TranslationRequest:
    request, _ = task.parse(inputs, parameters)
    return request


def refusal(task: Translation, inputs: object = "Hello.", **parameters: object) -> str:
    with pytest.raises(BadInput) as caught:
        task.parse(inputs, parameters)
    return str(caught.value)


def word_by_word(sentence: Sequence[int], count: int = 1) -> list[Hypothesis]:
    """What a sure model finds, looking from place to place; the n-th alternative lacks the last n tokens."""
    tokens = counterparts()[list(sentence[:-1])].tolist()
    size = next(size for size in SIZES if size >= len(sentence))
    return [
        Hypothesis(
            tuple(tokens[: len(tokens) - less]), -1.0 - less, -1.0, np.eye(len(sentence) - less, size, dtype=np.float32)
        )
        for less in range(min(count, len(tokens) + 1))
    ]


def answered(task: Translation, request: TranslationRequest) -> list[Translated]:
    found = [word_by_word(sentence, request.hypotheses) for sentence in request.sentences]
    return task.put_together(request, found)


def texts_of(task: Translation, inputs: object, **parameters: object) -> list[str]:
    return [one.text for one in answered(task, parsed(task, inputs, **parameters))]


def test_the_table_of_tasks_has_it_by_its_name_on_the_hub() -> None:
    assert TASKS["translation"] is Translation


def test_a_task_knows_what_its_manifest_says(task: Translation) -> None:
    assert (task.source, task.target) == ("en", "de")
    assert (task.start, task.end) == (START, END)
    assert task.graphs == ("encoder", "decoder")
    assert (task.most_beams, task.slots_a_row) == (CANDIDATES // 2, 5)


# Requests


def test_a_text_is_cut_into_sentences_with_tokens_and_limits(task: Translation) -> None:
    request, asked = task.parse("Hello, world! we go\n\nhome", {})
    assert request.sentences == [encode("Hello, world! we go"), encode("home")]
    assert request.limits == [2 * 6 + 10, 2 * 1 + 10]
    assert (request.beams, request.length_penalty, request.hypotheses) == (5, 1.0, 1)
    assert not request.alignment
    assert asked == Parameters()


def test_several_texts_may_come_at_once(task: Translation) -> None:
    assert texts_of(task, ["Hello. Yes!", "", "the cat"]) == ["Hallo. Ja!", "", "die Katze"]
    assert texts_of(task, []) == []


def test_a_text_may_come_as_bytes(task: Translation) -> None:
    assert texts_of(task, "schön é".encode()) == ["beautiful é"]
    assert "is no UTF-8" in refusal(task, b"\xff")


def test_parameters_say_how_to_search(task: Translation) -> None:
    said = {
        "num_beams": 3,
        "length_penalty": 0.5,
        "num_return_sequences": 2,
        "max_length": 11,
        "return_alignment": True,
    }
    request = parsed(task, "Hello world and the cat.", **said)
    assert (request.beams, request.length_penalty, request.hypotheses) == (3, 0.5, 2)
    assert (request.limits, request.alignment) == ([11], True)
    assert parsed(task, "Hello", max_length=1000).limits == [12], "the model's own limit is lower"
    assert parsed(task, "Hello", max_new_tokens=7).limits == [7]


def test_parameters_may_come_as_texts_or_as_nothing(task: Translation) -> None:
    said = {"num_beams": "3", "length_penalty": "0.5", "num_return_sequences": "2", "return_alignment": "true"}
    request = parsed(task, **said)
    assert (request.beams, request.length_penalty, request.hypotheses, request.alignment) == (3, 0.5, 2, True)
    nothing: dict[str, object] = dict.fromkeys(Parameters.model_fields)
    assert parsed(task, **nothing) == parsed(task)


def test_parameters_may_be_nested_as_hugging_face_sends_them(task: Translation) -> None:
    nested = {"num_beams": 2, "max_length": 5, "do_sample": False}
    assert parsed(task, generate_parameters=nested) == parsed(task, num_beams=2, max_length=5)
    assert parsed(task, generate_parameters=nested, num_beams=3).beams == 3, "what is not nested comes first"
    assert "parameter 'warp'" in refusal(task, generate_parameters={"warp": 9})
    assert "parameter 'generate_parameters'" in refusal(task, generate_parameters=3)
    many = {f"name_{number}": 1 for number in range(101)}
    assert "there are 101 names, and 100 may be" in refusal(task, generate_parameters=many)


def test_what_means_nothing_here_is_read(task: Translation) -> None:
    said: dict[str, object] = {"clean_up_tokenization_spaces": False, "truncation": "only_first", "do_sample": False}
    assert parsed(task, **said) == parsed(task)


def test_who_wants_more_translations_than_beams_gets_more_beams(task: Translation) -> None:
    assert parsed(task, num_return_sequences=7).beams == 7
    assert parsed(task, num_return_sequences=2).beams == 5


@pytest.mark.parametrize("said", [("en", "de"), ("EN", "DE"), ("en_XX", "de_DE"), ("en-US", "de-AT")])
def test_the_languages_may_be_said_if_they_are_the_models(task: Translation, said: tuple[str, str]) -> None:
    assert parsed(task, src_lang=said[0], tgt_lang=said[1]) == parsed(task)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"src_lang": "fr"}, "this model translates from 'en' to 'de'; src_lang may be 'en' alone, not 'fr'"),
        ({"tgt_lang": "en"}, "this model translates from 'en' to 'de'; tgt_lang may be 'de' alone, not 'en'"),
        ({"tgt_lang": ""}, "tgt_lang may be 'de' alone, not ''"),
        ({"num_beams": 0}, "parameter 'num_beams'"),
        ({"num_beams": 9}, "num_beams may be at most 8, not 9"),
        ({"num_return_sequences": 0}, "parameter 'num_return_sequences'"),
        ({"num_return_sequences": 9}, "num_return_sequences may be at most 8, not 9"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences may be at most num_beams, which is 2, not 3",
        ),
        ({"length_penalty": -1}, "parameter 'length_penalty'"),
        ({"length_penalty": 11}, "parameter 'length_penalty'"),
        ({"length_penalty": float("nan")}, "parameter 'length_penalty'"),
        ({"max_length": 0}, "parameter 'max_length'"),
        ({"do_sample": True}, "parameter 'do_sample'"),
        ({"truncation": "all"}, "parameter 'truncation'"),
        ({"temperature": 1}, "parameter 'temperature': Extra inputs are not permitted (allowed: src_lang, tgt_lang,"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_its_name(
    task: Translation, parameters: dict[str, object], message: str
) -> None:
    assert message in refusal(task, **parameters)


@pytest.mark.parametrize("inputs", [None, 3, {"text": "Hello"}, ["Hello", 3], [["Hello"]], "half \ud83d", ["\udc00"]])
def test_what_is_no_text_is_refused(task: Translation, inputs: object) -> None:
    refusal(task, inputs)


def test_more_than_a_request_may_have_is_too_large_and_names_the_limit(task: Translation) -> None:
    texts_of(task, "x" * 500)
    texts_of(task, ["x"] * MOST_TEXTS)
    for inputs, message in (
        ("x" * 501, "at most 500 characters (INFERD_MAX_TEXT_CHARACTERS); this one has 501"),
        (["x", "x" * 502], "this one has 502"),
        (["x"] * (MOST_TEXTS + 1), f"at most {MOST_TEXTS} texts; this one has {MOST_TEXTS + 1}"),
        (["So. " * 100] * 11, f"at most {MOST_SENTENCES} sentences"),
    ):
        with pytest.raises(TooLarge) as caught:
            task.parse(inputs, {})
        assert message in str(caught.value)


def test_what_takes_long_to_read_is_heavy(task: Translation) -> None:
    assert not task.is_heavy("Hello")
    assert not task.is_heavy(["Hello", "world"])
    assert task.is_heavy("a " * 500)
    assert task.is_heavy(["a " * 50] * 20)
    assert not task.is_heavy(None)


def test_tensors_are_texts_and_parameters_that_mean_nothing_are_let_through(task: Translation) -> None:
    said = {
        "num_beams": 2,
        "max_length": 5,
        "binary_data_output": True,
        "num_return_sequences": 4,
        "return_alignment": True,
    }
    request = task.parse_tensors(["Hello.", "Yes"], said)
    assert request == parsed(task, ["Hello.", "Yes"], num_beams=2, max_length=5)
    with pytest.raises(BadInput, match="a request needs at least one text"):
        task.parse_tensors([], {})
    with pytest.raises(BadInput, match="num_beams may be at most 8"):
        task.parse_tensors(["Hello"], {"num_beams": 9})


# The encoder's inputs


def test_a_sentence_is_padded_to_a_size_that_depends_on_it_alone(task: Translation) -> None:
    sentence = encode("we go home.")
    inputs = task.encode(sentence)
    assert inputs["tokens"].tolist() == [[*sentence, PAD, PAD, PAD]]
    assert inputs["lengths"].tolist() == [5]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}
    sizes = [task.encode([5] * length)["tokens"].shape for length in (1, 8, 9, 16, 17, 32)]
    assert sizes == [(1, 8), (1, 8), (1, 16), (1, 16), (1, 32), (1, 32)]


def test_a_sentence_that_is_too_long_is_translated_in_parts(task: Translation) -> None:
    text = "the cat sees the dog and " * 15
    request = parsed(task, text)
    assert len(request.sentences) > 1
    assert all(len(sentence) <= SIZES[-1] for sentence in request.sentences)
    assert answered(task, request)[0].text == "die Katze sieht die Hund und " * 15


def test_a_long_word_and_long_emoji_are_cut_and_come_back(task: Translation) -> None:
    for text in ("x" * 200, "a" + "😀" * 100, "e\u0301" * 100, "مرحبا" * 30):
        request = parsed(task, text)
        assert len(request.sentences) > 1
        assert all(len(sentence) <= SIZES[-1] for sentence in request.sentences)
        assert answered(task, request)[0].text == task.tokens.decode(task.tokens.encode(text))


# Putting together


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  \n ", "  \n "),
        ("😀", "😀"),
        ("!!! 123 ...", "!!! 123 ..."),
        ("  Hello.\n\n\tYes!  \r\n", "  Hallo.\n\n\tJa!  \r\n"),
        ("- the cat\n- the dog", "- die Katze\n- die Hund"),
        ("Hello 😀 world 😀", "Hallo 😀 Welt 😀"),
        ("Yes. שלום עולם.", "Ja. שלום עולם."),
        ("see https://example.org/the?cat=a, <b>the</b> cat", "see https://example.org/the?cat=a, <b>die</b> Katze"),
        ("the &amp; cat", "die &amp; Katze"),
        ("the  cat\tsees", "die Katze sieht"),
    ],
)
def test_all_that_is_no_sentence_stays_as_it_was(task: Translation, text: str, expected: str) -> None:
    assert texts_of(task, text) == [expected]


@given(st.text(max_size=60))
def test_what_lies_between_sentences_is_in_the_request_as_it_was(bundle: Path, text: str) -> None:
    task = Translation(bundle, read_manifest(bundle), LIMITS)
    request = parsed(task, text)
    (pieces,) = request.texts
    assert "".join(one if isinstance(one, str) else request.sources[one].text for one in pieces) == text
    assert all(text[source.start :].startswith(source.text) for source in request.sources)


def test_the_nth_alternative_has_the_nth_best_of_every_sentence(task: Translation) -> None:
    request = parsed(task, "the cat sees.\nYes", num_return_sequences=4)
    (one,) = answered(task, request)
    assert one.text == "die Katze sieht.\nJa"
    # "Yes" has two translations; after them its best is taken.
    assert list(one.alternatives) == ["die Katze sieht\n", "die Katze\nJa", "die\nJa"]


def test_alternatives_that_are_the_same_come_once(task: Translation) -> None:
    request = parsed(task, "the cat", num_return_sequences=3)
    best = word_by_word(request.sentences[0])[0]
    assert task.put_together(request, [[best, best, best]]) == [Translated("die Katze", [])]


def test_a_text_with_no_sentence_has_no_alternatives(task: Translation) -> None:
    assert answered(task, parsed(task, ["", "😀"], num_return_sequences=3)) == [
        Translated("", []),
        Translated("😀", []),
    ]


# HTML


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("<p>Hello <b>world</b>.</p>", "<p>Hallo <b>Welt</b>.</p>"),
        ("the cat &amp; the dog", "die Katze &amp; die Hund"),
        ("&lt;b&gt; the cat &lt;/b&gt;", "&lt;b&gt; die Katze &lt;/b&gt;"),
        ("<br>&nbsp;&copy; 5<hr>", "<br>&nbsp;&copy; 5<hr>"),
        ("sch&ouml;n", "beautiful"),
        ('<i title="the cat">the</i>', '<i title="the cat">die</i>'),
        (
            '<p translate="no">the cat</p><code>the</code><script>the</script> the',
            '<p translate="no">the cat</p><code>the</code><script>the</script> die',
        ),
    ],
)
def test_of_html_the_text_is_translated_and_the_tags_stay(task: Translation, document: str, expected: str) -> None:
    request = task.request([document], markup=True, alignment=True)
    (one,) = answered(task, request)
    assert one == Translated(expected, [])


# Alignment


def test_an_alignment_says_where_the_model_looked(task: Translation) -> None:
    text = "Yes.\n the  cat é😀"
    request = parsed(task, text, return_alignment=True)
    (one,) = answered(task, request)
    assert one.text == "Ja.\n die Katze é😀"
    assert one.alignment is not None
    first, second = json.loads(json.dumps(one.alignment))
    assert first == {
        "source": [
            {"text": "Yes", "start": 0, "end": 3},
            {"text": ".", "start": 3, "end": 4},
            {"text": "", "start": 4, "end": 4},
        ],
        "target": [
            {"text": "Ja", "start": 0, "end": 2},
            {"text": ".", "start": 2, "end": 3},
            {"text": "", "start": 3, "end": 3},
        ],
        "weights": np.eye(3).tolist(),
    }
    assert [piece["text"] for piece in second["source"]] == ["the", "  cat", " ", "é", "😀", ""]
    assert [piece["text"] for piece in second["target"]] == ["die", " Katze", " ", "é", "😀", ""]
    for side, whole in (("source", text), ("target", one.text)):
        assert all(whole[piece["start"] : piece["end"]] == piece["text"] for piece in second[side])
    # What is read and written byte by byte: the weights of a character's bytes add up, their rows are averaged.
    assert second["weights"] == np.eye(6).tolist()


def test_bytes_of_a_character_are_one_piece(task: Translation) -> None:
    request = parsed(task, "a😀", return_alignment=True)  # ▁, a, and four bytes
    (tokens,) = request.sentences
    looked = np.zeros((2, 8), np.float32)
    looked[0, [0, 1, 2, 3, 6]] = 0.1, 0.1, 0.25, 0.25, 0.3
    looked[1, 6] = 1
    found = [[Hypothesis((counterparts()[tokens[1]],), 0.0, 0.0, looked)]]
    (one,) = task.put_together(request, found)
    assert one.alignment is not None
    assert [piece["text"] for piece in one.alignment[0]["source"]] == ["a", "😀", ""]  # type: ignore[attr-defined]
    assert one.alignment[0]["weights"] == [[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]


def test_a_translation_that_was_cut_off_has_no_end_to_align(task: Translation) -> None:
    request = parsed(task, "the cat", return_alignment=True)
    (sentence,) = request.sentences
    found = [[Hypothesis((int(counterparts()[sentence[0]]),), 0.0, 0.0, np.eye(1, 8, dtype=np.float32))]]
    (one,) = task.put_together(request, found)
    assert one.alignment is not None
    assert one.alignment[0]["target"] == [{"text": "die", "start": 0, "end": 3}]
    assert one.alignment[0]["weights"] == [[1.0, 0.0, 0.0]]


def test_a_translation_of_nothing_has_its_end(task: Translation) -> None:
    request = parsed(task, "the", return_alignment=True)
    found = [[Hypothesis((), 0.0, 0.0, np.eye(1, 8, dtype=np.float32))]]
    (one,) = task.put_together(request, found)
    assert one.text == ""
    assert one.alignment is not None
    assert one.alignment[0]["target"] == [{"text": "", "start": 0, "end": 0}]
    assert one.alignment[0]["weights"] == [[1.0, 0.0]]


# What the model says of itself


def test_a_model_says_what_it_reads_and_what_may_be_asked(task: Translation) -> None:
    said = json.loads(json.dumps(task.describe()))
    assert (said["source"], said["target"]) == ("en", "de")
    assert said["input"] == {
        "max_text_characters": 500,
        "max_texts": MOST_TEXTS,
        "max_sentences": MOST_SENTENCES,
        "max_sentence_tokens": 31,
    }
    assert said["search"] == {"num_beams": 5, "most_beams": 8, "length_penalty": 1.0}
    assert set(said["parameters"]) == set(Parameters.model_fields)


def test_the_expected_translations_are_the_bundles(task: Translation) -> None:
    assert texts_of(task, "the cat is now beautiful") == [translated("the cat is now beautiful")]


# Bundles that do not fit


def altered(bundle: Path, *keys: str | int, to: object) -> Manifest:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return Manifest.model_validate(with_edit(content, *keys, to=to))


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("preprocessing", "sizes"), [8], "the largest of sizes must be at least 16, not 8"),
        (("postprocessing", "beams"), 9, "9 beams need 18 candidates; a graph picks 16"),
        ((*ENCODER, "inputs", 0, "name"), "words", "encoder.onnx must have the inputs 'tokens' and 'lengths'"),
        (
            (*ENCODER, "inputs", 0, "datatype"),
            "INT32",
            "encoder.onnx: 'tokens' is INT32 ('batch', 'source'), not INT64",
        ),
        (
            (*ENCODER, "inputs", 1, "shape"),
            ["batch", 1],
            "encoder.onnx: 'lengths' is INT64 ('batch', 1), not INT64 ('batch',)",
        ),
        ((*ENCODER, "outputs", 0, "name"), "notes", "encoder.onnx does not answer 'memory', which decoder.onnx needs"),
        (
            (*ENCODER, "outputs", 0, "shape"),
            ["batch", "source", 3],
            "encoder.onnx: 'memory' is FP32 ('batch', 'source', 3), not",
        ),
        ((*ENCODER, "outputs", 1, "datatype"), "FP32", "encoder.onnx: 'present' is FP32 ('batch', 'source'), not BOOL"),
        (
            (*ENCODER, "outputs", 2, "shape"),
            ["batch", 2, 2, 32],
            "encoder.onnx: 'state' is FP32 ('batch', 2, 2, 32), not",
        ),
        (
            (*DECODER, "inputs", 0, "datatype"),
            "INT32",
            "decoder.onnx: 'token' is INT32 ('batch',), not INT64 ('batch',)",
        ),
        ((*DECODER, "inputs", 1, "shape"), ["batch", 2, "n", 32], "decoder.onnx: state 'state' must have one shape"),
        (
            (*DECODER, "outputs", 0, "shape"),
            ["batch", "k"],
            "decoder.onnx: the shape of 'tokens' must tell how many there are",
        ),
        (
            (*DECODER, "outputs", 1, "shape"),
            ["batch", 15],
            "decoder.onnx: 'logprobs' is FP32 ('batch', 15), not FP32 ('batch', 16)",
        ),
        (
            (*DECODER, "outputs", 2, "shape"),
            ["batch", 2, 1, 31],
            "decoder.onnx: 'next_state' is FP32 ('batch', 2, 1, 31), not",
        ),
        (
            (*DECODER, "outputs", 3, "datatype"),
            "FP64",
            "decoder.onnx: 'attention' is FP64 ('batch', 'source'), not FP32",
        ),
        ((*DECODER, "step"), None, "decoder must be a step that picks candidates, and encoder no step"),
        (DECODER, ..., "a translation needs the graphs encoder and decoder"),
    ],
)
def test_a_manifest_that_does_not_fit_the_task_is_refused_with_the_reason(
    bundle: Path, keys: tuple[str | int, ...], to: object, said: str
) -> None:
    manifest = altered(bundle, *keys, to=to)
    with pytest.raises(BundleRefused) as caught:
        Translation(bundle, manifest, LIMITS)
    assert caught.value.file == "manifest.json"
    assert said in caught.value.problem


def test_a_context_that_is_no_sentence_long_is_refused(bundle: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_bytes())
    for keys in ((*ENCODER, "outputs", 1, "shape"), (*DECODER, "inputs", 3, "shape")):
        content = with_edit(content, *keys, to=["batch", 4])
    with pytest.raises(BundleRefused, match="the second axis of 'present' must be the sentence's"):
        Translation(bundle, Manifest.model_validate(content), LIMITS)


def test_a_model_that_does_not_tell_where_it_looked_translates_without(bundle: Path) -> None:
    content = with_edit(json.loads((bundle / "manifest.json").read_bytes()), *DECODER, "step", "attention", to=...)
    content = with_edit(content, *DECODER, "outputs", 3, to=...)
    task = Translation(bundle, Manifest.model_validate(content), LIMITS)
    assert len(task.parse("Hello", {})[0].sentences) == 1
    with pytest.raises(BadInput, match="this model does not tell where it looked") as caught:
        task.parse("Hello", {"return_alignment": True})
    assert caught.value.parameter == "return_alignment"


def test_other_tasks_do_not_translate(models: Path, bundle: Path) -> None:
    manifest = read_manifest(make_bundle(models))
    with pytest.raises(BundleRefused, match="task 'image-classification' needs a preprocessing of a tokenizer"):
        Translation(models, manifest, LIMITS)
    classifies = {"kind": "classification", "output": "logprobs", "activation": "none", "labels": "tokenizer.json"}
    with pytest.raises(BundleRefused, match="task 'translation' needs a postprocessing of a translation"):
        Translation(bundle, altered(bundle, "postprocessing", to=classifies), LIMITS)
