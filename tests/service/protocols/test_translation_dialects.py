"""A text has one translation, in whichever dialect it is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.repository.bundle import LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.conftest import start
from tests.service.protocols.open_inference.grpc.serving import infer_request, outputs_of, serving
from tests.translation_bundles import SURE, WILD, Character, make_translation_bundle

TEXTS = ["the cat sees the dog.\n\nHello, world!", "we go home now", "😀"]


def over_http(client: TestClient) -> dict[str, list[str]]:
    def post(path: str, **body: Any) -> Any:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    one_by_one = [client.post("/predict/tiny-en-de", content=text.encode()).json()[0] for text in TEXTS]
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    return {
        "predict": [one["translation_text"] for one in post("/predict/tiny-en-de", inputs=TEXTS)],
        "predict, raw": [one["translation_text"] for one in one_by_one],
        "translate": post("/translate", q=TEXTS, source="en", target="de")["translatedText"],
        "infer": post("/v2/models/tiny-en-de/infer", inputs=[tensor])["outputs"][0]["data"],
    }


def over_grpc(models: Path) -> list[str]:
    async def main() -> list[str]:
        async with serving(models) as server:
            request = infer_request("tiny-en-de", ("text_input", "BYTES", np.array(TEXTS, object)))
            return [str(text) for text in outputs_of(await server.client.ask("ModelInfer", request))["text_output"]]

    return asyncio.run(main())


@pytest.mark.parametrize("character", [SURE, WILD], ids=["sure", "wild"])
def test_all_dialects_give_the_same_translations(models: Path, character: Character) -> None:
    path = make_translation_bundle(models, character=character)
    with start(models=models) as client:
        translations = over_http(client)
    translations["infer, gRPC"] = over_grpc(models)
    bundle = load_bundle(BundleFolder("tiny-en-de", 1, path), LoadOptions.of(Settings(threads=1)))
    translations["no server"] = [one.text for one in bundle.translate(TEXTS, {})]
    expected = translations["predict"]
    assert all(one == expected for one in translations.values()), translations
    assert (expected[0] == "die Katze sieht die Hund.\n\nHallo, Welt!") == (character is SURE)
