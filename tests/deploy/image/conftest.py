from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.deploy.containers import build_image, missing, running
from tests.deploy.image.asking import LOCAL, Served


@pytest.fixture(scope="session")
def image() -> str:
    """The image of this checkout, built with what there is of it already."""
    problem = missing()
    assert problem is None, problem
    return build_image()


@pytest.fixture(scope="session")
def served(image: str) -> Iterator[Served]:
    """A server that is hardened, with 512 MB of memory and all other settings as they are by themselves."""
    with serving("--memory=512m", image=image) as server:
        yield server


@contextmanager
def serving(*arguments: str, image: str, **settings: object) -> Iterator[Served]:
    """A server in a container, with `arguments` of podman's and `settings` of inferd's, once it is ready."""
    environment = LOCAL | {f"INFERD_{name.upper()}": value for name, value in settings.items()}
    with running(*arguments, image=image, environment=environment) as container:
        yield Served(container)
