"""What a model is asked, tried out on a server that serves one model of each kind."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bench.address import Address
from service.bench.description import Described
from service.bench.inputs import SENTENCES
from service.bench.messages import Request
from service.bench.scenario import Scenario, Wanted, make_scenario, problem_of
from tests.bundles import HEIGHT, LABELS, WIDTH, entangled_graph, identities_graph, make_bare, make_bundle
from tests.e2e.server import running_server
from tests.image_bundles import LATENT, make_image_bundle
from tests.service.bench.scripted import HANG_UP, STREAM_END, STREAM_HEAD, answer, chunk, scripted
from tests.service.painting import pixels_of
from tests.text_bundles import VOCABULARY, make_text_bundle
from tests.translation_bundles import make_translation_bundle

KINDS = {"x": ("FP32", ("batch", 3)), "flags": ("BOOL", ("batch", 2)), "names": ("BYTES", ("batch",))}
KINDS |= {"halves": ("FP16", ("batch", 2)), "counts": ("INT64", ("batch", "length"))}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, version=1)
    make_bundle(models, version=2)
    make_text_bundle(models)
    make_translation_bundle(models)
    make_translation_bundle(models, "tiny-fi-sv", source="fi", target="sv")
    make_image_bundle(models)
    make_image_bundle(models, "by-label", texts=False)
    make_image_bundle(models, "whatever", classes=False, channels=3)
    make_bare(models)
    make_bare(models, "kinds", graph=identities_graph(KINDS))
    make_bare(models, "alone", graph=entangled_graph())
    make_bare(models, "brain", graph=identities_graph({"x": ("BF16", ("batch", 3))}))
    with running_server(models=models, max_new_tokens=60) as server:
        yield Address.of(server.url)


def scenario(address: Address, model: str, protocol: str | None = None, **others: Any) -> Scenario:
    """A scenario that the server answers, every request of it."""
    shapes = others.pop("shapes", None)
    wanted = Wanted(model, protocol=protocol, **others)
    made = make_scenario(address, wanted, Described.of(address, model, wanted.version), shapes)
    assert [problem_of(address, one) for one in made.requests] == [""] * len(made.requests)
    return made


def parts(request: Request) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a request."""
    head, _, body = request.content.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    return first.split()[1], headers, body


def bodies(made: Scenario) -> list[Any]:
    return [json.loads(parts(one)[2]) for one in made.requests]


# Pictures


def test_a_classifier_is_asked_for_different_pictures_of_noise_in_its_own_size(address: Address) -> None:
    made = scenario(address, "tiny")
    assert (made.protocol, made.unit, len(made.requests)) == ("predict", "images", 64)
    assert made.about == "pictures of noise, PNG, 6x4, grey"
    path, headers, body = parts(made.requests[0])
    assert (path, headers["content-type"]) == ("/predict/tiny", "image/png")
    pixels = pixels_of(body)
    assert pixels.shape == (HEIGHT, WIDTH, 1)
    assert pixels.std() > 30
    assert len({one.content for one in made.requests}) == 64
    assert {one.units for one in made.requests} == {1}
    assert [one.content for one in made.requests] == [one.content for one in scenario(address, "tiny").requests]


def test_a_version_may_be_named(address: Address) -> None:
    assert parts(scenario(address, "tiny", version=1).requests[0])[0] == "/predict/tiny/versions/1"
    made = scenario(address, "tiny", "infer", version=1)
    assert parts(made.requests[0])[0] == "/v2/models/tiny/versions/1/infer"
    with pytest.raises(ValueError, match="answered 404"):
        scenario(address, "tiny", version=3)


def test_a_picture_of_ones_own_is_sent_as_it_is(address: Address, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(parts(scenario(address, "tiny").requests[7])[2])
    made = scenario(address, "tiny", input=picture)
    (request,) = made.requests
    assert parts(request)[1]["content-type"] == "image/png"
    assert parts(request)[2] == picture.read_bytes()
    assert made.about == "the picture a.png"


# Tensors


def test_tensors_are_asked_in_json_and_as_raw_bytes_and_both_say_the_same(address: Address) -> None:
    in_json = scenario(address, "kinds", "infer", rows=3)
    (path, headers, _), body = parts(in_json.requests[0]), bodies(in_json)[0]
    assert (path, headers["content-type"]) == ("/v2/models/kinds/infer", "application/json")
    shapes = {"x": [3, 3], "flags": [3, 2], "names": [3], "halves": [3, 2], "counts": [3, 8]}
    assert {one["name"]: one["shape"] for one in body["inputs"]} == shapes
    data = {one["name"]: one["data"] for one in body["inputs"]}
    assert len(set(data["x"])) == 9
    assert set(data["flags"]) <= {True, False}
    assert set(data["names"]) <= {"a", "b"}
    assert set(data["counts"]) == {0, 1}
    assert {one.units for one in in_json.requests} == {3} == {in_json.rows}
    assert in_json.unit == "rows"

    raw = scenario(address, "kinds", "infer-binary", rows=3)
    path, headers, content = parts(raw.requests[0])
    length = int(headers["inference-header-content-length"])
    header = json.loads(content[:length])
    assert (path, headers["content-type"]) == ("/v2/models/kinds/infer", "application/octet-stream")
    assert header["parameters"] == {"binary_data_output": True}
    pieces = {}
    for one in header["inputs"]:
        size = one["parameters"]["binary_data_size"]
        pieces[one["name"]], content = content[length : length + size], content[size:]
    assert np.frombuffer(pieces["x"], np.float32) == pytest.approx(data["x"], abs=1e-7)
    assert np.frombuffer(pieces["halves"], np.float16) == pytest.approx(data["halves"], abs=1e-7)
    assert np.frombuffer(pieces["counts"], np.int64).tolist() == data["counts"]
    assert np.frombuffer(pieces["flags"], bool).tolist() == data["flags"]
    assert pieces["names"] == b"".join(b"\x01\0\0\0" + text.encode() for text in data["names"])


def test_tensors_may_be_asked_by_predict_too(address: Address) -> None:
    made = scenario(address, "kinds", rows=2)
    assert made.protocol == "predict"
    body = bodies(made)[0]["inputs"]
    assert {name: np.shape(value) for name, value in body.items()} == {
        "x": (2, 3),
        "flags": (2, 2),
        "names": (2,),
        "halves": (2, 2),
        "counts": (2, 8),
    }
    assert {one.units for one in made.requests} == {2}


def test_sizes_that_are_known_better_are_taken(address: Address) -> None:
    made = scenario(address, "kinds", "infer", shapes={"counts": [5], "x": [3]})
    assert {one["name"]: one["shape"] for one in bodies(made)[0]["inputs"]}["counts"] == [1, 5]
    assert "counts INT64 [1, 5]" in made.about


def test_a_graph_without_a_batch_is_asked_for_one_input_at_a_time(address: Address) -> None:
    made = scenario(address, "alone", "infer")
    assert bodies(made)[0]["inputs"][0]["shape"] == [8, 3]
    assert {one.units for one in made.requests} == {1}
    with pytest.raises(ValueError, match="--rows is 2, but alone takes one input at a time"):
        scenario(address, "alone", "infer", rows=2)


def test_what_has_no_form_in_json_is_asked_as_raw_bytes(address: Address) -> None:
    assert len(scenario(address, "brain", "infer-binary").requests) == 64
    with pytest.raises(ValueError, match=r"does not answer the request that was made up for brain: 400 .*--json"):
        scenario(address, "brain", "infer")


def test_so_many_large_requests_are_made_as_are_worth_their_memory(address: Address) -> None:
    made = scenario(address, "kinds", "infer-binary", shapes={"counts": [500_000]})
    assert len(made.requests) == 4


# Texts


def test_texts_are_continued_in_different_lengths_so_that_they_end_at_different_times(address: Address) -> None:
    made = scenario(address, "tiny-text")
    assert (made.protocol, made.unit, made.streamed) == ("generate-stream", "tokens", True)
    asked = bodies(made)
    assert parts(made.requests[0])[0] == "/v2/models/tiny-text/generate_stream"
    assert len({one["text_input"] for one in asked}) == 64
    assert set("".join(one["text_input"] for one in asked)) <= set(VOCABULARY)
    lengths = [one["parameters"]["max_tokens"] for one in asked]
    assert [one.units for one in made.requests] == lengths
    assert made.rows == 1
    assert (min(lengths), max(lengths)) == (20, 60)  # as INFERD_MAX_NEW_TOKENS allows
    assert statistics.mean(lengths) == pytest.approx(40, abs=1)
    assert lengths != sorted(lengths)
    assert made.about == "64 prompts, 20 to 60 tokens each"


@pytest.mark.parametrize(
    ("protocol", "path", "name"),
    [
        ("predict", "/predict/tiny-text", "max_new_tokens"),
        ("infer", "/v2/models/tiny-text/infer", "max_tokens"),
        ("generate-stream", "/v2/models/tiny-text/generate_stream", "max_tokens"),
    ],
)
def test_parameters_come_with_every_prompt(address: Address, protocol: str, path: str, name: str) -> None:
    made = scenario(address, "tiny-text", protocol, parameters={name: 7, "temperature": 0.5})
    assert parts(made.requests[0])[0] == path
    assert {json.dumps(one["parameters"]) for one in bodies(made)} == {json.dumps({name: 7, "temperature": 0.5})}
    assert {one.units for one in made.requests} == {7}
    assert made.about == "64 prompts, 7 tokens each"


def test_texts_may_be_asked_as_raw_bytes(address: Address) -> None:
    made = scenario(address, "tiny-text", "infer-binary", parameters={"max_tokens": 5})
    _, headers, body = parts(made.requests[0])
    header = json.loads(body[: int(headers["inference-header-content-length"])])
    assert header["parameters"] == {"binary_data_output": True, "max_tokens": 5}
    assert header["inputs"][0]["name"] == "text_input"


@pytest.mark.parametrize("protocol", ["predict", "infer", "infer-binary"])
def test_a_translator_is_asked_for_sentences_of_its_language(address: Address, protocol: str) -> None:
    made = scenario(address, "tiny-en-de", protocol, parameters={"num_beams": 1})
    assert made.texts == SENTENCES["en"]
    assert (made.unit, len(made.requests), made.about) == ("texts", 16, "16 sentences")
    assert made.parameters == {"num_beams": 1}
    if protocol == "predict":
        assert bodies(made)[3] == {"inputs": SENTENCES["en"][3], "parameters": {"num_beams": 1}}
    assert made.counts_units


def test_in_a_language_that_is_not_known_sentences_are_english(address: Address) -> None:
    assert scenario(address, "tiny-fi-sv").texts == SENTENCES["en"]


def test_texts_of_ones_own_come_a_line_each(address: Address, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("cat one\n\ncat two\n", encoding="utf-8")
    made = scenario(address, "tiny-en-de", input=file)
    assert [one["inputs"] for one in bodies(made)] == ["cat one", "cat two"]
    assert made.texts == ["cat one", "cat two"]
    file.write_text("hello\nworld\n", encoding="utf-8")
    assert [one["text_input"] for one in bodies(scenario(address, "tiny-text", input=file))] == ["hello", "world"]
    file.write_text("\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"texts\.txt has no texts"):
        scenario(address, "tiny-text", input=file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"texts\.txt must have a text a line"):
        scenario(address, "tiny-text", input=file)


# Pictures that are drawn


def test_a_painter_is_asked_for_all_of_its_labels_by_texts_or_by_name(address: Address) -> None:
    made = scenario(address, "tiny-painter")
    assert [one["inputs"] for one in bodies(made)] == [f"a picture of: {label}" for label in LABELS]
    assert (made.unit, made.about) == ("images", "texts that name 3 labels")
    by_label = scenario(address, "by-label", parameters={"num_images": 3})
    assert [one["parameters"]["label"] for one in bodies(by_label)] == list(LABELS)
    assert {one.units for one in by_label.requests} == {3}
    assert bodies(scenario(address, "whatever")) == [{"parameters": {}}]


def test_a_painter_takes_latents_as_tensors(address: Address) -> None:
    shapes = {
        one["name"]: one["shape"] for one in bodies(scenario(address, "tiny-painter", "infer", rows=2))[0]["inputs"]
    }
    assert shapes == {"latent": [2, LATENT], "condition": [2, len(LABELS)]}


# Bodies of one's own


@pytest.mark.parametrize(
    ("model", "protocol", "body", "units"),
    [
        ("bare", "infer", {"inputs": [{"name": "x", "shape": [5, 3], "datatype": "FP32", "data": [0.5] * 15}]}, 5),
        ("bare", "predict", {"inputs": {"x": [[1, 2, 3], [4, 5, 6]]}}, 2),
        ("bare", "predict", {"inputs": [[1, 2, 3]] * 4}, 4),
        ("alone", "infer", {"inputs": [{"name": "x", "shape": [5, 3], "datatype": "FP32", "data": [0.5] * 15}]}, 1),
        ("tiny-text", "generate-stream", {"text_input": "a", "parameters": {"max_tokens": 9}}, 9),
        ("tiny-text", "predict", {"inputs": "a", "parameters": {"max_new_tokens": 9}}, 9),
        ("tiny-text", "predict", {"inputs": "a"}, 0),
        ("tiny-en-de", "predict", {"inputs": ["cat", "two cat"], "parameters": {"num_beams": 2}}, 2),
        ("tiny-en-de", "predict", {"inputs": "cat"}, 1),
        (
            "tiny-en-de",
            "infer",
            {"inputs": [{"name": "text_input", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}]},
            2,
        ),
        ("tiny-painter", "predict", {"inputs": "dark", "parameters": {"num_images": 4}}, 4),
        ("whatever", "predict", {}, 1),
    ],
)
def test_a_body_is_sent_as_it_is_and_it_is_known_how_much_it_asks_for(
    address: Address, tmp_path: Path, model: str, protocol: str, body: dict[str, Any], units: float
) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps(body, indent=2), encoding="utf-8")
    made = scenario(address, model, protocol, body=file)
    (request,) = made.requests
    assert parts(request)[2] == file.read_bytes()
    assert request.units == units
    assert made.counts_units == (units > 0 or protocol == "generate-stream")
    assert made.about == "the body in body.json"
    if model == "tiny-en-de":
        assert len(made.texts) == units
        assert made.parameters == body.get("parameters", {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"body\.json is no JSON"),
        ("[1]", r"body\.json must have a JSON object"),
        ('{"inputs": []}', "does not answer the request that was given for bare: 400 .*nested as"),
    ],
)
def test_a_body_that_is_none_is_refused(address: Address, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "body.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        scenario(address, "bare", "predict", body=file)


# What does not go together


@pytest.mark.parametrize(
    ("model", "others", "said"),
    [
        (
            "tiny",
            {"protocol": "generate-stream"},
            "is not asked by generate-stream, but by predict, infer, infer-binary",
        ),
        ("tiny", {"parameters": {"top_k": 1}}, "--parameters have no place beside a picture; --json takes both"),
        ("tiny", {"protocol": "infer", "input": Path("a.png")}, "image-classification by infer takes --json"),
        ("bare", {"input": Path("a.png")}, "tensors by predict takes --json"),
        ("bare", {"input": Path("a.png"), "body": Path("a.json")}, "--input and --parameters have no place beside it"),
        ("bare", {"parameters": {"a": 1}}, "400 .*parameter 'a' is not known"),
        ("tiny-text", {"parameters": {"max_tokens": 61}}, "422 .*at most 60"),
        ("nothing", {}, "/predict/nothing answered 404"),
    ],
)
def test_what_can_not_be_asked_is_refused_and_says_why(
    address: Address, model: str, others: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        scenario(address, model, **others)


def test_a_file_that_is_not_there_is_an_error_that_names_it(address: Address) -> None:
    with pytest.raises(OSError, match=r"nothing\.json"):
        scenario(address, "bare", body=Path("nothing.json"))
    with pytest.raises(OSError, match=r"nothing\.png"):
        scenario(address, "tiny", input=Path("nothing.png"))


# Other servers


def test_a_server_that_is_no_inferd_says_nothing_that_could_be_used() -> None:
    with (
        scripted(lambda _: [answer(b'{"version": 1}')]) as server,
        pytest.raises(ValueError, match="is not what inferd says"),
    ):
        Described.of(server.address, "m")


def test_a_model_of_a_task_that_is_not_known_is_asked_by_tensors() -> None:
    described = Described(1, "object-detection", "fp32", {}, [], batched=True)
    assert described.protocols == ("infer", "infer-binary")
    assert described.unit == "rows"


def test_a_request_is_tried_out() -> None:
    failed = STREAM_HEAD + chunk('{"error": "lost"}') + STREAM_END
    answers = [answer(), answer(b"no", 503), failed, b""]
    request = Request(b"GET / HTTP/1.1\r\n\r\n")
    with scripted(lambda number: [answers[number]]) as server:
        assert problem_of(server.address, request) == ""
        assert problem_of(server.address, request) == "503 no"
        assert problem_of(server.address, request) == "its stream ends with an error"


def test_a_server_that_hangs_up_is_an_error_that_names_it() -> None:
    request = Request(b"GET / HTTP/1.1\r\n\r\n")
    half = [answer(b"abc")[:-1], HANG_UP]
    with (
        scripted(lambda _: half) as server,
        pytest.raises(OSError, match=rf"{server.address} can't be asked: the server"),
    ):
        problem_of(server.address, request)
