"""The calls that the page tells of are made, as they stand there; what comes of them is what the page shows."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.asking import ask, picture
from tests.browser.browsing import card, opened


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


def calls(found: Locator) -> dict[str, str]:
    """Every call of a card, by its title, as it is copied."""
    found.locator(".snippets summary").click()
    told = {}
    found.locator(".tabs button").first.wait_for()
    for tab in found.locator(".tabs button").all():
        tab.click()
        found.get_by_role("button", name="Copy").click()
        expect(found.locator(".snippets [role=status]")).to_have_text("Copied")
        told[tab.inner_text()] = str(found.page.evaluate("navigator.clipboard.readText()"))
    return told


def made(told: dict[str, str], page: Page, folder: Path) -> dict[str, str]:
    """What each call prints, by its title."""
    printed = {}
    for title, code in told.items():
        if title == "JavaScript":
            # The page is a place like any other for it; `file` is what somebody has chosen.
            printed[title] = str(
                page.evaluate(
                    """async (code) => {
                        const printed = [];
                        const told = (one) => printed.push(typeof one === "string" ? one : JSON.stringify(one));
                        const Async = (async () => {}).constructor;
                        const file = globalThis.chosenFile;
                        await new Async("console", "file", code)({ log: told }, file);
                        return printed.join("\\n");
                    }""",
                    code,
                )
            )
            continue
        command = ["bash", "-c", code] if title == "curl" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (title, code, done.stderr)
        printed[title] = done.stdout
    return printed


@pytest.fixture
def free(browser: Browser, url: str) -> Iterator[Page]:
    """A page that may run any script: the page's own policy lets no text become one."""
    with opened(browser, f"{url}/docs", bypass_csp=True) as page:
        yield page


def test_texts(page: Page, free: Page, tmp_path: Path) -> None:
    found = card(page, "shakespeare")
    found.get_by_label("prompt").fill("KING:\n'Tis so, $")
    found.get_by_label("characters").fill("60")
    found.get_by_label("top-p").fill("0.9")
    found.get_by_role("button", name="Write", exact=True).click()
    expect(found.locator(".token")).to_have_count(60)
    expect(found.get_by_role("button", name="Write", exact=True)).to_be_enabled()
    text = "".join(found.locator(".token").evaluate_all("all => all.map(one => one.textContent)"))
    printed = made(calls(found), free, tmp_path)
    assert set(printed) == {
        "curl",
        "Python: openai",
        "Python: huggingface_hub",
        "Python: tritonclient",
        "JavaScript",
    }
    for title, one in printed.items():
        found_text = json.loads(one)[0]["generated_text"] if title == "curl" else one.removesuffix("\n")
        assert found_text.rstrip("\n") == text.rstrip("\n"), title


def test_translations(page: Page, free: Page, url: str, tmp_path: Path) -> None:
    found = card(page, "en-de")
    found.get_by_label("English").fill('It\'s a "big" dog.')
    parameters = {"num_beams": 5, "num_return_sequences": 4}
    (answer,) = ask(url, "predict/en-de", {"inputs": 'It\'s a "big" dog.', "parameters": parameters})
    text = answer["translation_text"]
    expect(found.locator(".translated")).to_have_text(text)
    printed = made(calls(found), free, tmp_path)
    assert set(printed) == {"curl", "Python: huggingface_hub", "Python: tritonclient", "JavaScript"}
    assert json.loads(printed.pop("curl")) == [answer]
    printed.pop("Python: tritonclient")  # it asks for the best alone, which a search for several may come upon or not
    for title, one in printed.items():
        assert one.strip() == text, title


def test_pictures_to_be_told_apart(page: Page, free: Page, url: str, tmp_path: Path) -> None:
    found = card(page, "fashion-classifier")
    content = picture(url, "Bag")
    (tmp_path / "picture.png").write_bytes(content)
    free.evaluate(
        "bytes => { globalThis.chosenFile = new Blob([new Uint8Array(bytes)], { type: 'image/png' }); }", list(content)
    )
    found.locator("input[type=file]").set_input_files(tmp_path / "picture.png")
    expect(found.locator(".bars .name").first).to_have_text("Bag")
    for inverted in (False, True):
        if inverted:
            found.get_by_label("turn brightness round").check()
            found.locator(".snippets summary").click()
        expected = ask(
            url, f"predict/fashion-classifier?top_k=10{'&invert=true' if inverted else ''}", content, kind="image/png"
        )
        printed = made(calls(found), free, tmp_path)
        assert set(printed) == {"curl", "Python: huggingface_hub", "Python: tritonclient", "JavaScript"}
        first = expected[0]
        assert printed["Python: huggingface_hub"].startswith(f"{first['label']} {first['score']}"[:12])
        for title in ("curl", "JavaScript"):
            assert json.loads(printed[title]) == expected, title
        assert printed["Python: tritonclient"].rstrip().endswith(f"] {first['label']}")


def test_pictures_that_are_drawn(page: Page, free: Page, url: str, tmp_path: Path) -> None:

    found = card(page, "fashion-gan")
    found.get_by_label("pictures", exact=True).fill("3")
    found.get_by_label("what to draw").fill("a warm coat")
    found.get_by_role("button", name="Draw", exact=True).click()
    expect(found.locator(".gallery .picture")).to_have_count(3)
    images = [str(one.get_attribute("src")).partition(",")[2] for one in found.locator(".gallery img").all()]
    printed = made(calls(found), free, tmp_path)
    assert set(printed) == {"curl", "Python: huggingface_hub", "Python: openai", "Python: tritonclient", "JavaScript"}
    assert [one["image"] for one in json.loads(printed["curl"])] == images
    assert [one.partition(",")[2] for one in printed["JavaScript"].splitlines()] == images
    first = np.asarray(Image.open(BytesIO(base64.b64decode(images[0]))))
    assert json.loads(printed["Python: tritonclient"]) == first.tolist()
    # OpenAI's dialect has no truncation to say: it takes the model's, which is what the slider has at first.
    for number, image in enumerate(images):
        assert (tmp_path / f"picture-{number}.png").read_bytes() == base64.b64decode(image)
    assert (tmp_path / "picture.png").exists()


def test_sums_of_pictures(page: Page, free: Page, tmp_path: Path) -> None:

    found = card(page, "fashion-gan")
    found.get_by_role("button", name="Draw", exact=True).click()
    found.locator(".gallery .picture").first.click()
    found.get_by_text("Calculate with pictures").click()
    for place in "abc":
        found.get_by_label(f"Place {place}", exact=False).click()
    found.get_by_role("button", name="Calculate").click()
    expect(found.locator(".result img")).to_be_visible()
    image = str(found.locator(".result img").get_attribute("src")).partition(",")[2]
    printed = made(calls(found), free, tmp_path)
    assert set(printed) == {"curl", "Python", "JavaScript"}
    assert json.loads(printed["curl"])[0]["image"] == image
    assert printed["JavaScript"].partition(",")[2] == image
    assert printed["Python"].rstrip().endswith(str(len(image)))


def test_tensors(browser: Browser, bare: str, tmp_path: Path) -> None:

    with (
        opened(browser, bare, permissions=["clipboard-read", "clipboard-write"]) as page,
        opened(browser, f"{bare}/docs", bypass_csp=True) as free,
    ):
        found = card(page, "wine")
        found.get_by_label("features: data").fill("5.1, 3.5, 1.4, 0.2")
        found.get_by_label("note: data").fill('"it\'s so"')
        found.get_by_role("button", name="Run").click()
        found.locator("[data-output=scores] details summary").click()
        scores = json.loads(found.locator("[data-output=scores] pre").inner_text())
        printed = made(calls(found), free, tmp_path)
    assert set(printed) == {"curl", "Python: tritonclient", "Python", "JavaScript"}
    assert json.loads(printed["curl"])["outputs"][0]["data"] == scores
    assert json.loads(printed["JavaScript"])[0]["data"] == scores
    assert str(scores[0]) in printed["Python"]
    assert f"{scores[0]:.4f}"[:5] in printed["Python: tritonclient"]
