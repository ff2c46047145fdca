"""How good translations are: BLEU (Papineni et al. 2002) and chrF (Popovic 2015), by sacreBLEU (arXiv:1804.08771)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class Scores:
    """Of translations of a part of a corpus, in percent.

    Attributes:
        n: number of sentences.
        references: number of their references.
        bleu: on text as it is, with case, taken apart as `13a`.
        bleu_signature: how it was computed.
        chrf: F-score of pieces of characters.
        chrf_signature: how it was computed.
    """

    n: int
    references: int
    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str


def score(translations: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score `translations`, each by all its references, of which there may be another number each."""
    most = max(map(len, references))
    # The library wants a first reference of each, a second, ...; None where there is none.
    streams: list[Any] = [[one[number] if number < len(one) else None for one in references] for number in range(most)]
    bleu, chrf = BLEU(), CHRF()
    bleu_score = bleu.corpus_score(translations, streams).score
    chrf_score = chrf.corpus_score(translations, streams).score
    return Scores(
        n=len(translations),
        references=sum(map(len, references)),
        bleu=bleu_score,
        bleu_signature=str(bleu.get_signature()),
        chrf=chrf_score,
        chrf_signature=str(chrf.get_signature()),
    )
