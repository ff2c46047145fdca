"""With a real server: the naive one, whose packages this environment has too."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import resnets

from loadtests.compare import running
from loadtests.compare.measuring import check, measure, others, pictures
from loadtests.compare.peers import PEERS, Peer, Setting
from loadtests.compare.running import NotServed, ask, python_of, reason_in, serving
from loadtests.compare.shared.compared_model import Model
from service.bench.plan import Plan

FASTAPI = PEERS[0]
PLAN = Plan(clients=(2,), rates=[1.0], connections=1, seconds=0.7, warm_up_s=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnets.write(tmp_path_factory.mktemp("models"), "resnet-20")


@pytest.fixture
def _in_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "python_of", lambda _: Path(sys.executable))


@pytest.mark.usefixtures("_in_this_environment")
@pytest.mark.parametrize("setting", FASTAPI.settings, ids=lambda setting: setting.name)
def test_a_server_answers_what_onnx_runtime_does_and_is_gone_afterwards(setting: Setting, model: Path) -> None:
    alone = Model(str(model))
    expected = [alone.run(one[np.newaxis])[0] for one in pictures()]
    with serving(FASTAPI, setting, model, 2, pictures()[0]) as address:
        check(setting, address, expected)
        with pytest.raises(ValueError, match=r"it answers \[.*\.\.\., and ONNX Runtime alone \["):
            check(setting, address, [one + 0.001 for one in expected])
        wrong = setting.wire.at("/nowhere")
        assert ask(address, wrong.request(address, pictures()[0]))[0] == 404
    with pytest.raises(OSError, match="refused"):
        ask(address, setting.wire.request(address, pictures()[0]))


@pytest.mark.usefixtures("_in_this_environment")
def test_nothing_is_left_of_a_server(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str] = []
    real = running._end

    def end(process: object, mark: str) -> None:
        marks.append(mark)
        assert len(running._marked(mark)) >= 3  # who began it, and two workers
        real(process, mark)

    monkeypatch.setattr(running, "_end", end)
    with serving(FASTAPI, FASTAPI.settings[0], model, 2, pictures()[0]):
        pass
    assert running._marked(marks[0]) == []


@pytest.mark.usefixtures("_in_this_environment")
def test_servers_are_measured_in_turns_and_one_that_does_not_start_is_tried_twice(model: Path, tmp_path: Path) -> None:
    good = list(others([FASTAPI], model, 1))
    bad = list(others([FASTAPI], tmp_path / "nothing.onnx", 1))[:1]
    told: list[str] = []
    plan = Plan(**{**vars(PLAN), "rounds": 3})
    measure([good[0], *bad], model, plan, told.append)
    assert not good[0].problems, told
    assert {clients: len(rounds) for clients, rounds in good[0].closed.items()} == {2: 3}
    loads = [one for rounds in good[0].closed.values() for one in rounds]
    assert sum(one.answered for one in loads) > 0
    assert not any(one.errors for one in loads)
    assert len(good[0].opened) == sum(one.answered > 0 for one in loads)  # none at all is less than one a second
    assert len(bad[0].problems) == 2
    assert "nothing.onnx" in bad[0].problems[0]
    assert not bad[0].closed


@pytest.mark.usefixtures("_in_this_environment")
def test_who_gives_much_less_is_not_asked_for_an_open_loop(model: Path) -> None:
    servers = list(others([FASTAPI], model, 1))[:1]
    told: list[str] = []
    measure(servers, model, Plan(**{**vars(PLAN), "rates": [90_000.0]}), told.append)
    assert servers[0].opened == []
    assert told[-1].startswith("FastAPI, raw: is not asked for 90,000/s, as it gives ")


def test_a_peer_that_is_not_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ENVIRONMENTS", tmp_path)
    missing = Peer("missing", "Missing", "missing", FASTAPI.settings)
    with pytest.raises(NotServed, match=r"could not be installed: make \.venv/compare/missing/bin/\.ready"):
        python_of(missing)
    said = "Looking in links: /somewhere\nERROR: No matching distribution found for missing==1.0\n\n"
    (tmp_path / "missing.log").write_text(said)
    with pytest.raises(NotServed, match="could not be installed: ERROR: No matching distribution found for missing"):
        python_of(missing)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", ""),
        ("started\nstopped\n", "stopped"),
        ("Traceback (most recent call last):\n  File\nValueError: no\n\nINFO bye\n", "ValueError: no"),
        ("ERROR: first\nERROR: last\nbye", "ERROR: last"),
    ],
)
def test_the_reason_is_the_last_line_that_tells_an_error(log: str, reason: str) -> None:
    assert reason_in(log) == reason
