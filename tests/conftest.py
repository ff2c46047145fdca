from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import ENV_PREFIX, Settings
from tests.bundles import make_bundle

_HERE = Path(__file__).parent

# They have environments of their own, see `make test-browser`, `make test-clients`, `make chart` and `make image`.
collect_ignore = ["browser", "clients", "deploy"]

# A slow machine is no defect of what is tested.
hypothesis.settings.register_profile("inferd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("inferd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together where several processes run them, and those with servers one after another."""
    for item in items:
        folder = item.path.relative_to(_HERE).parts[0]
        item.add_marker(pytest.mark.xdist_group("e2e" if folder == "e2e" else str(item.path)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell out what was captured and is no text: another process, where tests run side by side, can't be told it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


Serve = Callable[..., TestClient]


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"{ENV_PREFIX}{name.upper()}", raising=False)
        patch.setenv(f"{ENV_PREFIX}PROFILE_CACHE", "")  # nothing is left behind, and nothing found
        yield


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Give a folder for models, empty yet."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that starts an app, e.g. `serve(models=..., port=...)`; see `start`."""
    with ExitStack() as running:
        yield lambda **changes: running.enter_context(start(**changes))


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app that serves the bundle `tiny`. Its metrics are those of many tests."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder)
    with start(models=folder) as ready:
        yield ready


def start(**changes: Any) -> TestClient:
    """Make an app with a test's settings; the client that comes back starts it when it is entered."""
    settings = Settings(**{"threads": 1, "grpc_port": None, **changes})
    return _LoadedClient(create_app(settings), raise_server_exceptions=False)


class _LoadedClient(TestClient):
    """A client whose app is ready, or has refused what it can't serve, once the client is entered."""

    def __enter__(self) -> _LoadedClient:
        super().__enter__()
        assert self.portal
        assert isinstance(self.app, FastAPI)
        self.portal.call(loaded, self.app)
        return self


async def loaded(app: FastAPI) -> None:
    """Wait until every model of a started app is ready or refused."""
    repository = app.state.repository

    def is_loading() -> bool:
        states = {entry.state for entry in repository.entries()}
        # Readiness comes last, and where there are no models nothing else tells that this is known.
        return "LOADING" in states or (states <= {"READY"} and not repository.is_ready)

    while is_loading():  # noqa: ASYNC110 - loading tells nobody when it ends
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(app: FastAPI, *, wait: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Start an app in this event loop, and wait for its models; the client can send several requests at once."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as one:
        if wait:
            await loaded(app)
        yield one
