from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.service.repository.replicas import Shelf


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a bundle to make copies of."""
    return make_bundle(tmp_path_factory.mktemp("template"))


@pytest.fixture
def shelf(models: Path, template: Path) -> Shelf:
    """Give a folder for models, empty yet, with what puts them there."""
    return Shelf(models, template)
