from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.clients.models import adds, write
from tests.clients.serving import KEY, alone_and_with_two_workers
from tests.clients.triton.callers import Caller, array_of

pytestmark = alone_and_with_two_workers

one_client_a_protocol = pytest.mark.parametrize("caller", ["http", "grpc"], indirect=True)  # a load takes its time
KEYLESS = {"no key": None, "another key": "other"}


@pytest.fixture
def controller(caller: Caller) -> Iterator[Caller]:
    """A client that may change which versions of `swap` serve; they all do before and after."""
    yield caller
    caller.load_model("swap", headers=headers())
    assert serving(caller, "swap") == [1, 2, 10]


@pytest.fixture
def fresh(caller: Caller) -> Iterator[str]:
    """The name of a model that is made by the test, and is gone after it."""
    name = f"fresh-{caller.kind}"
    yield name
    shutil.rmtree(caller.served.models / name)
    caller.unload_model(name, headers=headers())
    assert [row for row in index(caller) if row["name"] == name] == []


def headers(key: str | None = KEY) -> dict[str, str] | None:
    """What opens control; a dict of its own for each call, as clients add to it."""
    return None if key is None else {"authorization": f"Bearer {key}"}


def policy(**given: object) -> str:
    return json.dumps({"version_policy": given})


def index(caller: Caller) -> list[dict[str, Any]]:
    told = caller.told("get_model_repository_index")
    rows = told["models"] if caller.is_grpc else told
    return [{"reason": "", **row} for row in rows]


def states(caller: Caller, name: str) -> dict[int, str]:
    return {row["version"]: row["state"] for row in index(caller) if row["name"] == name}


def serving(caller: Caller, name: str) -> list[int]:
    """The versions that serve, as whichever worker is asked says."""
    versions: list[int] = caller.told("get_model_metadata", name)["versions"]
    return versions


def everywhere(caller: Caller, check: Callable[[Caller], None]) -> None:
    """Have every worker pass a check, over connections of their own."""

    def once() -> None:
        own = caller.again()
        check(own)
        own.close()

    caller.served.reach_every_worker(once)


def answers(version: int) -> Callable[[Caller], None]:
    def check(own: Caller) -> None:
        assert own.ask("swap", {"x": array_of(5)}).as_numpy("y").tolist() == [[5 + version]]

    return check


def test_the_index_has_every_version_that_was_found(caller: Caller) -> None:
    rows = index(caller)
    names = [(row["name"], row["version"]) for row in rows]
    assert names == sorted(names)
    assert [version for name, version in names if name == "swap"] == [1, 2, 10]
    assert {path.name for path in caller.served.models.iterdir()} == {name for name, _ in names}
    assert {(row["state"], row["reason"]) for row in rows} == {("READY", "")}


@one_client_a_protocol
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"specific": {"versions": [2]}}, [2]),
        ({"specific": {"versions": [1, 10]}}, [1, 10]),
        ({"latest": {"num_versions": 2}}, [2, 10]),
        ({"all": {}}, [1, 2, 10]),
    ],
)
def test_a_load_says_which_versions_serve_in_every_worker(
    controller: Caller, given: dict[str, object], expected: Sequence[int]
) -> None:
    controller.load_model("swap", headers=headers(), config=policy(**given))
    assert states(controller, "swap") == {
        version: "READY" if version in expected else "UNAVAILABLE" for version in (1, 2, 10)
    }

    def check(own: Caller) -> None:
        assert serving(own, "swap") == expected
        for version in (1, 2, 10):
            assert own.is_model_ready("swap", str(version)) is (version in expected)
        answers(max(expected))(own)

    everywhere(controller, check)


def test_a_model_that_is_unloaded_serves_nowhere(controller: Caller) -> None:
    controller.unload_model("swap", headers=headers())

    def check(own: Caller) -> None:
        assert own.is_server_ready() is True
        assert own.is_model_ready("swap") is False
        own.refused(lambda: own.ask("swap", {"x": array_of(1)}), 503, "'swap'", "is not loaded")
        own.refused(lambda: own.get_model_metadata("swap"), 503, "'swap'", "is not loaded")

    everywhere(controller, check)
    assert {(row["state"], row["reason"]) for row in index(controller) if row["name"] == "swap"} == {
        ("UNAVAILABLE", "is not loaded")
    }
    controller.load_model("swap", headers=headers())
    everywhere(controller, answers(10))


@pytest.mark.parametrize("key", KEYLESS.values(), ids=KEYLESS)
def test_control_needs_the_key(caller: Caller, key: str | None) -> None:
    def check(own: Caller) -> None:
        own.refused(lambda: own.unload_model("swap", headers=headers(key)), 401, "key")
        own.refused(lambda: own.load_model("swap", headers=headers(key), config=policy(latest={})), 401, "key")
        assert serving(own, "swap") == [1, 2, 10]

    everywhere(caller, check)


def test_an_unknown_model_can_be_neither_loaded_nor_unloaded(caller: Caller) -> None:
    caller.refused(lambda: caller.load_model("nobody", headers=headers()), 404, "'nobody'")
    caller.refused(lambda: caller.unload_model("nobody", headers=headers()), 404, "'nobody'")


def test_a_load_can_ask_for_nothing_but_versions(caller: Caller) -> None:
    for config, status, words in (
        ('{"max_batch_size": 1}', 501, "max_batch_size"),
        ("{", 400, "JSON"),
        (policy(newest={}), 400, "newest"),
        (policy(specific={"versions": [3]}), 404, "no version 3"),
    ):
        load = lambda config=config: caller.load_model("swap", headers=headers(), config=config)  # noqa: E731 - refused
        caller.refused(load, status, words)
    # Triton takes a model's files from a client that gives its configuration too.
    give = lambda: caller.load_model("swap", headers=headers(), config="{}", files={"file:1/model.onnx": b"onnx"})  # noqa: E731
    caller.refused(give, 501, "no files")
    assert serving(caller, "swap") == [1, 2, 10]


@one_client_a_protocol
def test_a_new_model_is_found_once_it_is_asked_for(caller: Caller, fresh: str) -> None:
    write(caller.served.models, fresh, adds(1))
    assert states(caller, fresh) == {1: "UNAVAILABLE"}
    caller.load_model(fresh, headers=headers())

    def check(own: Caller) -> None:
        assert own.ask(fresh, {"x": array_of(5)}).as_numpy("y").tolist() == [[6]]

    everywhere(caller, check)
    assert states(caller, fresh) == {1: "READY"}


@one_client_a_protocol
def test_a_broken_version_says_why_and_leaves_the_old_one_serving(caller: Caller, fresh: str) -> None:
    write(caller.served.models, fresh, adds(1))
    caller.load_model(fresh, headers=headers())
    write(caller.served.models, fresh, b"no model at all", version=2)
    caller.refused(lambda: caller.load_model(fresh, headers=headers()), 400, "model.onnx", grpc="FAILED_PRECONDITION")
    rows = {row["version"]: row for row in index(caller) if row["name"] == fresh}
    assert {version: row["state"] for version, row in rows.items()} == {1: "READY", 2: "UNAVAILABLE"}
    assert "model.onnx" in rows[2]["reason"]

    def check(own: Caller) -> None:
        assert own.ask(fresh, {"x": array_of(5)}).as_numpy("y").tolist() == [[6]]
        own.refused(lambda: own.ask(fresh, {"x": array_of(5)}, model_version="2"), 503, "model.onnx")

    everywhere(caller, check)
