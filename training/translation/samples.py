"""Sentences that no corpus has, to show a translator with: what it makes of them, and where it looks as it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from training.core.card import markdown_table
from training.core.report import plot_attention
from training.translation.engine import GraphEngine
from training.translation.search import SearchConfig, translate
from training.translation.tokens import END, decode, encode

SENTENCES = (
    "Good morning!",
    "Thank you for the lovely flowers.",
    "Where did you put my keys?",
    "The kettle is still warm.",
    "She has been learning the violin since spring.",
    "If it snows tomorrow, we will stay at home.",
    "I would rather walk than wait for the bus.",
    "My brother forgot to lock the door again.",
    "Can you help me carry this table upstairs?",
    "The old bridge was closed last week.",
    "We have never seen such a quiet beach.",
    "He asked me whether the soup was too salty.",
    "Nobody told us that the shop had moved.",
    "You should drink more water in summer.",
    "The children built a ship out of cardboard.",
    "How much does a ticket to Hamburg cost?",
    "It took her two hours to repair the bicycle.",
    "Don't forget to feed the neighbour's cat.",
    "The man who lives above us plays the piano every evening.",
    "I am not sure that this is the right way.",
    "Tom and his sister are afraid of thunder.",
    "The doctor said that I had to rest for a few days.",
    "What would you do if you won a lot of money?",
    "My grandmother bakes the best bread in the village.",
    "The meeting has been put off until Thursday.",
    "Please speak a little more slowly.",
    "I left my umbrella on the train this morning.",
    "They have known each other for more than twenty years.",
    "The smaller of the two dogs barks all night.",
    "Although he was tired, he went on reading.",
)
"""Made up for this; what a card shows of them is what the model says, right or wrong."""

_DRAWN = (5, 10)
"""The sentences of which it is drawn where the decoder looked."""


def translations_table(engine: GraphEngine, tokenizer: Tokenizer, search: SearchConfig) -> str:
    """A Markdown table of `SENTENCES` and their translations."""
    found = translate(engine, encode(tokenizer, SENTENCES), search)
    rows = [(source, decode(tokenizer, tokens)) for source, tokens in zip(SENTENCES, found, strict=True)]
    return markdown_table(("sentence", "translation"), [(one, other.replace("|", r"\|")) for one, other in rows])


def draw_attention(engine: GraphEngine, tokenizer: Tokenizer, search: SearchConfig, folder: Path) -> dict[str, str]:
    """Draw where the decoder looked as it wrote some of the translations; returns file names by caption."""
    pictures = {}
    for number, place in enumerate(_DRAWN, 1):
        (source,) = encode(tokenizer, [SENTENCES[place]])
        (translation,) = translate(engine, [source], search)
        file = f"attention-{number}.png"
        weights = engine.attention(source, translation)
        plot_attention(weights, _pieces(tokenizer, source), _pieces(tokenizer, translation), folder / file)
        pictures[f'Attention: each line is a piece of the translation, and where it looked in "{SENTENCES[place]}"'] = (
            file
        )
    return pictures


def _pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    # The sign that stands for a space is in few fonts.
    return [*(str(tokenizer.id_to_token(token)).replace("\u2581", "_") for token in tokens), END]
