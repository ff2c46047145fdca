"""Version 6 of the contract: what becomes of numbers that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.manifest import Manifest, read_manifest
from tests.bundles import write_manifest
from tests.contract.test_manifest import FROZEN, SECOND, refusal
from tests.contract.test_manifest_3 import THIRD
from tests.contract.test_manifest_4 import FOURTH
from tests.contract.test_manifest_5 import FIFTH

OLDER = [FROZEN, SECOND, THIRD, FOURTH, FIFTH]


def read(folder: Path, content: object) -> Manifest:
    write_manifest(folder, content)
    return read_manifest(folder)


@pytest.mark.parametrize("older", OLDER, ids=range(1, 6))
@pytest.mark.parametrize("policy", ["pass", "refuse"])
def test_every_model_may_say_what_becomes_of_numbers_that_are_none(
    tmp_path: Path, older: dict[str, Any], policy: str
) -> None:
    assert read(tmp_path, {**older, "schema_version": 6, "not_finite": policy}).not_finite == policy


@pytest.mark.parametrize("older", OLDER, ids=range(1, 6))
def test_who_says_nothing_lets_them_pass(tmp_path: Path, older: dict[str, Any]) -> None:
    assert read(tmp_path, older).not_finite == "pass"


@pytest.mark.parametrize("older", OLDER, ids=range(1, 6))
def test_what_came_with_version_6_needs_it(tmp_path: Path, older: dict[str, Any]) -> None:
    assert "not_finite came with schema_version 6" in refusal(tmp_path, {**older, "not_finite": "refuse"})


@pytest.mark.parametrize("policy", ["fail", "", None, True])
def test_there_is_no_other_policy(tmp_path: Path, policy: object) -> None:
    message = refusal(tmp_path, {**FROZEN, "schema_version": 6, "not_finite": policy})
    assert "not_finite: Input should be 'pass' or 'refuse'" in message
