"""What every test of training gets: folders of its own, one thread, and real data only where it asks for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_DATA_DIR = os.environ.get("INFERD_DATA_DIR")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Networks this small gain nothing from a second thread, and lose much where the cores are busy.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the data, downloads and runs of whoever runs the tests."""
    monkeypatch.delenv("INFERD_DATA_DIR", raising=False)
    monkeypatch.setenv("INFERD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("INFERD_RUNS_DIR", str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same bits again is what a CPU promises; and what is tested here is too small for a GPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data, visible to `fetch`; without one the test is skipped."""
    if not _DATA_DIR:
        pytest.skip("reads real data, and INFERD_DATA_DIR is not set")
    monkeypatch.setenv("INFERD_DATA_DIR", _DATA_DIR)
    return Path(_DATA_DIR).expanduser()


def _folder_with(data_dir: Path, name: str) -> Path:
    folder = data_dir / name
    if not folder.is_dir():
        pytest.skip(f"reads real data, and INFERD_DATA_DIR holds no folder {name}")
    return folder


@pytest.fixture
def fashion_mnist(data_dir: Path) -> Path:
    """The folder of the real Fashion-MNIST files."""
    return _folder_with(data_dir, "fashion_mnist")


@pytest.fixture
def mnist(data_dir: Path) -> Path:
    """The folder of the real MNIST files."""
    return _folder_with(data_dir, "mnist")


@pytest.fixture
def cifar10_resnets(data_dir: Path) -> Path:
    """The folder of the published CIFAR-10 weights."""
    return _folder_with(data_dir, "cifar10_resnets")


@pytest.fixture
def tiny_shakespeare(data_dir: Path) -> Path:
    """The folder of the real text."""
    return _folder_with(data_dir, "tiny_shakespeare")


@pytest.fixture
def tatoeba(data_dir: Path) -> Path:
    """The folder of the real English and German sentences."""
    return _folder_with(data_dir, "tatoeba_deu_eng")
