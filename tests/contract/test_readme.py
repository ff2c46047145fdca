from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.pictures import grid
from service.protocols import openai
from service.repository.bundle import LoadOptions, load_bundle
from service.repository.scan import scan
from service.settings import Settings
from service.tasks import text_generation
from service.tasks.base import TaskLimits

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHAKESPEARE = ROOT / "models" / "shakespeare"
SHOE = ROOT / "docs" / "examples" / "shoe.png"


def test_the_answer_in_the_readme_is_the_answer_of_the_bundle_that_ships() -> None:
    shown = json.loads(re.search(r"localhost:8000/predict/fashion-classifier\n(\[.*\])\n", README)[1])
    folder = next(one for one in scan(ROOT / "models") if one.name == "fashion-classifier")
    options = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=1, limits=TaskLimits(max_pixels=10**6))
    answer = load_bundle(folder, options).predict(SHOE.read_bytes(), {})
    assert shown == [{"label": one["label"], "score": pytest.approx(one["score"], abs=1e-3)} for one in answer]


@pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"},
    reason="other processors may round otherwise, and a text that is drawn may then go another way",
)
def test_the_texts_in_the_readme_are_those_of_the_bundle_that_ships() -> None:
    shown = re.findall(r"localhost:8000/(predict/shakespeare|v1/completions) \\\n +-d '(\{.*\})'\n(.*)\n", README)
    assert [path for path, _, _ in shown] == ["predict/shakespeare", "v1/completions"]
    folder = next(one for one in scan(ROOT / "models") if one.name == "shakespeare")
    options = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=1, limits=TaskLimits(max_pixels=1))
    bundle = load_bundle(folder, options)
    for _, asked, answer in shown:
        body, told = json.loads(asked), json.loads(answer)
        if "inputs" in body:
            prompt, parameters = body["inputs"], body["parameters"]
            text = "".join(bundle.generate(prompt, parameters))
            assert told == [{"generated_text": text}]
        else:
            assert body.pop("model") == told["model"] == "shakespeare"
            prompt, length = body.pop("prompt"), body.pop("max_tokens")
            text = "".join(bundle.generate(prompt, {**body, "max_new_tokens": length}))
            assert told["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}]
            used = {"prompt_tokens": len(prompt), "completion_tokens": length, "total_tokens": len(prompt) + length}
            assert told["usage"] == used


def test_the_translations_in_the_readme_are_those_of_the_bundle_that_ships() -> None:
    asked, told = re.search(r"localhost:8000/predict/en-de \\\n +-d '(\{.*\})'\n(.*)\n", README).groups()
    libre, said = re.search(r"localhost:8000/translate \\\n +-d '(\{.*\})'\n(.*)\n", README).groups()
    folder = next(one for one in scan(ROOT / "models") if one.name == "en-de")
    bundle = load_bundle(folder, LoadOptions.of(Settings(threads=1)))
    body = json.loads(asked)
    (translated,) = bundle.translate(body["inputs"], body.get("parameters", {}))
    assert json.loads(told) == [{"translation_text": translated.text}]
    body = json.loads(libre)
    assert (body["source"], body["target"]) == ("en", "de")
    assert json.loads(said) == {"translatedText": [one.text for one in bundle.translate(body["q"], {})]}


def test_the_pictures_in_the_readme_are_those_of_the_bundle_that_ships() -> None:
    shown = re.findall(r"curl -o (\w+\.png) .*localhost:8000/predict/fashion-gan \\\n +-d '(\{.*\})'\n", README)
    assert [name for name, _ in shown] == ["boots.png", "way.png"]
    folder = next(one for one in scan(ROOT / "models") if one.name == "fashion-gan")
    bundle = load_bundle(folder, LoadOptions.of(Settings(threads=1)))
    for name, asked in shown:
        body = json.loads(asked)
        columns = body["parameters"].pop("grid")
        drawn = grid(bundle.draw(body.get("inputs"), body["parameters"]).pixels, columns)[..., 0].astype(np.int16)
        picture = np.asarray(Image.open(ROOT / "docs" / "examples" / name), np.int16)
        # Other processors may round a few values on the border to the other side.
        assert np.abs(drawn - picture).max() <= 1
        assert (drawn != picture).mean() < 0.01


def measured(model: str, metric: str, split: str) -> float:
    """What the manifest of a bundle says of its default variant."""
    manifest = json.loads((ROOT / "models" / model / "1" / "manifest.json").read_bytes())
    wanted = (metric, split, manifest["default_variant"])
    figures = {(one["metric"], one["split"], one["variant"]): one["value"] for one in manifest["quality"]}
    value: float = figures[wanted]
    return value


def test_the_accuracy_in_the_readme_is_the_manifests() -> None:
    assert f"| {100 * measured('fashion-classifier', 'accuracy', 'test'):.2f} % |" in README


def test_the_loss_in_the_readme_is_the_manifests() -> None:
    assert f"| {measured('shakespeare', 'loss_nats', 'validation'):.4f} nats |" in README


def test_the_bleu_in_the_readme_is_the_manifests() -> None:
    assert f"| {measured('en-de', 'bleu', 'test'):.1f} |" in README


def test_the_agreement_in_the_readme_is_the_manifests() -> None:
    agreement = measured("fashion-gan", "label_agreement_shipped_classifier", "seeds 0-999")
    assert f"| {100 * agreement:.1f} % |" in README


def test_the_picture_in_the_readme_is_what_its_script_draws(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_bytes((SHOE.parent / "draw.py").read_bytes())
    subprocess.run([sys.executable, script], check=True)
    assert script.with_name("shoe.png").read_bytes() == SHOE.read_bytes()


def test_every_parameter_of_a_text_is_in_the_docs() -> None:
    content = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    texts, rest = re.search(r"### Texts\n(.*)\n## OpenAI\n(.*)", content, re.DOTALL).groups()
    completions, rest = re.search(r"(.*?)\n## (.*)", rest, re.DOTALL).groups()
    generate = re.search(r"### Generate\n(.*?)\n### ", rest, re.DOTALL)[1]
    for said, parameters in (
        (texts, text_generation.Parameters),
        (completions, openai.Parameters),
        (generate, text_generation.GenerateParameters),
    ):
        assert [name for name in parameters.model_fields if f"`{name}`" not in said] == []


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
