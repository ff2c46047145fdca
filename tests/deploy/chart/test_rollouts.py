from __future__ import annotations

import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.deploy.chart.loads import CLASSIFY, load
from tests.deploy.chart.processes import Replica, needs, proxied, replicas
from tests.deploy.chart.rendering import ROOT, Object, render

REPLACEMENTS = 20
CLIENTS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, so that a replica is there soon."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models" / "fashion-classifier", folder / "fashion-classifier")
    return folder


@pytest.fixture(scope="module")
def pods() -> list[Object]:
    """The release; a replica drains for as long as the chart says."""
    return render({"settings": {"workers": 1, "threads": 1}})


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where replicas keep what they have measured, as the second start of a pod would find it."""
    return tmp_path_factory.mktemp("profiles")


def test_a_rolling_restart_loses_no_request(pods: list[Object], models: Path, profiles: Path, tmp_path: Path) -> None:
    """Nobody asks twice: what a replica does not answer is lost, and would be counted here."""
    needs("nginx")

    started = []

    def start(number: int) -> Replica:
        started.append(Replica(f"inferd-{number}", pods, models, profile_cache=profiles))
        return started[-1]

    serving = [start(0), start(1)]
    try:
        with (
            replicas(*serving),
            proxied(tmp_path / "nginx", *serving) as (proxy, endpoints),
            ThreadPoolExecutor() as starting,
        ):
            with load(proxy.port, [CLASSIFY], clients=CLIENTS, pause_s=0.05) as clients:
                following = starting.submit(start, 2)
                for number in range(REPLACEMENTS):
                    new = following.result()
                    serving.append(new)
                    if number + 1 < REPLACEMENTS:
                        following = starting.submit(start, number + 3)
                    endpoints.add(new)  # it gets requests once it is ready, and not before
                    old, other = serving[-3], serving[-2]
                    endpoints.wait_for(old, other, new)
                    old.terminate()
                    endpoints.wait_for(other, new)  # it drains while the next one starts
                    endpoints.remove(old)
            assert [one.wait() for one in serving[:REPLACEMENTS]] == [0] * REPLACEMENTS
            assert clients.failures == {}
            assert clients.answered > 20 * REPLACEMENTS
            print(f"{REPLACEMENTS} replicas replaced, {clients.answered} requests answered, none lost")
    finally:
        for one in started:
            one.close()


def test_a_killed_replica_takes_only_what_it_was_at_with_it(
    pods: list[Object], models: Path, profiles: Path, tmp_path: Path
) -> None:
    """What could not be sent to it goes to the other one; what was sent is never sent again."""
    needs("nginx")
    with replicas(*(Replica(f"inferd-{n}", pods, models, profile_cache=profiles) for n in range(2))) as (killed, other):
        with (
            proxied(tmp_path / "nginx", killed, other, retries=True) as (proxy, endpoints),
            load(proxy.port, [CLASSIFY], clients=CLIENTS) as clients,
        ):
            time.sleep(1)
            assert clients.answered > 0
            assert clients.failures == {}
            killed.process.send_signal(signal.SIGKILL)
            assert killed.process.wait() == -signal.SIGKILL
            gone = time.monotonic()
            out_after_s = endpoints.wait_for(other)
            taken_out = clients.answered
            time.sleep(1)
        assert clients.answered > taken_out + 20, "the rest goes on"
        assert set(clients.failures) <= {"502"}
        assert all(began < gone for began in clients.failed), "what began later was answered by the other one"
        assert out_after_s < 2
        print(f"{len(clients.failed)} requests lost with a killed replica; taken out after {out_after_s:.2f} s")
