"""The shipped translator over HTTP, on the data that its manifest's figures are of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import ROOT, Server

FOLDER = Path(os.environ.get("INFERD_DATA_DIR", "/nonexistent")) / "tatoeba_deu_eng"
TEXTS_A_REQUEST = 64
BUNDLES = sorted((ROOT / "models" / "en-de").glob("[0-9]*"), key=lambda path: int(path.name))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="INFERD_DATA_DIR has no tatoeba_deu_eng/")
def test_the_whole_test_part_over_http_has_the_bleu_that_the_manifest_claims(server: Server) -> None:
    from training.translation.data import DataConfig, load_corpus
    from training.translation.scores import score

    examples = load_corpus(DataConfig(source="tatoeba")).test
    manifest = json.loads((BUNDLES[-1] / "manifest.json").read_bytes())
    claimed = {
        figure["metric"]: figure["value"]
        for figure in manifest["quality"]
        if (figure["split"], figure["variant"]) == ("test", manifest["default_variant"])
    }

    def bleu(**parameters: object) -> float:
        translations: list[str] = []
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for begin in range(0, len(examples), TEXTS_A_REQUEST):
                texts = [one.source for one in examples[begin : begin + TEXTS_A_REQUEST]]
                response = client.post("/predict/en-de", json={"inputs": texts, "parameters": parameters})
                assert response.status_code == 200, response.text
                translations += [one["translation_text"] for one in response.json()]
        return score(translations, [one.references for one in examples]).bleu

    assert len(examples) > 1000
    beam, greedy = bleu(), bleu(num_beams=1)
    assert beam == pytest.approx(claimed["bleu"], abs=0.1)
    assert greedy == pytest.approx(claimed["bleu_greedy"], abs=0.1)
    assert beam >= greedy
