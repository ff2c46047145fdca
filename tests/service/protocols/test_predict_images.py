"""The task dialect of image generation, as Hugging Face's client asks and reads it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.latents import LARGEST_SEED, between, latents_of, total
from service.protocols import openai_images
from service.protocols.predict_images import Parameters
from service.settings import Settings
from tests.conftest import Serve, loaded
from tests.image_bundles import LATENT, drawn, make_image_bundle, one_hot
from tests.service.painting import enlarged, entries_of, painted, pixels_of
from tests.service.pictures import Pixels
from tests.service.protocols.texts import PATIENCE_S, visiting
from tests.service.requests import gained, metrics

URL = "/predict/tiny-painter"
ROOT = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH = 4, 6
JSON = "application/json"


def ask(client: TestClient, inputs: object = "a dark night", *, accept: str = "*/*", **parameters: Any) -> Any:
    return client.post(URL, json={"inputs": inputs, "parameters": parameters}, headers={"accept": accept})


def picture(answer: httpx.Response, kind: str = "image/png") -> Pixels:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == kind
    return pixels_of(answer.content, kind)


def refused(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    assert answer.json().keys() == {"error"}
    return str(answer.json()["error"])


# A picture


def test_a_picture_comes_as_it_is_and_headers_say_from_what_seed_and_in_what_time(painter: TestClient) -> None:
    answer = ask(painter, seed=7)
    assert (picture(answer) == painted("dark", 7)[0]).all()
    assert (answer.headers["x-inferd-model"], answer.headers["x-inferd-version"]) == ("tiny-painter", "2")
    assert answer.headers["x-inferd-seed"] == "7"
    assert float(answer.headers["x-queue-ms"]) >= 0
    assert float(answer.headers["x-compute-ms"]) > 0
    assert answer.headers["x-batch-size"] == "1"


@pytest.mark.parametrize(
    ("text", "label"),
    [("bright", "bright"), ("A WHITE day!", "bright"), ("what is on the left", "left"), ("black and dark", "dark")],
)
def test_a_text_says_what_is_drawn(painter: TestClient, text: str, label: str) -> None:
    assert (picture(ask(painter, text, seed=3)) == painted(label, 3)[0]).all()


@pytest.mark.parametrize("label", ["dark", "bright", "left"])
def test_what_is_drawn_is_seen_by_a_model_that_knows_it(painter: TestClient, label: str) -> None:
    for seed in range(20):
        drawn = ask(painter, label, seed=seed).content
        seen = painter.post("/predict/tiny", content=drawn, headers={"content-type": "image/png"}).json()
        assert seen[0]["label"] == label


@pytest.mark.parametrize("asked", [{"inputs": "bright"}, {"inputs": "bright", "parameters": None, "stream": False}])
def test_nothing_needs_to_be_said_but_the_text(painter: TestClient, asked: dict[str, Any]) -> None:
    answer = painter.post(URL, json=asked)
    assert (picture(answer) == painted("bright", int(answer.headers["x-inferd-seed"]))[0]).all()


def test_without_a_seed_each_is_another_and_says_how_to_have_it_again(painter: TestClient) -> None:
    one, other = ask(painter), ask(painter)
    assert one.headers["x-inferd-seed"] != other.headers["x-inferd-seed"]
    assert ask(painter, seed=int(one.headers["x-inferd-seed"])).content == one.content
    entry, again = entries_of(ask(painter, accept=JSON)), ask(painter, accept=JSON)
    assert [str(one["seed"]) for one in again.json()] == [again.headers["x-inferd-seed"]]
    assert (picture(ask(painter, seed=entry[0]["seed"])) == entry[0]["image"]).all()


@pytest.mark.parametrize("seed", [0, 2**53 + 1, LARGEST_SEED])
def test_seeds_may_be_small_and_large(painter: TestClient, seed: int) -> None:
    answer = ask(painter, "left", seed=seed)
    assert (picture(answer) == painted("left", seed)[0]).all()
    assert answer.headers["x-inferd-seed"] == str(seed)


def test_the_same_seed_gives_the_same_bytes_alone_and_among_others(painter: TestClient) -> None:
    alone = [ask(painter, accept=JSON, seed=5, num_images=count).json() for count in (1, 2, 64)]
    assert alone[2][:2] == alone[1]
    assert alone[1][:1] == alone[0]


def test_a_class_may_be_said_by_its_label(painter: TestClient) -> None:
    for label in ("left", "LEFT"):
        assert (picture(ask(painter, None, seed=2, label=label)) == painted("left", 2)[0]).all()
        assert (picture(ask(painter, "", seed=2, label=label)) == painted("left", 2)[0]).all()
    answer = painter.post(URL, json={"parameters": {"label": "left", "seed": 2}})
    assert (picture(answer) == painted("left", 2)[0]).all()


def test_a_text_that_means_nothing_is_refused_with_what_can_be_drawn_unless_the_nearest_will_do(
    painter: TestClient,
) -> None:
    assert "what can be drawn: dark, bright, left" in refused(ask(painter, "soup"))
    (entry,) = entries_of(ask(painter, "soup", strict=False, accept=JSON))
    assert entry["label"] in {"dark", "bright", "left"}
    assert entry["score"] < 0.5


def test_pictures_may_be_larger(painter: TestClient) -> None:
    for factor in (1, 2, 4, 8, 16):
        size = {"width": factor * WIDTH, "height": factor * HEIGHT}
        for asked in (size, {"width": size["width"]}, {"height": size["height"]}):
            assert (picture(ask(painter, seed=1, **asked)) == enlarged(painted("dark", 1)[0], factor)).all()


def test_truncation_brings_pictures_nearer_to_each_other(painter: TestClient) -> None:
    assert (picture(ask(painter, seed=1, truncation=0.25)) == painted("dark", 1, truncation=0.25)[0]).all()
    assert (picture(ask(painter, seed=1, truncation=1)) == painted("dark", 1)[0]).all()


def test_a_version_can_be_named(painter: TestClient) -> None:
    body = {"inputs": "left", "parameters": {"seed": 1}}
    answers = [painter.post(f"{URL}{path}", json=body) for path in ("/versions/1", "/versions/2", "")]
    assert answers[0].content != answers[1].content == answers[2].content
    assert answers[0].headers["x-inferd-version"] == "1"
    refused(painter.post(f"{URL}/versions/3", json=body), 404)


# Every way to send a request


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/octet-stream", None])
def test_a_text_may_come_as_it_is_with_its_parameters_in_the_query(painter: TestClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = painter.post(f"{URL}?seed=4&format=webp&width=12&strict=false", content=b"left", headers=headers)
    assert (picture(answer, "image/webp") == enlarged(painted("left", 4)[0], 2)).all()
    answer = painter.post(f"{URL}?seed=4&num_images=4&grid=1", content=b"left", headers=headers)
    assert (picture(answer) == np.concatenate(painted("left", 4, 4))).all()
    answer = painter.post(f"{URL}?seed=4&num_images=2&grid=true", content=b"left", headers=headers)
    assert picture(answer).shape == (2 * HEIGHT, WIDTH, 1)
    answer = painter.post(f"{URL}?seed=4&num_images=2&grid=false", content=b"left", headers=headers)
    assert len(entries_of(answer)) == 2


def test_a_request_needs_no_body_where_the_query_says_it_all(painter: TestClient) -> None:
    assert (picture(painter.post(f"{URL}?label=left&seed=4")) == painted("left", 4)[0]).all()


def test_a_form_may_hold_the_text(painter: TestClient) -> None:
    answer = painter.post(f"{URL}?seed=4", files={"file": ("text.txt", b"left")})
    assert (picture(answer) == painted("left", 4)[0]).all()


# Several


def test_several_come_in_json_with_all_that_draws_them_again(painter: TestClient) -> None:
    answer = ask(painter, seed=7, num_images=5)
    assert answer.headers["x-inferd-seed"] == "7"
    entries = entries_of(answer)
    assert (np.stack([one["image"] for one in entries]) == painted("dark", 7, 5)).all()
    for number, entry in enumerate(entries):
        assert entry.keys() == {"image", "content_type", "latent", "seed", "label", "conditions", "score"}
        assert entry["content_type"] == "image/png"
        assert (np.float32(entry["latent"]) == latents_of(7, 5, LATENT)[number]).all()
        assert (entry["seed"], entry["label"], entry["conditions"]) == (7, "dark", {"dark": 1.0})
        assert 0.5 < entry["score"] <= 1


def test_one_comes_in_json_where_it_is_asked_for(painter: TestClient) -> None:
    (entry,) = entries_of(ask(painter, seed=7, accept=JSON))
    assert (entry["image"] == painted("dark", 7)[0]).all()
    (entry,) = entries_of(ask(painter, None, label="dark", seed=7, accept=JSON))
    assert "score" not in entry


def test_a_latent_that_was_told_draws_the_same_again(painter: TestClient) -> None:
    told = ask(painter, seed=7, num_images=3, truncation=0.5, accept=JSON).json()
    latents = [one["latent"] for one in told]
    again = ask(painter, latent=latents)
    assert "x-inferd-seed" not in again.headers
    for entry, before in zip(again.json(), told, strict=True):
        assert "seed" not in entry
        assert entry["image"] == before["image"]
        assert entry["latent"] == before["latent"]
    assert (picture(ask(painter, latent=latents[1])) == entries_of(again)[1]["image"]).all()
    assert len(ask(painter, latent=latents[1], num_images=4).json()) == 4


def test_a_way_leads_from_one_picture_to_another(painter: TestClient) -> None:
    answer = ask(painter, "dark", seed=1, interpolate={"to": {"inputs": "bright", "seed": 2}, "steps": 5})
    shares = np.linspace(0, 1, 5)[:, None]
    conditions = (1 - shares) * one_hot("dark") + shares * one_hot("bright")
    ends = [latents_of(seed, 1, LATENT)[0] for seed in (1, 2)]
    entries = entries_of(answer)
    assert (np.stack([one["image"] for one in entries]) == drawn(between(*ends, 5), conditions)).all()
    assert (entries[0]["image"] == painted("dark", 1)[0]).all()
    assert (entries[4]["image"] == painted("bright", 2)[0]).all()
    assert [one.get("label") for one in entries] == ["dark", None, None, None, "bright"]
    assert entries[1]["conditions"] == {"dark": 0.75, "bright": 0.25}


def test_pictures_are_added_and_taken_off(painter: TestClient) -> None:
    terms = [{"label": "left", "seed": 1}, {"label": "dark", "seed": 2, "weight": -1}, {"inputs": "white", "seed": 3}]
    answer = ask(painter, None, arithmetic=terms, accept=JSON)
    (entry,) = entries_of(answer)
    latent = total(np.stack([latents_of(seed, 1, LATENT)[0] for seed in (1, 2, 3)]), [1, -1, 1])
    conditions = one_hot("left") - one_hot("dark") + one_hot("bright")
    assert (entry["image"] == drawn(latent[None], conditions)[0]).all()
    assert entry["conditions"] == {"left": 1, "dark": -1, "bright": 1}
    assert "label" not in entry
    assert (picture(ask(painter, None, arithmetic=terms)) == entry["image"]).all()


# What an answer is


@pytest.mark.parametrize("kind", ["image/png", "image/webp", "image/jpeg"])
def test_a_picture_is_of_the_format_that_is_asked_for_or_accepted(painter: TestClient, kind: str) -> None:
    expected = painted("bright", 4)[0]
    for answer in (
        ask(painter, "bright", seed=4, format=kind.removeprefix("image/")),
        ask(painter, "bright", seed=4, accept=kind),
        ask(painter, "bright", seed=4, accept=f"text/html, {kind}, image/*;q=0.5"),
        ask(painter, "bright", seed=4, accept="image/png, image/webp;q=0.1", format=kind.removeprefix("image/")),
    ):
        seen = picture(answer, kind).astype(int)
        assert np.abs(seen - expected).max() <= (12 if kind == "image/jpeg" else 0)


def test_pictures_in_json_are_of_the_format_that_is_asked_for_or_accepted(painter: TestClient) -> None:
    def kinds(**asked: Any) -> set[str]:
        return {one["content_type"] for one in entries_of(ask(painter, num_images=2, **asked))}

    assert kinds() == kinds(accept=JSON) == {"image/png"}
    assert kinds(format="webp") == kinds(accept=f"{JSON}, image/webp;q=0.1") == {"image/webp"}
    assert kinds(accept="application/json, text/plain, */*") == {"image/png"}


def test_one_picture_is_json_or_a_picture_as_the_client_likes_better(painter: TestClient) -> None:
    for accept, kind in (
        ("application/json, text/plain, */*", JSON),
        ("image/png;q=0.5, application/json", JSON),
        ("image/png, application/json;q=0.9", "image/png"),
        ("*/*", "image/png"),
        ("", "image/png"),
    ):
        assert ask(painter, accept=accept).headers["content-type"] == kind


def test_accept_may_come_in_several_lines(painter: TestClient) -> None:
    lines = [("accept", "text/html"), ("accept", "image/webp")]
    picture(painter.post(URL, json={"inputs": "dark"}, headers=httpx.Headers(lines).multi_items()), "image/webp")


@pytest.mark.parametrize(("grid", "shape"), [(True, (3, 2)), (1, (6, 1)), (4, (2, 4)), (64, (1, 6))])
def test_a_grid_has_all_of_them_in_one(painter: TestClient, grid: bool | int, shape: tuple[int, int]) -> None:
    rows, columns = shape
    sheet = picture(ask(painter, "left", seed=3, num_images=6, grid=grid))
    assert sheet.shape == (rows * HEIGHT, columns * WIDTH, 1)
    cells = sheet.reshape(rows, HEIGHT, columns, WIDTH, 1).swapaxes(1, 2).reshape(-1, HEIGHT, WIDTH, 1)
    assert (cells[:6] == painted("left", 3, 6)).all()
    assert not cells[6:].any()


def test_a_grid_is_a_picture_whatever_else_is_accepted(painter: TestClient) -> None:
    for accept in ("application/json, text/plain, */*", "image/png", "*/*"):
        assert picture(ask(painter, num_images=4, grid=True, accept=accept)).shape == (2 * HEIGHT, 2 * WIDTH, 1)
    assert picture(ask(painter, grid=True)).shape == (HEIGHT, WIDTH, 1)
    assert picture(ask(painter, num_images=4, grid=2, format="webp"), "image/webp").shape == (2 * HEIGHT, 2 * WIDTH, 1)


def test_what_a_client_can_not_read_is_refused_with_what_it_might_have(painter: TestClient) -> None:
    assert "image/png, image/webp, image/jpeg, application/json" in refused(ask(painter, accept="image/gif"))
    told = refused(ask(painter, num_images=3, accept="image/png"))
    assert told == ("3 pictures come in JSON, and Accept is 'image/png': accept application/json, or ask for a grid")
    assert "grid is a picture" in refused(ask(painter, num_images=3, grid=True, accept=JSON))


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_many_large_pictures_are_written_like_few_small_ones(painter: TestClient, format: str) -> None:
    many = ask(painter, "left", seed=1, num_images=64, width=96, format=format)
    few = ask(painter, "left", seed=1, num_images=2, width=96, format=format)
    assert many.json()[:2] == few.json()
    entries = entries_of(many)
    assert len(entries) == 64
    error = np.abs(entries[63]["image"].astype(int) - enlarged(painted("left", 1, 64)[63], 16)).max()
    assert error <= (12 if format == "jpeg" else 0)


# Other models


def test_a_model_that_reads_no_texts_is_told_a_label(painter: TestClient) -> None:
    answer = painter.post("/predict/tiny-labels", json={"parameters": {"label": "left", "seed": 4}})
    assert (picture(answer) == painted("left", 4)[0]).all()
    answer = painter.post("/predict/tiny-labels", json={"inputs": "left"})
    assert "reads no texts; give a label: dark, bright, left" in refused(answer)
    assert "give a label: dark, bright, left" in refused(painter.post("/predict/tiny-labels", json={}))


@pytest.mark.parametrize("body", [{}, {"inputs": ""}, {"inputs": None}])
def test_a_model_without_classes_draws_whatever_comes(painter: TestClient, body: dict[str, Any]) -> None:
    answer = painter.post("/predict/tiny-noise", json={**body, "parameters": {"seed": 4}})
    assert (picture(answer) == drawn(latents_of(4, 1, LATENT))[0]).all()
    answer = painter.post("/predict/tiny-noise", json={"parameters": {"seed": 4, "num_images": 2}})
    assert [one.keys() for one in entries_of(answer)] == [{"image", "content_type", "latent", "seed"}] * 2
    refused(painter.post("/predict/tiny-noise", json={"inputs": "dark"}))
    refused(painter.post("/predict/tiny-noise", json={"parameters": {"label": "dark"}}))


def test_pictures_may_have_colours(painter: TestClient) -> None:
    for kind in ("image/png", "image/webp"):
        body = {"inputs": "left", "parameters": {"seed": 4}}
        answer = painter.post("/predict/tiny-colours", json=body, headers={"accept": kind})
        assert (picture(answer, kind) == painted("left", 4, channels=3)[0]).all()


# Errors


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"num_images": 0}, "greater than or equal to 1"),
        ({"num_images": 10**6}, "less than or equal to 64"),
        ({"num_images": "many"}, "'num_images'"),
        ({"seed": -1}, "'seed'"),
        ({"seed": 2**63}, "'seed'"),
        ({"seed": 1.5}, "'seed'"),
        ({"latent": [0.0] * 7}, "list of 8 numbers from -10 to 10"),
        ({"latent": [0.0] * 7 + [1e9]}, "list of 8 numbers from -10 to 10"),
        ({"latent": [[0.0] * 8] * 65}, "1 to 64"),
        ({"latent": [[0.0] * 8] * 63 + [[0.0] * 7]}, "list 63 has 7"),
        ({"latent": []}, "list of 8 numbers"),
        ({"latent": "noise"}, "list of 8 numbers"),
        ({"latent": [0.0] * 8, "seed": 1}, "latent and seed"),
        ({"latent": [[0.0] * 8] * 2, "num_images": 3}, "num_images"),
        ({"truncation": 0}, "'truncation'"),
        ({"truncation": 1.5}, "'truncation'"),
        ({"label": "dark"}, "inputs and label"),
        ({"width": 7}, "6x4, 12x8, 24x16, 48x32, 96x64"),
        ({"width": 12, "height": 4}, "6x4, 12x8, 24x16, 48x32, 96x64"),
        ({"format": "gif"}, "'png', 'webp' or 'jpeg'"),
        ({"grid": 0}, "columns from 1 to 64"),
        ({"grid": 65}, "columns from 1 to 64"),
        ({"grid": "many"}, "'grid': Input should be true, false, or a number of columns from 1 to 64"),
        ({"grid": "9" * 5000}, "'grid': Input should be true, false, or a number of columns from 1 to 64"),
        ({"grid": 1.5}, "columns from 1 to 64"),
        ({"interpolate": {"to": {"seed": 1}, "steps": 1}}, "'interpolate.steps'"),
        ({"interpolate": {"to": {"seed": 1}, "steps": 4}, "num_images": 4}, "num_images"),
        ({"interpolate": {"to": {"inputs": "soup"}, "steps": 4}}, "'soup' means nothing"),
        ({"arithmetic": [{"seed": 1}]}, "'arithmetic'"),
        ({"arithmetic": [{"seed": 1}, {"label": "blue"}]}, "labels: dark, bright, left"),
        ({"arithmetic": [{"seed": 1}, {"weight": 11}]}, "weight"),
        ({"num_inference_steps": 5}, "'num_inference_steps'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_with_what_would(
    painter: TestClient, parameters: dict[str, Any], said: str
) -> None:
    assert said in refused(ask(painter, **parameters))


def test_an_unknown_label_is_refused_with_those_that_there_are(painter: TestClient) -> None:
    assert "no label 'blue'; labels: dark, bright, left" in refused(ask(painter, None, label="blue"))


def test_numbers_that_json_has_not_are_refused(painter: TestClient) -> None:
    for number in ("NaN", "Infinity", "1e999"):
        body = f'{{"inputs": "dark", "parameters": {{"latent": [{", ".join([number] * 8)}]}}}}'
        refused(painter.post(URL, content=body, headers={"content-type": JSON}))


def test_an_unknown_parameter_is_refused_with_all_that_there_are(painter: TestClient) -> None:
    told = refused(ask(painter, surprise=1))
    allowed = told.partition("allowed: ")[2].rstrip(")").split(", ")
    assert {"label", "seed", "num_images", "latent", "format", "grid"} <= set(allowed)


@pytest.mark.parametrize("inputs", [None, "", "   ", 5, ["dark", "bright"], {"text": "dark"}])
def test_what_says_nothing_or_is_no_text_is_refused(painter: TestClient, inputs: object) -> None:
    assert "text" in refused(ask(painter, inputs))


def test_bytes_that_are_no_text_are_refused(painter: TestClient) -> None:
    assert "UTF-8" in refused(painter.post(URL, content=b"\xff", headers={"content-type": "text/plain"}))
    told = refused(painter.post(URL, content=b"\x89PNG", headers={"content-type": "image/png"}), 415)
    assert "text/plain" in told


def test_a_stream_is_refused_with_the_reason(painter: TestClient) -> None:
    assert refused(painter.post(URL, json={"inputs": "dark", "stream": True})) == "stream: a picture comes as a whole"


def test_other_tasks_still_need_inputs(painter: TestClient) -> None:
    for name in ("tiny", "tiny-text"):
        assert "inputs" in refused(painter.post(f"/predict/{name}", json={"parameters": {}}))


def test_too_much_is_too_large_and_names_the_limit(models: Path, serve: Serve) -> None:
    make_image_bundle(models)
    client = serve(models=models, max_pixels=96 * 64, max_text_characters=20, max_batch_rows=8)
    assert "INFERD_MAX_TEXT_CHARACTERS" in refused(ask(client, "x" * 21), 413)
    assert "INFERD_MAX_TEXT_CHARACTERS" in refused(ask(client, "x" * 100_000), 413)
    assert "INFERD_MAX_PIXELS" in refused(ask(client, num_images=2, width=96), 413)
    picture(ask(client, width=96))
    assert "8" in refused(ask(client, num_images=9), 413)
    assert len(ask(client, num_images=8).json()) == 8


def test_a_deadline_that_can_not_be_met_is_told(painter: TestClient) -> None:
    body = {"inputs": "dark"}
    refused(painter.post(URL, json=body, headers={"x-request-timeout-ms": "0.0001"}), 504)
    refused(painter.post(URL, json=body, headers={"x-request-timeout-ms": "soon"}), 400)


def test_who_waits_and_goes_away_is_not_drawn_for_and_a_full_queue_is_told(models: Path) -> None:
    make_image_bundle(models, idle_steps=1500)  # about 0.2 s a run

    async def main() -> None:
        limits = {"max_batch_rows": 4, "max_queue_rows": 4, "max_queue_s": 1000}
        app = create_app(Settings(models=models, threads=1, grpc_port=None, **limits))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            asyncio.timeout(PATIENCE_S),
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            await loaded(app)
            model = app.state.repository.get("tiny-painter")
            first = asyncio.create_task(client.post(URL, json={"inputs": "dark", "parameters": {"seed": 1}}))
            while model.is_idle:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.001)
            four = {"inputs": "dark", "parameters": {"num_images": 4}}
            async with visiting(app, URL, four) as visit:
                while model.queued_rows() < 4:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.001)
                full = await client.post(URL, json={"inputs": "dark"})
                assert refused(full, 429)
                assert int(full.headers["retry-after"]) >= 1
            assert visit.status in (None, 499)
            assert model.queued_rows() == 0
            assert (picture(await first) == painted("dark", 1)[0]).all()
            assert 'inferd_batch_size_sum{model="tiny-painter",version="1"} 1.0' in (await client.get("/metrics")).text

    asyncio.run(main())


# Descriptions and metrics


def test_the_model_describes_itself(painter: TestClient) -> None:
    described = painter.get(URL).json()
    assert (described["task"], described["version"], described["versions"]) == ("text-to-image", 2, [1, 2])
    assert described["labels"] == ["dark", "bright", "left"]
    assert described["sizes"] == ["6x4", "12x8", "24x16", "48x32", "96x64"]
    assert {"num_images", "seed", "interpolate", "format", "grid"} < described["parameters"].keys()
    assert {"Point", "Term"} <= described["$defs"].keys()
    assert painter.get("/predict/tiny-noise").json()["task"] == "unconditional-image-generation"


def test_every_parameter_is_in_the_docs() -> None:
    content = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    said = content.partition("\n### Pictures\n")[2].partition("\n### ")[0]
    assert [name for name in Parameters.model_fields if f"`{name}`" not in said] == []
    own = content.partition("\n### Images\n")[2].partition("\n## ")[0]
    assert [name for name in openai_images.Parameters.model_fields if f"`{name}`" not in own] == []


def test_pictures_and_failures_are_counted(models: Path, serve: Serve) -> None:
    make_image_bundle(models)
    client = serve(models=models)
    labels = {"model": "tiny-painter", "version": "1"}
    before = metrics(client)
    ask(client, num_images=16)
    ask(client, num_images=4, grid=True)
    ask(client)
    refused(ask(client, "soup"))
    refused(ask(client, num_images=0))
    after = metrics(client)
    assert gained(before, after, "inferd_batch_size_sum", **labels) == 21
    assert gained(before, after, "inferd_request_duration_seconds_count", **labels) == 5
    assert gained(before, after, "inferd_request_failures_total", reason="invalid", **labels) == 2
    assert gained(before, after, "inferd_queue_seconds_count", **labels) == 3
    assert gained(before, after, "inferd_postprocess_seconds_count", **labels) == 3
    assert gained(before, after, "inferd_requests_total", protocol="predict", code="200") == 3
