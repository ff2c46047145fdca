from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from service.machine import cpu_quota, memory_limit, processor


@pytest.fixture
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("_eight_cores")
@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("100000 50000\n", 2),
        ("", 8),
        ("nonsense", 8),
        ("many 100000", 8),
    ],
)
def test_the_quota_of_a_control_group_of_version_2_cuts_the_cores(tmp_path: Path, text: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(text, encoding="ascii")
    assert cpu_quota(tmp_path) == cores


@pytest.mark.usefixtures("_eight_cores")
@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("-1", "100000", 8), ("200000", "100000", 2), ("150000", "100000", 2), ("10000", "100000", 1), ("x", "1", 8)],
)
def test_the_quota_of_a_control_group_of_version_1_cuts_the_cores(
    tmp_path: Path, quota: str, period: str, cores: int
) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n", encoding="ascii")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(period + "\n", encoding="ascii")
    assert cpu_quota(tmp_path) == cores


@pytest.mark.usefixtures("_eight_cores")
def test_without_a_control_group_all_cores_are_ours(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "nothing") == 8


def test_the_cores_of_the_affinity_mask_are_counted_and_not_those_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cpu_quota(tmp_path) == 2
    (tmp_path / "cpu.max").write_text("100000 100000", encoding="ascii")
    assert cpu_quota(tmp_path) == 1


def test_a_system_without_affinity_masks_has_its_cores_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu_quota(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_quota(tmp_path) == 1


def test_this_machine_has_a_core() -> None:
    assert cpu_quota() >= 1


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_the_limit_of_a_control_group_cuts_the_memory(tmp_path: Path, file: str) -> None:
    machine = memory_limit(tmp_path)
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for text, limit in (("1048576\n", 1048576), (f"{2 * machine}\n", machine), ("max\n", machine), ("", machine)):
        (tmp_path / file).write_text(text, encoding="ascii")
        assert memory_limit(tmp_path) == limit


def test_a_processor_has_the_name_that_the_system_gives_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nmodel name\t: another\n")
    assert processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"


@pytest.mark.parametrize("content", [None, "Hardware: a board\n"])
def test_a_processor_without_a_name_is_its_architecture(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert processor(tmp_path / "cpuinfo") in {platform.machine(), platform.processor()}


def test_memory_that_large_blocks_took_is_given_back() -> None:
    code = (
        "from service.machine import keep_memory, trim_memory\n"
        "import re\n"
        "resident = lambda: int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "keep_memory(blocks_below=2**20, at_most=2**25)\n"
        "before = resident()\n"
        "for _ in range(3):\n"
        "    many = [bytes(8 * 2**20) for _ in range(20)]\n"
        "    pieces = [b'x' * 50_000 for _ in range(2000)]\n"
        "    del many, pieces\n"
        "trim_memory()\n"
        "print(resident() - before)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert int(told.stdout) < 20_000  # kB; 260 MB were in use
