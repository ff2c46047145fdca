from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from service.security.watching import LOOK_EVERY_S, Watched, watch
from tests import virtual_clock


class Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []

    def read(self) -> None:
        text = self.path.read_text()
        if text == "bad":
            raise ValueError("it is bad")
        self.texts.append(text)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    path = tmp_path / "file"
    path.write_text("one")
    return Reader(path)


def test_what_has_not_changed_is_not_read_again(reader: Reader) -> None:
    watched = Watched([reader.path], reader.read)
    for _ in range(3):
        watched.look()
    assert reader.texts == []


def test_what_has_changed_is_read_once_it_is_left_alone(reader: Reader) -> None:
    watched = Watched([reader.path], reader.read)
    reader.path.write_text("two")
    watched.look()
    reader.path.write_text("three")
    watched.look()
    assert reader.texts == []
    for _ in range(3):
        watched.look()
    assert reader.texts == ["three"]


def test_what_can_not_be_read_is_said_once_and_read_when_it_is_mended(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched([reader.path], reader.read)
    reader.path.write_text("bad")
    for _ in range(4):
        watched.look()
    assert [one.levelname for one in caplog.records] == ["ERROR"]
    assert "it is bad" in caplog.text
    reader.path.unlink()
    for _ in range(4):
        watched.look()
    assert [one.levelname for one in caplog.records] == ["ERROR", "ERROR"]
    reader.path.write_text("good")
    for _ in range(4):
        watched.look()
    assert reader.texts == ["good"]
    assert caplog.records[-1].levelname == "INFO"


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "data").symlink_to("old")
    reader = Reader(tmp_path / "data" / "file")
    watched = Watched([reader.path], reader.read)
    (tmp_path / "next").symlink_to("new")
    os.replace(tmp_path / "next", tmp_path / "data")
    watched.look()
    watched.look()
    assert reader.texts == ["new"]


def test_files_are_looked_at_for_as_long_as_it_runs(reader: Reader) -> None:
    async def main() -> None:
        watching = asyncio.create_task(watch([Watched([reader.path], reader.read)]))
        await asyncio.sleep(LOOK_EVERY_S / 2)
        reader.path.write_text("two")
        await asyncio.sleep(2 * LOOK_EVERY_S)
        assert reader.texts == ["two"]
        watching.cancel()

    virtual_clock.run(main())
