from __future__ import annotations

from pathlib import Path
from typing import Any

from service.manifest import Manifest
from tests.bundles import FILES, manifest_of
from training.core.card import markdown_table, render_card

SOURCE = {"name": "Some pictures", "licence": "CC-BY-4.0", "url": "https://example.org/pictures", "sha256": {}}
FIGURE = {"split": "test", "n": 1234, "variant": "int8", "seeds": [5, 6], "hardware": "an abacus"}
NO_FILE = {"sha256": "0" * 64, "bytes": 0}
QUALITY = [{"metric": "accuracy", "value": 0.98765, **FIGURE}, {"metric": "calibration_error", "value": 0.01, **FIGURE}]


def _manifest(**provenance: Any) -> Manifest:
    content = manifest_of(
        title="Dark or bright",
        description="Tells dark from bright.",
        parameters=1234567,
        default_variant="int8",
        quality=QUALITY,
        files=dict.fromkeys((*FILES.values(), "labels.json", "golden.npz"), NO_FILE),
    )
    content["provenance"] |= {
        "data": SOURCE,
        "commit": "c0ffee",
        "seed": 42,
        "training_hardware": "two abaci",
        "training_seconds": 600.0,
        "tools": {"torch": "1.2.3"},
        **provenance,
    }
    return Manifest.model_validate(content)


def _card(manifest: Manifest, **changes: Any) -> str:
    parts: dict[str, Any] = {"name": "lights", "pictures": {}, "tables": {}, "notices": [], **changes}
    return render_card(manifest, **parts)


def test_a_card_says_what_the_manifest_says() -> None:
    lines = _card(_manifest()).splitlines()
    assert lines[0] == "# Dark or bright"
    assert "Tells dark from bright." in lines
    assert "- task: `image-classification`, served at `/predict/lights`" in lines
    assert "- parameters: 1,234,567" in lines
    assert "- default variant: `int8` of `fp32`, `int8`" in lines
    assert "- data: Some pictures (CC-BY-4.0), https://example.org/pictures" in lines
    origin = "- trained on two abaci in 10 minutes, seed 42, commit `c0ffee`, exported 2026-01-01"
    assert origin in lines
    assert "- tools: torch 1.2.3; opset 17" in lines


def test_a_card_gives_every_figure_with_all_that_belongs_to_it() -> None:
    rows = [line for line in _card(_manifest()).splitlines() if "an abacus" in line]
    assert rows == [
        "| accuracy | 0.9877 | test | 1234 | int8 | 5, 6 | an abacus |",
        "| calibration_error | 0.0100 | test | 1234 | int8 | 5, 6 | an abacus |",
    ]


def test_a_card_names_initial_weights_where_there_were_any() -> None:
    weights = SOURCE | {"name": "Some weights"}
    assert "initial weights" not in _card(_manifest())
    line = "- initial weights: Some weights (CC-BY-4.0), https://example.org/pictures"
    assert line in _card(_manifest(initial_weights=weights)).splitlines()


def test_a_card_shows_pictures_and_tables() -> None:
    card = _card(_manifest(), pictures={"A curve": "curve.png"}, tables={"By class": markdown_table(("a",), [("1",)])})
    assert "![A curve](curve.png)" in card.splitlines()
    assert "## By class\n\n| a |\n| --- |\n| 1 |\n" in card


def test_a_card_passes_notices_on_word_for_word(tmp_path: Path) -> None:
    notice = tmp_path / "NOTICE.txt"
    notice.write_text("Copyright (c) Somebody\n\n- all\n- rights\n\n* {} <b> |\n", encoding="utf-8")
    assert "## Notices" not in _card(_manifest())
    card = _card(_manifest(), notices=[notice])
    assert f"## Notices\n\n```\n{notice.read_text(encoding='utf-8').strip()}\n```\n" in card


def test_a_list_in_a_card_stands_apart_from_the_paragraph_before() -> None:
    lines = _card(_manifest()).splitlines()
    first = lines.index("- task: `image-classification`, served at `/predict/lights`")
    assert lines[first - 1] == ""
    assert lines[first + 1].startswith("- parameters")


def test_a_table_has_a_line_for_each_row() -> None:
    assert markdown_table(("a", "b"), [("x", 1), ("y", 2.5)]) == "| a | b |\n| --- | --- |\n| x | 1 |\n| y | 2.5 |"
