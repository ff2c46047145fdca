from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.server import Server, running_server


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two workers"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(workers=request.param) as server:
        yield server
