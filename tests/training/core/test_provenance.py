from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from training.core import provenance

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the module: what it says of its commit depends on where it lies."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copyfile(Path(provenance.__file__), folder / "copied.py")
    return folder


def _commit_function(folder: Path) -> Callable[[], str]:
    spec = importlib.util.spec_from_file_location("copied_provenance", folder / "copied.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[], str] = module.commit
    return function


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@needs_git
def test_the_commit_is_the_one_checked_out_and_says_when_files_were_changed(checkout: Path) -> None:
    commit = _commit_function(checkout)
    _git(checkout, "init", "-q")
    _git(checkout, "add", "copied.py")
    _git(checkout, "commit", "-q", "-m", "first")
    head = _git(checkout, "rev-parse", "HEAD")
    assert len(head) >= 40
    assert commit() == head
    (checkout / "untracked.txt").write_text("not part of the source", encoding="utf-8")
    assert commit() == head
    with (checkout / "copied.py").open("a", encoding="utf-8") as stream:
        stream.write("# changed\n")
    assert commit() == f"{head}-dirty"


@needs_git
def test_outside_a_checkout_the_commit_is_unknown(checkout: Path) -> None:
    assert _commit_function(checkout)() == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() == "unknown"


def test_the_tools_are_named_with_the_versions_that_are_in_use() -> None:
    tools = provenance.tools()
    assert tools["python"] == platform.python_version()
    assert tools["torch"] == str(torch.__version__)
    assert tools["numpy"] == np.__version__
    assert tools["onnxruntime"] == ort.__version__
    assert {"onnx", "onnxscript"} <= set(tools)


def test_the_hardware_of_a_machine_without_a_gpu_is_its_processor() -> None:
    assert provenance.hardware() == provenance.processor()
    count, _, processor = provenance.processor().partition(" cores, ")
    assert int(count) >= 1
    assert processor.strip()
