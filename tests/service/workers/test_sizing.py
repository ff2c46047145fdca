from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from service.settings import Settings
from service.workers import sizing
from service.workers.sizing import count_workers

GIB = 2**30


class Machine:
    """What a machine has, as the module that counts sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores, self.memory, self.gpu = 4, 64 * GIB, False
        monkeypatch.setattr(sizing, "cpu_quota", lambda: self.cores)
        monkeypatch.setattr(sizing, "memory_limit", lambda: self.memory)
        monkeypatch.setattr(sizing, "_has_gpu_runtime", lambda: self.gpu)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (2, 2), (8, 8), (9, 8), (128, 8)])
def test_there_is_a_worker_for_each_core_but_not_for_very_many(
    machine: Machine, models: Path, cores: int, count: int
) -> None:
    machine.cores = cores
    assert count_workers(Settings(models=models)) == count


@pytest.mark.parametrize("wanted", [1, 3, 64])
def test_whoever_says_a_number_gets_it(machine: Machine, models: Path, wanted: int) -> None:
    machine.cores, machine.memory, machine.gpu = 2, 1, True
    assert count_workers(Settings(models=models, workers=wanted)) == wanted


@pytest.mark.parametrize(("memory", "count"), [(8 * GIB, 8), (GIB, 5), (GIB // 2, 2), (1, 1)])
def test_there_are_no_more_workers_than_fit_into_memory_but_one(
    machine: Machine, models: Path, memory: int, count: int
) -> None:
    machine.cores, machine.memory = 8, memory
    assert count_workers(Settings(models=models)) == count


def test_large_models_leave_room_for_fewer_workers(machine: Machine, models: Path) -> None:
    machine.cores, machine.memory = 8, 4 * GIB
    counts = [count_workers(Settings(models=models))]
    for version in (1, 2):
        folder = models / "large" / f"{version}"
        folder.mkdir(parents=True)
        with (folder / "model.onnx").open("wb") as file:
            file.truncate(GIB // 4)  # a hole: it takes no room on the disk
        counts.append(count_workers(Settings(models=models)))
    (models / "large" / "1" / "gone.onnx").symlink_to(models / "nowhere")
    counts.append(count_workers(Settings(models=models)))
    assert counts == [8, 4, 2, 2]


def test_files_that_are_no_graphs_need_no_memory(machine: Machine, models: Path) -> None:
    machine.cores, machine.memory = 8, 2 * GIB
    (models / "a" / "1").mkdir(parents=True)
    with (models / "a" / "1" / "golden.npz").open("wb") as file:
        file.truncate(GIB)
    assert count_workers(Settings(models=models)) == 8


def test_without_a_folder_the_workers_are_counted_all_the_same(machine: Machine, tmp_path: Path) -> None:
    assert count_workers(Settings(models=tmp_path / "nothing")) == machine.cores


@pytest.mark.parametrize(("device", "count"), [("auto", 1), ("cuda", 1), ("cpu", 4)])
def test_on_a_gpu_there_is_one_worker(machine: Machine, models: Path, device: str, count: int) -> None:
    machine.gpu = True
    assert count_workers(Settings(models=models, device=device)) == count


@pytest.mark.parametrize("there", [True, False])
def test_the_runtime_for_gpus_is_told_by_its_distribution(there: bool) -> None:
    asked: list[str] = []

    def find(name: str) -> object:
        asked.append(name)
        if not there:
            raise PackageNotFoundError(name)
        return object()

    assert sizing._has_gpu_runtime(find) is there
    assert asked == ["onnxruntime-gpu"]
