from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import ROOT, card, opened, shoot, until, withdraw

PICTURES = {"fashion-classifier": 2, "shakespeare": 1, "en-de": 3, "fashion-gan": 4}


@pytest.mark.parametrize("name", PICTURES)
def test_all_of_a_model_is_told(browser: Browser, url: str, name: str) -> None:
    manifest = json.loads((ROOT / "models" / name / "1" / "manifest.json").read_text(encoding="utf-8"))
    with opened(browser, url) as page:
        card(page, name).get_by_role("link", name=f"About {name}").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(manifest["title"])
        view = page.locator("#view")
        expect(page.get_by_role("heading", name="The card")).to_be_visible()
        for figure in manifest["quality"]:
            if figure["variant"] == manifest["default_variant"]:
                expect(view.get_by_role("cell", name=f"{figure['n']:,}", exact=True).first).to_be_visible()
        data = manifest["provenance"]["data"]
        expect(page.locator(".facts")).to_contain_text(data["name"])
        expect(page.locator(".facts")).to_contain_text(data["licence"])
        for graph in manifest["variants"][manifest["default_variant"]]["graphs"].values():
            details = page.locator("details").filter(has_text=graph["file"])
            for tensor in graph["inputs"] + graph["outputs"]:
                expect(details.get_by_role("cell", name=tensor["name"], exact=True).first).to_be_visible()
        shown = "[...document.querySelectorAll('.prose img')].filter(one => one.naturalWidth > 50).length"
        until(page, f"{shown} === {PICTURES[name]}")
        if name == "fashion-classifier":
            shoot(page, "model-page")


def test_the_manifest_can_be_taken_along(browser: Browser, url: str, tmp_path: Path) -> None:
    with opened(browser, f"{url}/#/models/shakespeare") as page:
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the manifest").click()
        assert download.value.suggested_filename == "shakespeare-1-manifest.json"
        download.value.save_as(tmp_path / "manifest.json")
    given = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert given == json.loads((ROOT / "models" / "shakespeare" / "1" / "manifest.json").read_text(encoding="utf-8"))


def test_a_bare_graph_has_a_page_too(browser: Browser, bare: str) -> None:
    with opened(browser, f"{bare}/#/models/wine") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("wine")
        for name in ("features", "scores"):
            expect(page.get_by_role("cell", name=name).first).to_be_visible()
        expect(page.locator("#view")).to_contain_text("There is no card with this model")


def test_a_model_that_is_not_there_is_told_in_words(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}/#/models/nobody", told=["status of 404"]) as page:
        expect(page.get_by_role("alert").filter(has_text="nobody")).to_contain_text("there is no model 'nobody'")
        page.get_by_role("link", name="All models").click()
        card(page, "shakespeare")


HOSTILE = """# A card <script>globalThis.got = 1</script>

<img src=x onerror="globalThis.got = 1"> and [a link](javascript:globalThis.got=1), ![a picture](https://example.org/a.png)
and ![another](../../shakespeare/1/history.png).

| <b>cell</b> |
| --- |
| <svg onload="globalThis.got=1"> |
"""


def test_what_a_model_says_of_itself_stays_text(browser: Browser, url: str, folder: Path) -> None:
    bundle = folder / ".hostile"
    shutil.copytree(ROOT / "models" / "fashion-classifier" / "1", bundle)
    (bundle / "README.md").write_text(HOSTILE, encoding="utf-8")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    content = HOSTILE.encode()
    manifest["files"]["README.md"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["title"] = manifest["description"] = "<img src=x onerror='globalThis.got = 1'>"
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "hostile").mkdir()
    bundle.rename(folder / "hostile" / "1")
    try:
        with opened(browser, url) as page:
            expect(card(page, "hostile").get_by_role("heading", level=2)).to_have_text(manifest["title"])
            page.goto(f"{url}/#/models/hostile")
            expect(page.get_by_role("heading", level=1)).to_have_text(manifest["title"])
            prose = page.locator(".prose")
            expect(prose).to_contain_text('<img src=x onerror="globalThis.got = 1"> and a link')
            expect(prose.get_by_role("cell")).to_have_text('<svg onload="globalThis.got=1">')
            expect(prose.locator("a, script, svg, b, img[src]")).to_have_count(0)
            assert page.evaluate("globalThis.got") is None
    finally:
        withdraw(folder, "hostile", url)
