from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.asking import ask
from tests.browser.browsing import card, opened, shoot


@pytest.fixture
def page(browser: Browser, bare: str) -> Iterator[Page]:
    with opened(browser, bare) as page:
        yield page


def test_a_bare_graph_has_a_form_of_its_metadata_and_answers_as_the_api_does(page: Page, bare: str) -> None:
    found = card(page, "wine")
    expect(found.locator("legend code")).to_have_text(["features", "pixels", "note"])
    found.get_by_label("features: data").fill("[[5.1, 3.5, 1.4, 0.2], [6, 2, 5, 1.5]]")
    found.get_by_label("note: data").fill('"first", "second"')
    for name in ("features", "pixels", "note"):
        found.get_by_label(f"{name}: size of axis 1").fill("2")
    found.get_by_label("features: data").fill("[[5.1, 3.5, 1.4, 0.2], [6, 2, 5, 1.5]]")
    found.get_by_label("note: data").fill('"first", "second"')
    with page.expect_request(lambda request: request.url.endswith("/infer")) as sent:
        found.get_by_role("button", name="Run").click()
    body = sent.value.post_data_json
    assert [one["shape"] for one in body["inputs"]] == [[2, 4], [2, 64], [2, 1]]
    expected = {one["name"]: one for one in ask(bare, "v2/models/wine/infer", body)["outputs"]}
    expect(found.locator(".output")).to_have_count(3)
    shoot(found, "tensors")
    for name, one in expected.items():
        output = found.locator(f".output[data-output='{name}']")
        output.locator("summary").click()
        assert json.loads(output.locator("pre").inner_text()) == one["data"]
    expect(found.locator("[data-output=scores] .bars li")).to_have_count(6)
    expect(found.locator("[data-output=picture] canvas")).to_be_visible()
    expect(found.locator("[data-output=echo] li")).to_have_text(["first", "second"])


def test_numbers_can_be_made_up(page: Page) -> None:
    found = card(page, "wine")
    field = found.get_by_label("features: data")
    for name, expected in (("zeros", [0] * 4), ("ones", [1] * 4)):
        found.get_by_role("button", name=name).first.click()
        assert json.loads(f"[{field.input_value()}]") == expected
    found.get_by_role("button", name="random").first.click()
    assert len(set(json.loads(f"[{field.input_value()}]"))) == 4


def test_what_does_not_fit_is_refused_in_words(browser: Browser, bare: str) -> None:
    with opened(browser, bare, told=["status of 4"]) as page:
        found = card(page, "wine")
        found.get_by_label("features: data").fill("1, 2, 3")
        found.get_by_role("button", name="Run").click()
        expect(found.get_by_role("alert")).to_contain_text("features")
        found.get_by_label("features: data").fill("four")
        found.get_by_role("button", name="Run").click()
        expect(found.get_by_role("alert")).to_contain_text("this is no list of values")


def test_a_task_that_the_page_does_not_know_is_tried_as_tensors(browser: Browser, url: str) -> None:
    def renamed(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "task": "palm-reading"})

    with opened(browser, url, before=lambda page: page.route("**/predict/fashion-gan", renamed)) as page:
        found = card(page, "fashion-gan")
        expect(found.locator(".eyebrow")).to_have_text("palm reading")
        found.get_by_role("button", name="Run").click()
        expect(found.locator("[data-output=image] canvas")).to_be_visible()
