from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bench.address import Address
from service.bench.limit import Limit
from service.bench.measure import allow_sockets, measure
from service.bench.plan import Plan
from service.bench.scenario import Wanted
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.bundles import lengths_graph, make_bare
from tests.e2e.server import running_server


@pytest.fixture
def few_files() -> Iterator[None]:
    """Have the system allow few open files, as far as nobody asks for more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_as_many_connections_are_allowed_as_are_needed() -> None:
    allow_sockets(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256
    allow_sockets(300)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300


@pytest.mark.usefixtures("few_files")
def test_more_connections_than_the_system_allows_are_an_error_that_says_so() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        pytest.skip("the system allows any number of open files")
    with pytest.raises(ValueError, match=rf"the system allows {most} \(ulimit -n\)"):
        allow_sockets(most)


def test_a_graph_whose_axes_are_open_is_asked_for_what_its_limit_is_measured_with(models: Path) -> None:
    path = make_bare(models, graph=lengths_graph())
    plan = Plan(clients=(2,), seconds=0.1, warm_up_s=0, batch_sizes=(2,), processes=(1,))
    told: list[str] = []
    with (
        running_server(models=models) as server,
        Limit(BundleFolder("bare", 1, path), Settings(device="cpu"), 1) as limit,
    ):
        wanted = Wanted("bare", protocol="infer", rows=3)
        result = measure(Address.of(server.url), wanted, plan, workers=1, limit=limit, tell=told.append)
    assert limit.ready.shapes == {"x": [8]}
    assert result.scenario["about"] == "tensors x FP32 [3, 8]"
    (run,) = result.runs
    figures = run.typical.figures
    assert figures.units_per_s == pytest.approx(3 * figures.per_s)
    assert run.typical.of_limit == figures.units_per_s / max(one.units_per_s for one in result.limit[0])
    assert [(one.processes, one.batch_size) for one in result.typical_limit] == [(1, 1), (1, 2)]
    # Two clients that ask for three rows each: the limit at two rows is the next fewer.
    assert run.typical.of_limit_at_rows == figures.units_per_s / result.limit[0][1].units_per_s
    assert [line.partition(":")[0] for line in told] == [
        "ONNX Runtime alone, 1 x 1",
        "ONNX Runtime alone, 1 x 2",
        "2 clients",
    ]
