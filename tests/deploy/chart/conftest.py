from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart.rendering import ROOT, Object

HERE = Path(__file__).parent
CACHE = ROOT / ".venv" / "chart"

Findings = Callable[[Sequence[Object]], list[list[str]]]


@pytest.fixture(scope="session")
def custom_resources() -> Findings:
    """Give a function that says of each of some custom resources what is wrong with it."""
    folder = _node_modules()

    def check(objects: Sequence[Object]) -> list[list[str]]:
        done = subprocess.run(
            ["node", "check.mjs"], input=json.dumps(objects), cwd=folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        found: list[list[str]] = json.loads(done.stdout)
        return found

    return check


def _node_modules() -> Path:
    """The types and validators of the lock file, installed once for each lock file."""
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed (Debian's packages nodejs and npm): custom resources go unchecked")
    lock = (HERE / "crds" / "package-lock.json").read_bytes()
    folder = CACHE / f"crds-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not (folder / "node_modules" / ".package-lock.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "crds" / name, folder)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if done.returncode:
            pytest.skip(f"types of custom resources can't be had (no network?): {done.stderr.strip()[-300:]}")
    shutil.copy(HERE / "crds" / "check.mjs", folder)
    return folder


@pytest.fixture(scope="session")
def kserve_wheel() -> Path:
    """KServe's own Python package, which has its types; it is read and not installed, as it wants half a gigabyte."""
    folder = CACHE / "kserve"
    requirement = (HERE / "kserve.txt").read_text(encoding="utf-8").strip()
    name = requirement.partition(" ")[0].replace("==", "-")
    wheel = folder / f"{name}-py3-none-any.whl"
    expected = requirement.partition("sha256:")[2]
    if not (wheel.exists() and hashlib.sha256(wheel.read_bytes()).hexdigest() == expected):
        options = ("-qq", "--disable-pip-version-check", "--no-deps", "--require-hashes")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "-r", HERE / "kserve.txt"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            pytest.skip(f"KServe's types can't be had (no network?): {done.stderr.strip()[-300:]}")
    return wheel


@pytest.fixture(scope="session")
def serve_python() -> Path:
    """The interpreter of `make serve`: the server runs in it, and nothing of it is imported here."""
    return ROOT / ".venv" / "serve" / "bin" / "python"


def described_settings(python: Path) -> dict[str, Any]:
    """What values.schema.json must say of `settings`."""
    done = subprocess.run(
        [python, "-m", "tests.deploy.chart.settings_schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    properties: dict[str, Any] = json.loads(done.stdout)
    return properties
