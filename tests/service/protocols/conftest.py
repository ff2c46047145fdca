from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.bundles import make_bundle
from tests.conftest import start
from tests.text_bundles import make_text_bundle


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app that serves `tiny-text`, in two versions that differ, and `tiny`, which writes none."""
    folder = tmp_path_factory.mktemp("writers")
    make_text_bundle(folder, version=1, seed=4)
    make_text_bundle(folder, version=2)
    make_bundle(folder)
    with start(models=folder) as ready:
        yield ready
