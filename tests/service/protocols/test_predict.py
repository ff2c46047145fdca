from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.bundles import HEIGHT, LABELS, WIDTH, make_bundle
from tests.conftest import Serve, running
from tests.service.pictures import drawn, encoded
from tests.service.requests import BRIGHT, DARK, PNG, answered, gained, metrics, scores_of

URL = "/predict/tiny"
PICTURE = drawn(WIDTH, HEIGHT)
EXPECTED = pytest.approx(scores_of(PICTURE), abs=1e-5)


def as_json(picture: bytes = b"", **changes: Any) -> dict[str, Any]:
    return {"inputs": base64.b64encode(picture or encoded(PICTURE)).decode(), **changes}


# Every way to send a picture


@pytest.mark.parametrize(
    "content_type",
    [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/*",
        "IMAGE/PNG",
        "image/png; charset=binary",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        None,
    ],
)
def test_a_picture_may_be_the_body_whatever_it_is_called(client: TestClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = client.post(URL, content=encoded(PICTURE), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answered(answer.json()) == EXPECTED


def test_the_bytes_decide_what_a_picture_is_and_not_the_content_type(client: TestClient) -> None:
    answer = client.post(URL, content=encoded(PICTURE), headers={"content-type": "image/jpeg"})
    assert answered(answer.json()) == EXPECTED
    answer = client.post(URL, content=b"GIF89a", headers=PNG)
    assert answer.status_code == 415


def test_a_picture_may_be_a_file_of_a_form(client: TestClient) -> None:
    answer = client.post(URL, files={"file": ("picture.png", encoded(PICTURE), "image/png")})
    assert answered(answer.json()) == EXPECTED


def test_a_forms_parameters_are_in_the_query(client: TestClient) -> None:
    answer = client.post(f"{URL}?invert=true&top_k=1", files={"file": BRIGHT})
    assert answered(answer.json()).keys() == {"dark"}


def test_a_picture_may_be_base64_in_json(client: TestClient) -> None:
    assert answered(client.post(URL, json=as_json()).json()) == EXPECTED
    answer = client.post(
        URL, content=json.dumps(as_json()), headers={"content-type": "application/json; charset=utf-8"}
    )
    assert answered(answer.json()) == EXPECTED


def test_a_large_picture_is_seen_like_a_small_one(client: TestClient) -> None:
    large = encoded(PICTURE.repeat(200, 0).repeat(200, 1))
    assert answered(client.post(URL, content=large, headers=PNG).json()) == pytest.approx(scores_of(PICTURE), abs=0.05)
    assert answered(client.post(URL, json=as_json(large)).json()) == pytest.approx(scores_of(PICTURE), abs=0.05)


def test_a_large_file_is_read_like_a_small_one(client: TestClient) -> None:
    noise = drawn(300, 200)
    assert len(encoded(noise)) > 50_000
    answer = client.post(URL, content=encoded(noise), headers=PNG)
    assert answered(answer.json()) == pytest.approx(scores_of(np.full((HEIGHT, WIDTH), noise.mean())), abs=0.05)
    assert client.post(URL, json=as_json(encoded(noise))).json() == answer.json()
    broken = client.post(URL, content=encoded(noise)[:50_000], headers=PNG)
    assert broken.status_code == 400
    assert "broken or truncated" in broken.json()["error"]


def test_every_label_comes_with_its_score_the_best_first(client: TestClient) -> None:
    assert client.post(URL, content=BRIGHT, headers=PNG).json()[0]["label"] == "bright"
    answer = client.post(URL, content=DARK, headers=PNG).json()
    assert answer[0]["label"] == "dark"
    assert {one["label"] for one in answer} == set(LABELS)
    assert sum(one["score"] for one in answer) == pytest.approx(1)


# Parameters, in the query and in JSON


def ask(client: TestClient, way: str, parameters: dict[str, Any], picture: bytes = b"") -> Any:
    if way == "query":
        query = {name: json.dumps(value).strip('"') for name, value in parameters.items()}
        return client.post(URL, content=picture or encoded(PICTURE), headers=PNG, params=query)
    return client.post(URL, json=as_json(picture, parameters=parameters))


WAYS = pytest.mark.parametrize("way", ["query", "json"])


@WAYS
@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_so_many_labels_come_back_as_are_asked_for(client: TestClient, way: str, top_k: int, count: int) -> None:
    every = client.post(URL, content=encoded(PICTURE), headers=PNG).json()
    assert ask(client, way, {"top_k": top_k}).json() == every[:count]


@WAYS
def test_brightness_is_turned_round_when_the_request_says_so(client: TestClient, way: str) -> None:
    inverted = pytest.approx(scores_of(PICTURE, invert=True), abs=1e-5)
    assert answered(ask(client, way, {"invert": True}).json()) == inverted
    assert answered(ask(client, way, {"invert": False}).json()) == EXPECTED


@WAYS
def test_scores_may_be_the_networks_own_or_each_by_itself(client: TestClient, way: str) -> None:
    softmax = answered(ask(client, way, {"function_to_apply": "softmax"}).json())
    plain = answered(ask(client, way, {"function_to_apply": "none"}).json())
    apart = answered(ask(client, way, {"function_to_apply": "sigmoid"}).json())
    assert softmax == EXPECTED
    assert apart == pytest.approx({label: 1 / (1 + np.exp(-score)) for label, score in plain.items()})
    total = sum(np.exp(score) for score in plain.values())
    assert softmax == pytest.approx({label: np.exp(score) / total for label, score in plain.items()})


@WAYS
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"top_k": 0}, "parameter 'top_k': "),
        ({"top_k": -1}, "parameter 'top_k': "),
        ({"top_k": "many"}, "parameter 'top_k': "),
        ({"top_k": 1.5}, "parameter 'top_k': "),
        ({"invert": "perhaps"}, "parameter 'invert': "),
        ({"function_to_apply": "relu"}, "parameter 'function_to_apply': "),
        ({"temperature": 1}, "parameter 'temperature': "),
    ],
)
def test_a_wrong_parameter_is_named_with_those_that_there_are(
    client: TestClient, way: str, parameters: dict[str, Any], said: str
) -> None:
    answer = ask(client, way, parameters)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert "(allowed: top_k, invert, function_to_apply)" in answer.json()["error"]


def test_a_query_beside_json_counts_where_the_json_says_nothing_else(client: TestClient) -> None:
    assert len(client.post(f"{URL}?top_k=1", json=as_json()).json()) == 1
    assert len(client.post(f"{URL}?top_k=1", json=as_json(parameters={"top_k": 2})).json()) == 2
    assert "temperature" in client.post(f"{URL}?temperature=1", json=as_json()).json()["error"]


# What is wrong is said


def test_null_stands_for_no_parameters_and_no_stream(client: TestClient) -> None:
    answer = client.post(URL, json=as_json(parameters=None, stream=None))
    assert answered(answer.json()) == EXPECTED


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body must be JSON"),
        (b"{", "the body must be JSON"),
        (b"[]", "the body must be JSON"),
        (b"null", "the body must be JSON"),
        (b"{}", "inputs"),
        (b'{"inputs": "", "inptus": 1}', "inptus"),
        (b'{"inputs": "", "parameters": 3}', "parameters"),
        (b'{"inputs": "", "parameters": []}', "parameters"),
        (b'{"inputs": null}', "inputs must be a picture"),
        (b'{"inputs": 7}', "inputs must be a picture"),
        (b'{"inputs": ["aGk="]}', "inputs must be a picture"),
        (b'{"inputs": {"image": "aGk="}}', "inputs must be a picture"),
        (b'{"inputs": ""}', "the image is empty"),
        (b'{"inputs": "aGk"}', "no base64"),
        (b'{"inputs": "a GkK"}', "no base64"),
        ('{"inputs": "gr\u00fcn"}'.encode(), "no base64"),
        (b'{"inputs": "https://example.org/shoe.png"}', "addresses are not fetched"),
        (b'{"inputs": "data:image/png;base64,aGk="}', "no base64"),
        (b"\xff\xfe", "the body must be JSON"),
        (b'{"inputs": "\xff"}', "the body must be JSON"),
        (b'{"inputs": ' + b"[" * 50_000, "the body must be JSON"),
    ],
    ids=range(21),
)
def test_json_that_is_no_request_is_refused_with_what_is_wrong(client: TestClient, body: bytes, said: str) -> None:
    answer = client.post(URL, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_json_whose_base64_is_no_picture_is_refused_as_any_other(client: TestClient) -> None:
    assert client.post(URL, json=as_json(b"hello")).status_code == 415


@pytest.mark.parametrize(
    ("content", "content_type", "said"),
    [
        (b"", "multipart/form-data; boundary=x", "'file'"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", "'file'"),
        (b"hello", "multipart/form-data; boundary=x", "the form can't be read"),
        (b"hello", "multipart/form-data", "the form can't be read: Missing boundary"),
        (
            b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "one file, in a field called 'file'",
        ),
        (
            b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\ntext\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "one file, in a field called 'file'",
        ),
        (b"--x\r\nrubbish", "multipart/form-data; boundary=x", ""),
    ],
    ids=["empty", "no parts", "no form", "no boundary", "a text", "another name", "cut"],
)
def test_a_form_without_a_file_is_refused(client: TestClient, content: bytes, content_type: str, said: str) -> None:
    before = metrics(client)
    answer = client.post(URL, content=content, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert gained(before, metrics(client), "inferd_request_failures_total", model="tiny", reason="invalid") == 1


def test_a_form_of_two_files_is_refused(client: TestClient) -> None:
    answer = client.post(URL, files=[("file", ("a.png", BRIGHT)), ("other", ("b.png", DARK))])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the form can't be read: Too many files")


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "video/mp4", "nonsense", "multipart/mixed"])
def test_a_content_type_that_is_not_taken_is_refused_with_those_that_are(client: TestClient, content_type: str) -> None:
    answer = client.post(URL, content=BRIGHT, headers={"content-type": content_type})
    assert answer.status_code == 415
    assert content_type in answer.json()["error"]
    for allowed in ("image/*", "application/octet-stream", "multipart/form-data", "application/json"):
        assert allowed in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "empty"),
        (b"hello", 415, "no image"),
        (encoded(drawn(), "GIF"), 415, "PNG, JPEG, WEBP"),
        (encoded(drawn(64, 64))[:1000], 400, "broken or truncated"),
    ],
    ids=["nothing", "text", "gif", "truncated"],
)
def test_a_body_that_is_no_picture_is_refused(client: TestClient, content: bytes, status: int, said: str) -> None:
    answer = client.post(URL, content=content, headers=PNG)
    assert answer.status_code == status
    assert said in answer.json()["error"]


FORM = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + BRIGHT + b"\r\n--x--\r\n"


@settings(max_examples=50)
@given(data=st.data())
def test_however_a_body_is_damaged_it_is_answered_or_refused(client: TestClient, data: st.DataObject) -> None:
    body, content_type = data.draw(
        st.sampled_from(
            [
                (FORM, "multipart/form-data; boundary=x"),
                (FORM, "multipart/form-data; boundary=x; charset=utf-7"),
                (json.dumps(as_json(BRIGHT, parameters={"top_k": 1})).encode(), "application/json"),
                (BRIGHT, "image/png"),
            ]
        )
    )
    content = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 120) - 1))] = data.draw(st.integers(0, 255))
    answer = client.post(URL, content=bytes(content), headers={"content-type": content_type})
    assert answer.status_code in {200, 400, 413, 415}
    assert answer.status_code == 200 or isinstance(answer.json()["error"], str)


# Limits


@pytest.fixture
def strict(models: Path, serve: Serve) -> TestClient:
    make_bundle(models)
    return serve(models=models, max_body_bytes=1000, max_pixels=100)


def test_a_body_over_the_limit_is_refused_and_the_limit_named(strict: TestClient) -> None:
    for headers in (PNG, {"content-type": "application/json"}, {"content-type": "multipart/form-data; boundary=x"}):
        answer = strict.post(URL, content=bytes(1001), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"] == "the body is larger than 1000 bytes (INFERD_MAX_BODY_BYTES)"
    assert strict.post(URL, content=bytes(1000), headers=PNG).status_code == 415


def test_a_body_that_says_it_is_too_large_is_not_read(models: Path) -> None:
    make_bundle(models)
    answer, read = asyncio.run(stream_to(models, chunks=50, headers={"content-length": "100000"}))
    assert answer.status_code == 413
    assert "INFERD_MAX_BODY_BYTES" in answer.json()["error"]
    assert read == 0


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(models: Path) -> None:
    make_bundle(models)
    answer, read = asyncio.run(stream_to(models, chunks=50))
    assert answer.status_code == 413
    assert "INFERD_MAX_BODY_BYTES" in answer.json()["error"]
    assert read == 11


def test_a_body_in_pieces_is_put_together(models: Path) -> None:
    make_bundle(models)
    answer, read = asyncio.run(stream_to(models, picture=BRIGHT))
    assert answered(answer.json())
    assert read == len(BRIGHT)


async def stream_to(
    models: Path, *, chunks: int = 0, picture: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[Any, int]:
    """Send a body in pieces: chunks of 100 bytes, or the picture's bytes one by one; tell how many were taken."""
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for piece in [bytes(100)] * chunks or [bytes([byte]) for byte in picture]:
            taken += 1
            yield piece

    async with running(create_app(Settings(models=models, threads=1, max_body_bytes=1000))) as client:
        answer = await client.post(URL, content=body(), headers=headers or {})
        assert answer.request.headers.get("content-length") == (headers or {}).get("content-length")
        return answer, taken


def test_a_picture_over_the_limit_is_refused_and_the_limit_named(strict: TestClient) -> None:
    answer = strict.post(URL, content=encoded(np.zeros((10, 11), np.uint8)), headers=PNG)
    assert answer.status_code == 413
    assert "10 = 110 pixels; the limit is 100 (INFERD_MAX_PIXELS)" in answer.json()["error"]
    assert strict.post(URL, content=encoded(np.zeros((10, 10), np.uint8)), headers=PNG).status_code == 200


# What rides in headers


def test_the_answers_headers_tell_who_answered_and_how_long_it_took(client: TestClient) -> None:
    headers = client.post(URL, content=BRIGHT, headers=PNG).headers
    assert headers["x-inferd-model"] == "tiny"
    assert headers["x-inferd-version"] == "1"
    assert headers["x-batch-size"] == "1"
    assert float(headers["x-queue-ms"]) >= 0
    assert float(headers["x-compute-ms"]) > 0


@pytest.mark.parametrize("timeout", ["0.0001", "1e-6"])
def test_a_request_whose_deadline_can_not_be_met_is_not_run(client: TestClient, timeout: str) -> None:
    before = metrics(client)
    answer = client.post(URL, content=BRIGHT, headers={**PNG, "x-request-timeout-ms": timeout})
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"]
    after = metrics(client)
    assert gained(before, after, "inferd_request_failures_total", model="tiny", reason="deadline") == 1
    assert gained(before, after, "inferd_batch_size_count") == 0


def test_a_request_with_time_enough_is_answered(client: TestClient) -> None:
    answer = client.post(URL, content=BRIGHT, headers={**PNG, "x-request-timeout-ms": "60000"})
    assert answer.status_code == 200


def test_the_deadline_counts_from_the_requests_arrival_and_not_from_the_end_of_its_body(models: Path) -> None:
    make_bundle(models)

    async def late() -> AsyncIterator[bytes]:
        until = time.monotonic() + 0.002
        while time.monotonic() < until:
            pass
        yield BRIGHT

    async def main() -> None:
        async with running(create_app(Settings(models=models, threads=1))) as client:
            answer = await client.post(URL, content=late(), headers={"x-request-timeout-ms": "1"})
            assert answer.status_code == 504

    asyncio.run(main())


@pytest.mark.parametrize("timeout", ["soon", "", "0", "-5", "nan", "inf", "1e9", "10 ms"])
def test_a_deadline_that_is_no_time_is_refused_by_its_header(client: TestClient, timeout: str) -> None:
    answer = client.post(URL, content=BRIGHT, headers={**PNG, "x-request-timeout-ms": timeout})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("x-request-timeout-ms must be a positive number of milliseconds")


def test_a_picture_too_broken_to_be_queued_is_not_run(client: TestClient) -> None:
    before = metrics(client)
    client.post(URL, content=encoded(drawn(64, 64))[:1000], headers=PNG)
    after = metrics(client)
    assert gained(before, after, "inferd_batch_size_count") == 0
    assert gained(before, after, "inferd_request_failures_total", model="tiny", reason="invalid") == 1


# Addresses


def test_a_version_may_be_named(client: TestClient) -> None:
    answer = client.post(f"{URL}/versions/1", content=encoded(PICTURE), headers=PNG)
    assert answered(answer.json()) == EXPECTED
    assert answer.headers["x-inferd-version"] == "1"


@pytest.mark.parametrize("name", ["nobody", "TINY", "tiny2", "%2e%2e", "a%2Fb", "tiny%00", "ü"])
def test_an_unknown_model_is_told_with_those_that_there_are(client: TestClient, name: str) -> None:
    answer = client.post(f"/predict/{name}", content=BRIGHT, headers=PNG)
    assert answer.status_code == 404
    assert "models: tiny" in answer.json()["error"] or "there is nothing at" in answer.json()["error"]


@pytest.mark.parametrize(
    "version",
    [
        "2",
        "0",
        "-1",
        "1.0",
        "one",
        "latest",
        "1%20",
        "\u0663",
        "\u00b2",
        pytest.param("9" * 5000, id="a very long one"),
    ],
)
def test_an_unknown_version_is_told_with_those_that_there_are(client: TestClient, version: str) -> None:
    answer = client.post(f"{URL}/versions/{version}", content=BRIGHT, headers=PNG)
    assert answer.status_code == 404
    assert "versions: 1" in answer.json()["error"]


def test_a_model_says_what_it_takes_and_what_it_answers(client: TestClient) -> None:
    for url in (URL, f"{URL}/versions/1"):
        described = client.get(url).json()
        assert described["model"] == "tiny"
        assert described["version"] == 1
        assert described["versions"] == [1]
        assert described["task"] == "image-classification"
        assert described["title"] == "A tiny model"
        assert described["description"] == "Tells dark from bright."
        assert described["variant"] == "fp32"
        assert described["labels"] == list(LABELS)
        assert described["input"] == {
            "formats": ["PNG", "JPEG", "WEBP"],
            "max_pixels": 16_777_216,
            "seen_as": {"width": WIDTH, "height": HEIGHT, "channels": 1, "fit": "stretch"},
            "invert": False,
        }
        assert described["parameters"].keys() == {"top_k", "invert", "function_to_apply"}
        assert described["limits"] == {"max_body_bytes": 16 * 2**20, "max_batch_size": 8}
        assert described["quality"][0]["metric"] == "accuracy"
        assert described["quality"][0]["value"] == 0.5
        assert described["parameters_count"] == 75
        assert described["licence"] == "CC0-1.0"


def test_what_a_model_does_not_say_of_itself_is_404_or_405(client: TestClient) -> None:
    assert client.get("/predict/nobody").status_code == 404
    assert client.get(f"{URL}/versions/2").status_code == 404
    answer = client.put(URL)
    assert answer.status_code == 405
    assert "PUT is not allowed at /predict/tiny" in answer.json()["error"]


# A batch


def test_requests_that_come_together_are_run_together_and_each_is_answered_as_if_alone(models: Path) -> None:
    make_bundle(models)
    pictures = [encoded(drawn(WIDTH, HEIGHT, seed=seed)) for seed in range(24)]

    async def main() -> None:
        async with running(create_app(Settings(models=models, threads=1))) as client:
            alone = [await client.post(URL, content=picture) for picture in pictures]
            together = await asyncio.gather(*(client.post(URL, content=picture) for picture in pictures))
            assert [answer.content for answer in together] == [answer.content for answer in alone]
            assert {answer.headers["x-batch-size"] for answer in alone} == {"1"}
            assert max(int(answer.headers["x-batch-size"]) for answer in together) > 1
            assert max(int(answer.headers["x-batch-size"]) for answer in together) <= 8

    asyncio.run(main())


def test_a_broken_picture_among_others_is_refused_alone(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        bodies = [BRIGHT, b"broken", DARK, b"", BRIGHT, encoded(drawn(64, 64))[:500], DARK]
        async with running(create_app(Settings(models=models, threads=1))) as client:
            answers = await asyncio.gather(*(client.post(URL, content=body) for body in bodies))
        assert [answer.status_code for answer in answers] == [200, 415, 200, 400, 200, 400, 200]
        assert [answers[index].json()[0]["label"] for index in (0, 2, 4, 6)] == ["bright", "dark", "bright", "dark"]

    asyncio.run(main())
