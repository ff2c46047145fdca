from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.repository.bundle import LoadOptions, load_bundle
from service.repository.scan import scan
from service.tasks.base import TaskLimits

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOE = ROOT / "docs" / "examples" / "shoe.png"


def test_the_answer_in_the_readme_is_the_answer_of_the_bundle_that_ships() -> None:
    shown = json.loads(re.search(r"localhost:8000/predict/fashion-classifier\n(\[.*\])\n", README)[1])
    folder = next(one for one in scan(ROOT / "models") if one.name == "fashion-classifier")
    options = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=1, limits=TaskLimits(max_pixels=10**6))
    answer = load_bundle(folder, options).predict(SHOE.read_bytes(), {})
    assert shown == [{"label": one["label"], "score": pytest.approx(one["score"], abs=1e-3)} for one in answer]


def test_the_accuracy_in_the_readme_is_the_manifests() -> None:
    manifest = json.loads((ROOT / "models" / "fashion-classifier" / "1" / "manifest.json").read_bytes())
    measured = next(
        figure["value"]
        for figure in manifest["quality"]
        if (figure["metric"], figure["split"], figure["variant"]) == ("accuracy", "test", manifest["default_variant"])
    )
    assert f"| {100 * measured:.2f} % |" in README


def test_the_picture_in_the_readme_is_what_its_script_draws(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_bytes((SHOE.parent / "draw.py").read_bytes())
    subprocess.run([sys.executable, script], check=True)
    assert script.with_name("shoe.png").read_bytes() == SHOE.read_bytes()


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
