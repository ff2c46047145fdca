from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.bundles import make_bundle
from tests.conftest import start
from tests.image_bundles import make_image_bundle
from tests.text_bundles import make_text_bundle
from tests.translation_bundles import WILD, make_translation_bundle


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app that serves `tiny-text`, in two versions that differ, and `tiny`, which writes none."""
    folder = tmp_path_factory.mktemp("writers")
    make_text_bundle(folder, version=1, seed=4)
    make_text_bundle(folder, version=2)
    make_bundle(folder)
    with start(models=folder) as ready:
        yield ready


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app that serves `tiny-en-de`, of which version 1 is a wild one, and others.

    `tiny-de-en` translates back, `tiny-en-fr` into what it calls French; `tiny` and `tiny-text` translate nothing.
    """
    folder = tmp_path_factory.mktemp("translators")
    make_translation_bundle(folder, version=1, character=WILD)
    make_translation_bundle(folder, version=2)
    make_translation_bundle(folder, "tiny-de-en", source="de", target="en")
    make_translation_bundle(folder, "tiny-en-fr", source="en", target="fr")
    make_bundle(folder)
    make_text_bundle(folder)
    with start(models=folder) as ready:
        yield ready


@pytest.fixture(scope="session")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app that serves `tiny-painter`, in two versions that differ, and others.

    `tiny-labels` draws the same and reads no texts, `tiny-noise` knows no classes, `tiny-colours` has three channels.
    `tiny` tells the painter's pictures apart, `tiny-text` draws none.
    """
    folder = tmp_path_factory.mktemp("painters")
    make_image_bundle(folder, version=1, seed=4)
    make_image_bundle(folder, version=2)
    make_image_bundle(folder, "tiny-labels", texts=False)
    make_image_bundle(folder, "tiny-noise", classes=False)
    make_image_bundle(folder, "tiny-colours", channels=3)
    make_bundle(folder)
    make_text_bundle(folder)
    with start(models=folder) as ready:
        yield ready
