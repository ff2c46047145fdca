from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import resnets

from loadtests.compare import wires
from loadtests.compare.measuring import pictures
from loadtests.compare.shared.compared_model import Model, decoded
from service.bench.address import Address
from tests.conftest import Serve

PICTURE = pictures()[0]


def test_inferd_answers_its_wire_what_onnx_runtime_gives(models: Path, serve: Serve) -> None:
    model = Model(str(resnets.write(models, "resnet-20")))
    headers = {"content-type": wires.V2_RAW.kind, **wires.V2_RAW.headers}
    answer = serve(models=models).post(wires.V2_RAW.path, content=wires.V2_RAW.body(PICTURE), headers=headers)
    assert answer.status_code == 200
    np.testing.assert_array_equal(wires.V2_RAW.logits(answer.content), model.run(PICTURE[np.newaxis])[0])


def test_a_request_has_path_body_and_headers() -> None:
    content = wires.V2_RAW.request(Address("127.0.0.1", 80), PICTURE).content
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/resnet-20/infer HTTP/1.1\r\n")
    assert b"\r\ninference-header-content-length: 0" in head
    assert b"\r\ncontent-length: 3136\r\n" in head
    assert body == PICTURE.tobytes()
    assert wires.RAW.at("/elsewhere").request(Address("127.0.0.1", 80), PICTURE).content.startswith(b"POST /elsewhere ")


def test_what_json_carries_is_the_picture() -> None:
    raw = PICTURE.tobytes()
    (tensor,) = json.loads(wires.V2_BASE64.body(PICTURE))["inputs"]
    assert base64.b64decode(tensor["data"][0]) == raw
    assert base64.b64decode(json.loads(wires.PICTURE_BASE64.body(PICTURE))["picture"]) == raw
    np.testing.assert_array_equal(decoded(json.loads(wires.PICTURES_BASE64.body(PICTURE))["pictures"]), [PICTURE])
    np.testing.assert_array_equal(np.float32(json.loads(wires.NUMBERS.body(PICTURE))["inputs"]), PICTURE)


def test_logits_are_read_whatever_form_they_come_in() -> None:
    logits = np.array([0.5, -1.25, 3], np.float32)
    numbers = logits.tolist()
    for wire, body in (
        (wires.RAW, logits.tobytes()),
        (wires.V2_RAW, b'{"outputs":[{"parameters":{"binary_data_size":12}}]}' + logits.tobytes()),
        (wires.V2_BASE64, json.dumps({"outputs": [{"name": "logits", "data": numbers}]}).encode()),
        (wires.NUMBERS, json.dumps(numbers).encode()),
        (wires.PICTURE_BASE64, json.dumps(numbers).encode()),
        (wires.PICTURES_BASE64, json.dumps([numbers]).encode()),
    ):
        np.testing.assert_array_equal(wire.logits(body), logits)


def test_a_brace_among_raw_floats_does_not_end_the_json() -> None:
    logits = np.frombuffer(b"}}}}abcd", np.float32)
    np.testing.assert_array_equal(wires.V2_RAW.logits(b'{"outputs":[{}]}' + logits.tobytes()), logits)
