from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.browsing import card, opened, withdraw
from tests.browser.conftest import write_bare


def test_models_that_come_and_go_do_so_on_the_page_too_and_the_others_stay_as_they_are(
    browser: Browser, url: str, folder: Path
) -> None:
    with opened(browser, url) as page:
        text = card(page, "shakespeare").get_by_label("prompt")
        text.fill("What is typed stays")
        write_bare(folder, "newcomer")
        try:
            found = card(page, "newcomer")
            expect(found.locator("legend code")).to_have_text(["features", "pixels", "note"])
            expect(page.locator("#state")).to_have_text("5 models ready")
            expect(text).to_have_value("What is typed stays")
            write_bare(folder, "newcomer", 2)
            found.get_by_label("version").select_option("1")
            expect(found.locator(".chips a")).to_have_attribute("href", "#/models/newcomer/1")
        finally:
            withdraw(folder, "newcomer", url)
        expect(found).to_have_count(0)
        expect(page.locator("#state")).to_have_text("4 models ready")


def test_a_model_that_is_refused_says_why(browser: Browser, url: str, folder: Path) -> None:
    place = folder / ".broken"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"this is no graph")
    (folder / "broken").mkdir()
    place.rename(folder / "broken" / "1")
    try:
        with opened(browser, url) as page:
            found = page.locator(".unready article")
            expect(found).to_contain_text("broken")
            expect(found.locator(".error")).to_contain_text("model.onnx")
            expect(page.locator("#state")).to_have_text("4 models ready, 1 not")
    finally:
        withdraw(folder, "broken", url)
