"""The figures of docs/operations.md ("Capacity") are those that were measured, and what follows from them is right."""

from __future__ import annotations

import json
import re
import statistics
from typing import Final

from tests.deploy.chart.rendering import ROOT

USE: Final = 0.7
ROW: Final = re.compile(r"^\| ([^|]+) \| ([\d,.]+) \| ([\d.]+) \| `(\w+)\.json`, ([0-9a-f]{7}) \|$", re.MULTILINE)


def rows() -> list[tuple[str, ...]]:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return ROW.findall(text[text.index("\n## Capacity\n") :])


def test_hours_follow_from_what_was_measured() -> None:
    assert len(rows()) == 5
    for what, per_s, hours, _, _ in rows():
        expected = 1e6 / (3600 * float(per_s.replace(",", "")) * USE)
        assert abs(float(hours) - expected) < 0.006, what


def test_what_was_measured_is_what_the_results_say() -> None:
    """Where results have been measured anew since, the table still says of which commit its figures are."""
    results = ROOT / "loadtests" / "results"
    for what, per_s, _, file, commit in rows():
        result = json.loads((results / f"{file}.json").read_text(encoding="utf-8"))
        if not result["machine"]["commit"].startswith(commit):
            continue
        if file == "speed":
            form = "png" if "PNG" in what else "binary"
            load = result["loads"][f"{form} {'int8' if 'int8' in what else 'fp32'}, 64 clients"]
            measured = statistics.median(one["per_s"] for one in load)
        elif file == "text":
            measured = result["streams"]["64"]["http_2_workers"]["characters_per_s"] / 1000
        else:
            measured = result["clients"]["32"]["http_2_workers"]["sentences_per_s"]
        assert abs(float(per_s.replace(",", "")) / measured - 1) < 0.001, what
