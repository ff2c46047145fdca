from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from service.errors import BundleRefused, InferdError, NotReady
from service.repository.placement import Tuning
from service.repository.scan import BundleFolder
from service.settings import Settings
from service.workers.children import python
from service.workers.trial import TrialProcess, answer_trial
from tests.bundles import identity_graph, make_bare, make_bundle, truncate
from tests.hostile_graphs import large

PATIENT_S = 60.0

CHILD = """
import os, signal, sys, time
from service.errors import BundleRefused, NotReady
from service.repository.placement import Tuning
from service.workers.trial import answer_trial

pids = sys.argv[1]
with open(pids, "a") as file:
    print(os.getpid(), file=file)

def refuse(error):
    raise error

def write(content):
    os.write(1, content)

def make_try(settings):
    ways = {
        "good": lambda: None,
        "settings": lambda: refuse(NotReady(f"{settings.max_queue_s} {settings.admin_key.get_secret_value()}")),
        "refused": lambda: refuse(BundleRefused("model.onnx", "is broken")),
        "unready": lambda: refuse(NotReady("there is no GPU")),
        "wordy": lambda: refuse(BundleRefused("model.onnx", "x" * 200_000)),
        "defect": lambda: refuse(LookupError("a secret of the server")),
        "greedy": lambda: bytearray(2**62),
        "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "exit": lambda: os._exit(3),
        "hang": lambda: time.sleep(600),
        "closed": lambda: (os.close(1), time.sleep(600)),
        "noise": lambda: write(b"loaded the graph\\n"),
        "half": lambda: (write(b'{"tuning": {"profiles": {"model": [[1, '), os._exit(0)),
        "null": lambda: write(b"null\\n"),
        "flood": lambda: [write(b"x" * 2**16) for _ in range(100)],
    }

    def attempt(folder):
        ways[folder.name]()
        return Tuning({"model": ((folder.version, 1.0),)}, threads=3)

    return attempt

answer_trial(sys.stdin.buffer, sys.stdout.buffer, make_try)
"""


class Children:
    """Children that behave as the folders are called."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "child.py"
        self._script.write_text(CHILD, encoding="utf-8")
        self._pids = folder / "pids"
        self._pids.touch()

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(self._script), str(self._pids)]

    def started(self) -> list[int]:
        """The process ids of all that ever ran; none of them may run still."""
        return [int(line) for line in self._pids.read_text().split()]


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


def folders_of(*names: str) -> list[BundleFolder]:
    return [BundleFolder(name, number, Path(f"/models/{name}/{number}")) for number, name in enumerate(names, 1)]


def attempt(
    command: Sequence[str],
    folders: Sequence[BundleFolder],
    settings: Settings | None = None,
    timeout_s: float = PATIENT_S,
) -> list[Tuning | InferdError]:
    trial = TrialProcess(command, settings or Settings(), timeout_s=timeout_s)
    outcomes = asyncio.run(trial(folders))
    gc.collect()  # what is left open would be a warning, and so an error
    return outcomes


def described(outcomes: Sequence[Tuning | InferdError]) -> list[object]:
    return [one.profiles if isinstance(one, Tuning) else f"{type(one).__name__}: {one}" for one in outcomes]


def all_gone(pids: Sequence[int]) -> bool:
    for pid in pids:
        try:
            os.kill(pid, 0)
            return False
        except ProcessLookupError:
            pass
    return True


# Outcomes


def test_all_are_tried_in_one_process_and_each_has_its_outcome(children: Children) -> None:
    outcomes = attempt(children.command, folders_of("good", "refused", "good", "unready", "good"))
    assert described(outcomes) == [
        {"model": ((1, 1.0),)},
        "BundleRefused: model.onnx: is broken",
        {"model": ((3, 1.0),)},
        "NotReady: there is no GPU",
        {"model": ((5, 1.0),)},
    ]
    assert len(children.started()) == 1
    assert all_gone(children.started())


def test_nothing_to_try_needs_no_process(children: Children) -> None:
    assert attempt(children.command, []) == []
    assert children.started() == []


def test_the_child_has_the_settings_of_the_server(children: Children) -> None:
    for seconds in (0.25, float("inf")):
        (outcome,) = attempt(children.command, folders_of("settings"), Settings(max_queue_s=seconds, admin_key="key"))
        assert described([outcome]) == [f"NotReady: {seconds} key"]


def test_a_defect_is_told_without_its_secrets(children: Children) -> None:
    outcomes = attempt(children.command, folders_of("defect", "good"))
    assert described(outcomes) == [
        "BundleRefused: bundle: loading failed unexpectedly; see the log",
        {"model": ((2, 1.0),)},
    ]
    assert len(children.started()) == 1


def test_whoever_needs_more_memory_than_there_is_is_refused_and_the_rest_is_tried_in_the_same_process(
    children: Children,
) -> None:
    outcomes = attempt(children.command, folders_of("greedy", "good"))
    assert described(outcomes) == [
        "BundleRefused: trial: loading it takes more memory than it may have (INFERD_LOAD_MEMORY_BYTES)",
        {"model": ((2, 1.0),)},
    ]
    assert len(children.started()) == 1


def test_a_long_reason_is_told_in_full(children: Children) -> None:
    (outcome, _) = attempt(children.command, folders_of("wordy", "good"))
    assert isinstance(outcome, BundleRefused)
    assert outcome.problem == "x" * 200_000


# Children that end, hang or talk


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("crash", "quarantined: loading it ended the process (SIGSEGV)"),
        ("exit", "quarantined: loading it ended the process (exit code 3)"),
        ("half", "the process that loaded it failed (Input data was truncated)"),
        ("noise", "the process that loaded it failed (JSON is malformed: invalid character (byte 0))"),
        ("null", "the process that loaded it failed (Expected `object`, got `null`)"),
        ("flood", "the process that loaded it failed (Separator is not found, and chunk exceed the limit)"),
    ],
)
def test_what_the_child_does_not_survive_is_refused_and_the_rest_is_tried_all_the_same(
    children: Children, way: str, reason: str
) -> None:
    outcomes = attempt(children.command, folders_of("good", way, "good", way, "refused"))
    kind = "Quarantined" if reason.startswith("quarantined: ") else "BundleRefused"
    assert described(outcomes) == [
        {"model": ((1, 1.0),)},
        f"{kind}: trial: {reason}",
        {"model": ((3, 1.0),)},
        f"{kind}: trial: {reason}",
        "BundleRefused: model.onnx: is broken",
    ]
    assert len(children.started()) == 3
    assert all_gone(children.started())


@pytest.mark.parametrize("way", ["hang", "closed"])
def test_a_child_that_takes_too_long_is_ended(children: Children, way: str) -> None:
    before = time.monotonic()
    outcomes = attempt(children.command, folders_of("good", way, "good"), timeout_s=5.0)
    assert time.monotonic() - before < 30
    assert described(outcomes) == [
        {"model": ((1, 1.0),)},
        "Quarantined: trial: quarantined: loading it took more than 5 s",
        {"model": ((3, 1.0),)},
    ]
    assert all_gone(children.started())


def test_where_there_is_no_such_command_all_is_refused(tmp_path: Path) -> None:
    outcomes = attempt([str(tmp_path / "nothing")], folders_of("good", "refused"))
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert isinstance(outcome, BundleRefused)
        assert "no process could be made to load it in" in str(outcome)


@pytest.mark.parametrize("code", ["", "import sys; sys.exit(1)", "import os; os.close(0)", "print('hello')"])
def test_a_command_that_is_something_else_refuses_all(code: str) -> None:
    outcomes = attempt([sys.executable, "-c", code], folders_of("good", "refused"))
    assert len(outcomes) == 2
    assert all(isinstance(one, BundleRefused) and one.file == "trial" for one in outcomes)


def test_whoever_gives_up_leaves_no_child_behind(children: Children) -> None:
    async def scenario() -> None:
        trial = TrialProcess(children.command, Settings(), timeout_s=PATIENT_S)
        trying = asyncio.create_task(trial(folders_of("hang", "good")))
        async with asyncio.timeout(PATIENT_S):
            while not children.started():  # noqa: ASYNC110 - another process tells nobody that it runs
                await asyncio.sleep(0.01)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying

    asyncio.run(scenario())
    gc.collect()
    assert len(children.started()) == 1
    assert all_gone(children.started())


# The child's side


def test_the_child_answers_line_by_line_as_it_goes() -> None:
    given, taken = io.BytesIO(), io.BytesIO()
    lines: list[int] = []

    def make_try(settings: Settings) -> Callable[[BundleFolder], Tuning]:
        assert settings == Settings()

        def attempt(folder: BundleFolder) -> Tuning:
            lines.append(taken.getvalue().count(b"\n"))
            assert folder.path == Path(f"/models/a/{folder.version}")
            if folder.version == 2:
                raise NotReady("not now")
            return Tuning({"model": ((1, 0.5), (2, 0.75))}, threads=2, wide_threads=4)

        return attempt

    folders = [{"name": "a", "version": version, "path": f"/models/a/{version}"} for version in (1, 2)]
    given.write(json.dumps({"settings": Settings().to_json().decode(), "folders": folders}).encode() + b"\n")
    given.seek(0)
    answer_trial(given, taken, make_try)
    assert lines == [0, 1]
    assert taken.getvalue().splitlines() == [
        b'{"tuning":{"profiles":{"model":[[1,0.5],[2,0.75]]},"threads":2,"wide_threads":4},"error":null}',
        b'{"tuning":{"profiles":{},"threads":0,"wide_threads":0},"error":["NotReady",["not now"],0.0]}',
    ]


# The real thing


def test_real_bundles_are_loaded_replayed_and_timed_in_a_process_of_their_own(models: Path) -> None:
    make_bundle(models, "a")
    truncate(make_bundle(models, "b") / "model.onnx")
    make_bare(models, "c", graph=identity_graph())
    folders = [BundleFolder(name, 1, models / name / "1") for name in "abc"]
    whole, broken, bare = attempt(python("trial"), folders, Settings(threads=1, models=models))
    assert isinstance(whole, Tuning)
    assert [rows for rows, _ in whole.profiles["model"]] == [1, 2, 4, 8]
    assert whole.threads == 1
    assert isinstance(broken, BundleRefused)
    assert broken.file == "model.onnx"
    assert isinstance(bare, Tuning)
    assert bare.profiles["model"][0][0] == 1
    assert all(seconds > 0 for _, seconds in (*whole.profiles["model"], *bare.profiles["model"]))


def test_a_real_child_gets_no_more_memory_than_it_may_have(models: Path) -> None:
    """ONNX Runtime does not get it; and what serves would give it to the graph, in every worker."""
    make_bare(models, "large", graph=large(2**29))
    folder = BundleFolder("large", 1, models / "large" / "1")
    bounded, free = (
        attempt(python("trial"), [folder], Settings(threads=1, load_memory_bytes=most, profile_cache=None))
        for most in (2**30, 2**33)
    )
    problem = "trial: loading it takes more memory than it may have (INFERD_LOAD_MEMORY_BYTES)"
    assert described(bounded) == [f"BundleRefused: {problem}"]
    assert isinstance(free[0], Tuning)
    assert free[0].profiles["model"]


def test_a_child_ends_well_when_all_is_tried_though_its_parent_lives_on(tmp_path: Path) -> None:
    folder = {"name": "a", "version": 1, "path": str(tmp_path)}
    with subprocess.Popen(python("trial"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(json.dumps({"settings": Settings().to_json().decode(), "folders": [folder]}).encode() + b"\n")
        assert b"BundleRefused" in child.stdout.readline()
        assert child.wait(PATIENT_S) == 0


def test_what_a_library_prints_while_it_loads_is_no_outcome(models: Path) -> None:
    make_bundle(models)
    code = (
        "import os, sys, service.process as process\n"
        "load = process.load_tuned\n"
        "def noisy(*arguments):\n"
        "    print('noise')\n"
        "    os.write(1, b'noise')\n"
        "    return load(*arguments)\n"
        "process.load_tuned = noisy\n"
        "sys.argv = ['inferd', 'trial']\n"
        "sys.exit(process.main())\n"
    )
    folder = BundleFolder("tiny", 1, models / "tiny" / "1")
    (outcome,) = attempt([sys.executable, "-c", code], [folder], Settings(threads=1))
    assert isinstance(outcome, Tuning), outcome
