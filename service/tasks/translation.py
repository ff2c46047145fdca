"""Translation: a text or several in, each of its sentences translated, put together again as the text was."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.batching.beams import Hypothesis
from service.errors import BadInput, BundleRefused, TooLarge
from service.manifest import Manifest, TokenizerPreprocessing, TranslationPostprocessing
from service.sentences import Piece, cut, parts_that_fit
from service.tasks.alignment import aligned
from service.tasks.base import TaskLimits, parse_parameters
from service.tasks.markup import parts_of
from service.tasks.tokens import Tokens
from service.tasks.translation_graphs import DECODER, ENCODER, check_graphs
from service.tasks.translation_parameters import MOST_TEXTS, USUAL, Parameters, check_texts, texts_of
from service.tasks.translation_requests import Source, Translated, TranslationRequest
from service.tensors import Arrays

MOST_SENTENCES = 1024
LEAST_SIZE = 16
"""Tokens that a sentence must be able to have at least: a single character can have as many, byte by byte."""

_INLINE_CHARACTERS = 500
"""So many are cut, and made tokens of, in about half a millisecond."""
_TENSOR_PARAMETERS = ("src_lang", "tgt_lang", "num_beams", "max_length", "max_new_tokens", "length_penalty")


class _Part(NamedTuple):
    """A part of a text, its place there, and its tokens if it is translated."""

    text: str
    start: int
    tokens: list[int] | None


class Translation:
    """The task of one model.

    Args:
        folder: the bundle's folder.
        manifest: its manifest.
        limits: of a request.

    Attributes:
        tokens: what its tokens are.
        source: the language that it reads, as ISO 639 has it.
        target: the language that it writes.
        start: the token with which a translation begins.
        end: the token with which a sentence and its translation end.
        most_beams: that a request may ask for.
        slots_a_row: how many slots a sentence takes where a request does not ask for other beams.

    Raises:
        BundleRefused: the manifest does not say how to translate, or its graphs or its tokenizer don't go together.
    """

    graphs: tuple[str, ...] = (ENCODER, DECODER)

    def __init__(self, folder: Path, manifest: Manifest, limits: TaskLimits) -> None:
        how, search = manifest.preprocessing, manifest.postprocessing
        if not isinstance(how, TokenizerPreprocessing):
            raise BundleRefused("manifest.json", f"task {manifest.task!r} needs a preprocessing of a tokenizer")
        if not isinstance(search, TranslationPostprocessing):
            raise BundleRefused("manifest.json", f"task {manifest.task!r} needs a postprocessing of a translation")
        if how.sizes[-1] < LEAST_SIZE:
            raise BundleRefused(
                "manifest.json", f"the largest of sizes must be at least {LEAST_SIZE}, not {how.sizes[-1]}"
            )
        candidates = min(check_graphs(variant, how) for variant in manifest.variants.values())
        decoders = [variant.graphs[DECODER].step for variant in manifest.variants.values()]
        self._tells_attention = all(step is not None and step.attention is not None for step in decoders)
        if 2 * search.beams > candidates:
            raise BundleRefused(
                "manifest.json", f"{search.beams} beams need {2 * search.beams} candidates; a graph picks {candidates}"
            )
        self.tokens = Tokens(folder, how, manifest.files[how.tokenizer])
        self.source, self.target = search.source, search.target
        self.start, self.end = how.start, how.end
        self.most_beams = candidates // 2
        self.slots_a_row = search.beams
        self.limits = limits
        self._how = how
        self._search = search

    def parse(self, inputs: object, parameters: Mapping[str, object]) -> tuple[TranslationRequest, Parameters]:
        """Check a request of the task dialect.

        Args:
            inputs: a text, or a list of texts.
            parameters: see `Parameters`.

        Raises:
            BadInput: either is wrong, or (as TooLarge) there is too much.
        """
        texts = texts_of(inputs)
        asked = USUAL
        if parameters:
            asked = parse_parameters(Parameters, parameters)
            self._check_languages(asked)
        request = self.request(
            texts,
            beams=asked.num_beams,
            length_penalty=asked.length_penalty,
            hypotheses=asked.num_return_sequences,
            max_length=asked.max_length,
            alignment=asked.return_alignment,
        )
        return request, asked

    def parse_tensors(self, texts: Sequence[str], parameters: Mapping[str, object]) -> TranslationRequest:
        """Check a request of the Open Inference Protocol, which may have parameters that mean nothing here.

        Args:
            texts: that are translated.
            parameters: those of `Parameters`; of several translations and of an alignment nothing would be told.

        Raises:
            BadInput: a parameter makes no sense, or (as TooLarge) there is too much.
        """
        if not texts:
            raise BadInput("a request needs at least one text")
        known = {name: parameters[name] for name in _TENSOR_PARAMETERS if name in parameters}
        request, _ = self.parse(list(texts), known)
        return request

    def request(
        self,
        texts: Sequence[str],
        *,
        beams: int | None = None,
        length_penalty: float | None = None,
        hypotheses: int = 1,
        max_length: int | None = None,
        alignment: bool = False,
        markup: bool = False,
    ) -> TranslationRequest:
        """Cut texts into sentences, and make tokens of them.

        Args:
            texts: that are translated.
            beams: None = as the manifest says, or as many as hypotheses if those are more.
            length_penalty: None = as the manifest says.
            hypotheses: that are wanted of each text.
            max_length: tokens after which the translation of any sentence is cut off; None = as the manifest says.
            alignment: whether it is told where the model looked; not of HTML.
            markup: whether the texts are HTML.

        Raises:
            BadInput: there can't be so many beams or hypotheses, or the model does not tell where it looked.
            TooLarge: there is too much.
        """
        if alignment and not self._tells_attention:
            raise BadInput("this model does not tell where it looked", parameter="return_alignment")
        check_texts(texts, self.limits.max_text_characters)
        beams = self._beams(beams, hypotheses)
        sources: list[Source] = []
        sentences: list[list[int]] = []
        together: list[list[str | int]] = []
        for text in texts:
            together.append([])
            for part in self._cut_markup(text) if markup else self._cut(text):
                if part.tokens is None:
                    together[-1].append(part.text)
                else:
                    together[-1].append(len(sources))
                    sources.append(Source(part.text, part.start))
                    sentences.append([*part.tokens, self.end])
            if len(sources) > MOST_SENTENCES:
                raise TooLarge(f"a request may have at most {MOST_SENTENCES} sentences; this one has more")
        return TranslationRequest(
            sentences=sentences,
            beams=beams,
            length_penalty=self._search.length_penalty if length_penalty is None else length_penalty,
            hypotheses=hypotheses,
            limits=[self._limit(len(sentence) - 1, max_length) for sentence in sentences],
            alignment=alignment and not markup,
            sources=sources,
            texts=together,
            markup=markup,
        )

    def is_heavy(self, inputs: object) -> bool:
        """Whether `parse` may take over a millisecond, and so belongs in a thread."""
        if isinstance(inputs, list):
            return sum(len(text) for text in inputs if isinstance(text, str)) > _INLINE_CHARACTERS
        return isinstance(inputs, str | bytes) and len(inputs) > _INLINE_CHARACTERS

    def size_of(self, sentence: Sequence[int]) -> int:
        """To how many tokens a sentence is filled up, by itself alone."""
        return next(size for size in self._how.sizes if size >= len(sentence))

    def encode(self, *sentences: Sequence[int]) -> Arrays:
        """The encoder's inputs of sentences: tokens (sentences, the largest size of any), and how many each has."""
        tokens = np.full((len(sentences), max(map(self.size_of, sentences))), self._how.padding, np.int64)
        for row, sentence in zip(tokens, sentences, strict=True):
            row[: len(sentence)] = sentence
        return {self._how.input: tokens, self._how.lengths: np.array([len(one) for one in sentences], np.int64)}

    def put_together(self, request: TranslationRequest, found: Sequence[Sequence[Hypothesis]]) -> list[Translated]:
        """Make the translations of the texts from those of their sentences.

        The n-th alternative of a text has the n-th best translation of each of its sentences.

        Args:
            request: that was answered.
            found: of each sentence, its translations, the best first, at least one.
        """
        written = [[self.tokens.decode(one.tokens) for one in several] for several in found]
        if request.markup:
            written = [[html.escape(text, quote=False) for text in several] for several in written]
        translated = []
        for pieces in request.texts:
            ranks = max((len(found[piece]) for piece in pieces if isinstance(piece, int)), default=1)
            texts = dict.fromkeys("".join(_of_rank(pieces, written, rank)) for rank in range(ranks))
            best, *others = texts
            alignment = None
            if request.alignment:
                alignment = list(self._alignment(request, pieces, written, found))
            translated.append(Translated(best, others, alignment))
        return translated

    def describe(self) -> dict[str, object]:
        """What the model takes."""
        return {
            "parameters": Parameters.model_json_schema()["properties"],
            "source": self.source,
            "target": self.target,
            "search": {
                "num_beams": self._search.beams,
                "most_beams": self.most_beams,
                "length_penalty": self._search.length_penalty,
            },
            "input": {
                "max_text_characters": self.limits.max_text_characters,
                "max_texts": MOST_TEXTS,
                "max_sentences": MOST_SENTENCES,
                "max_sentence_tokens": self._how.sizes[-1] - 1,
            },
        }

    def _check_languages(self, asked: Parameters) -> None:
        for name, own in (("src_lang", self.source), ("tgt_lang", self.target)):
            given = getattr(asked, name)
            # Some models have codes with a country, such as en_XX or en-US.
            if given is not None and re.split("[-_]", given.lower())[0] != own:
                raise BadInput(
                    f"this model translates from {self.source!r} to {self.target!r}; {name} may be {own!r} alone, "
                    f"not {given[:40]!r}",
                    parameter=name,
                )

    def _beams(self, beams: int | None, hypotheses: int) -> int:
        most = self.most_beams
        if beams is not None and beams > most:
            raise BadInput(f"num_beams may be at most {most}, not {beams}", parameter="num_beams")
        if hypotheses > (most if beams is None else beams):
            limit = f"{most}" if beams is None else f"num_beams, which is {beams}"
            raise BadInput(
                f"num_return_sequences may be at most {limit}, not {hypotheses}", parameter="num_return_sequences"
            )
        return max(self._search.beams, hypotheses) if beams is None else beams

    def _limit(self, tokens: int, max_length: int | None) -> int:
        limit = int(self._search.length_factor * tokens) + self._search.length_offset
        return limit if max_length is None else min(limit, max_length)

    def _cut(self, text: str) -> Iterator[_Part]:
        place = 0
        for piece in cut(text, self.source):
            for part, tokens in self._fitting(piece):
                yield _Part(part, place, tokens)
                place += len(part)

    def _cut_markup(self, document: str) -> Iterator[_Part]:
        """The parts of a document; what is kept beside a sentence is written as HTML again."""
        for content, is_text in parts_of(document):
            parts = list(self._cut(html.unescape(content))) if is_text else []
            if all(part.tokens is None for part in parts):
                yield _Part(content, 0, None)
                continue
            for part in parts:
                yield part if part.tokens else part._replace(text=html.escape(part.text, quote=False))

    def _fitting(self, piece: Piece) -> Iterator[tuple[str, list[int] | None]]:
        """A piece with its tokens, if it is translated; a sentence that is too long in several."""
        if not piece.is_sentence:
            yield piece.text, None
            return
        tokens = self.tokens.encode(piece.text)
        most = self._how.sizes[-1] - 1
        if len(tokens) <= most:
            yield piece.text, tokens
            return
        for part in parts_that_fit(piece.text, most, lambda text: [span.end for span in self.tokens.spans(text)]):
            yield part.text, self.tokens.encode(part.text) if part.is_sentence else None

    def _alignment(
        self,
        request: TranslationRequest,
        pieces: Sequence[str | int],
        written: Sequence[Sequence[str]],
        found: Sequence[Sequence[Hypothesis]],
    ) -> Iterator[Mapping[str, object]]:
        """Where the model looked for what it wrote, sentence by sentence."""
        place = 0
        for piece, text in zip(pieces, _of_rank(pieces, written, 0), strict=True):
            if isinstance(piece, int):
                yield aligned(self.tokens, request.sources[piece], found[piece][0], place)
            place += len(text)


def _of_rank(pieces: Sequence[str | int], written: Sequence[Sequence[str]], rank: int) -> Iterator[str]:
    """The parts of a translation: of each sentence the one of this rank, or its best if it has none."""
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        else:
            several = written[piece]
            yield several[rank] if rank < len(several) else several[0]
