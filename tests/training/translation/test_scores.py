from __future__ import annotations

import pytest

from training.translation.scores import score

REFERENCES = [("Das ist ein Haus, oder?", "Ist das ein Haus?"), ("Der Hund bellt laut.",), ("Ja.", "Doch.", "Klar.")]


def test_any_of_the_references_is_right() -> None:
    found = score(["Ist das ein Haus?", "Der Hund bellt laut.", "Klar."], REFERENCES)
    assert (found.bleu, found.chrf) == (pytest.approx(100), pytest.approx(100))
    assert (found.n, found.references) == (3, 6)


def test_case_counts_and_how_it_was_computed_is_said() -> None:
    right = ["Das ist ein Haus, oder?", "Der Hund bellt laut.", "Ja."]
    found = score([one.lower() for one in right], REFERENCES)
    assert 0 < found.bleu < 60
    assert found.bleu_signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found.chrf_signature.startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_nothing_but_wrong_words_scores_nothing() -> None:
    assert score(["x y z", "q", ""], REFERENCES).bleu == pytest.approx(0, abs=0.5)
