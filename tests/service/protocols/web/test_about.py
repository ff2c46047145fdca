from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.manifest import Manifest, file_entry
from tests.bundles import HEIGHT, WIDTH, make_bare, make_bundle
from tests.conftest import start
from tests.service.requests import BRIGHT, PNG
from tests.text_bundles import make_text_bundle

BASE = "/playground/models/tiny/versions/1"
CARD = "# Tiny\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, of which `tiny` has a card and a picture, and a file of each kind that is nobody's business."""
    folder = tmp_path_factory.mktemp("models")
    bundle = make_bundle(folder)
    (bundle / "README.md").write_text(CARD, encoding="utf-8")
    Image.new("L", (3, 2), 200).save(bundle / "curve.png")
    (bundle / "unlisted.png").write_bytes(b"png")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    for name in ("README.md", "curve.png"):
        manifest["files"][name] = file_entry(bundle / name).model_dump()
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    make_bare(folder)
    make_text_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def shown(folder: Path) -> Iterator[TestClient]:
    with start(models=folder, max_body_bytes=10_000, max_pixels=100) as client:
        yield client


def test_the_manifest_is_what_the_bundle_was_made_with(shown: TestClient, folder: Path) -> None:
    answer = shown.get(f"{BASE}/manifest")
    assert answer.headers["content-disposition"] == 'attachment; filename="tiny-1-manifest.json"'
    assert answer.json() == json.loads((folder / "tiny" / "1" / "manifest.json").read_text(encoding="utf-8"))


def test_a_bare_graph_has_the_manifest_that_was_read_from_it(shown: TestClient) -> None:
    manifest = Manifest.model_validate(shown.get("/playground/models/bare/versions/1/manifest").json())
    assert manifest.task == "tensors"
    assert [tensor.name for tensor in manifest.default.graphs["model"].inputs] == ["x"]


def test_the_card_and_its_pictures_are_shown(shown: TestClient, folder: Path) -> None:
    card = shown.get(f"{BASE}/files/README.md")
    assert (card.text, card.headers["content-type"]) == (CARD, "text/markdown; charset=utf-8")
    curve = shown.get(f"{BASE}/files/curve.png")
    assert curve.content == (folder / "tiny" / "1" / "curve.png").read_bytes()
    assert curve.headers["content-type"] == "image/png"
    assert curve.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "model.onnx",
        "golden.npz",
        "labels.json",
        "manifest.json",
        "unlisted.png",
        "nothing.md",
        "..%2F1%2FREADME.md",
        "%2e%2e/1/README.md",
        "/etc/hosts.md",
        "",
    ],
)
def test_nothing_else_of_a_bundle_is(shown: TestClient, name: str) -> None:
    answer = shown.get(f"{BASE}/files/{name}")
    assert answer.status_code == 404
    assert "shows no file of this name" in answer.json()["error"]


def test_a_picture_that_was_changed_meanwhile_is_not_there_any_more(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / "README.md").write_text(CARD, encoding="utf-8")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["README.md"] = file_entry(bundle / "README.md").model_dump()
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with start(models=tmp_path) as client:
        assert client.get(f"{BASE}/files/README.md").status_code == 200
        (bundle / "README.md").write_text("# Evil\n", encoding="utf-8")
        answer = client.get(f"{BASE}/files/README.md")
        assert answer.status_code == 404
        assert "README.md" in answer.json()["error"]
        (bundle / "README.md").unlink()
        (bundle / "README.md").symlink_to("/etc/hostname")
        assert client.get(f"{BASE}/files/README.md").status_code == 404


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def test_what_the_network_is_given_is_shown(shown: TestClient) -> None:
    answer = shown.post(f"{BASE}/seen", content=BRIGHT, headers=PNG)
    assert answer.headers["content-type"] == "image/png"
    given = pixels(answer.content)
    assert given.shape == (HEIGHT, WIDTH)
    inverted = shown.post(f"{BASE}/seen?invert=true&top_k=2", content=BRIGHT, headers=PNG)
    assert (pixels(inverted.content) == 255 - given).all()


@pytest.mark.parametrize(
    ("path", "content", "status", "told"),
    [
        (f"{BASE}/seen", b"nothing", 415, "no image"),
        (f"{BASE}/seen", b"", 400, "empty"),
        (f"{BASE}/seen", bytes(10_001), 413, "INFERD_MAX_BODY_BYTES"),
        (f"{BASE}/seen?invert=perhaps", BRIGHT, 400, "invert"),
        ("/playground/models/tiny-text/versions/1/seen", BRIGHT, 400, "is given no pictures"),
        ("/playground/models/bare/versions/1/seen", BRIGHT, 400, "is given no pictures"),
        ("/playground/models/nobody/versions/1/seen", BRIGHT, 404, "no model"),
        ("/playground/models/tiny/versions/2/seen", BRIGHT, 404, "no version"),
    ],
)
def test_what_can_not_be_seen_is_refused_in_words(
    shown: TestClient, path: str, content: bytes, status: int, told: str
) -> None:
    answer = shown.post(path, content=content, headers=PNG)
    assert answer.status_code == status
    assert told in answer.json()["error"]


def test_a_picture_of_too_many_pixels_is_refused(shown: TestClient) -> None:
    content = BytesIO()
    Image.new("L", (11, 10)).save(content, "png")
    assert shown.post(f"{BASE}/seen", content=content.getvalue(), headers=PNG).status_code == 413
