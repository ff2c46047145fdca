"""A sentence is read together with others as it is read alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.errors import RuntimeFailure
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.repository.translating import Reader, SentenceGroup, found, group_of, translate_alone
from service.settings import Settings
from service.tasks.translation import Translation
from service.tensors import Arrays
from tests.translation_bundles import END, make_translation_bundle

LONGEST = 31


class Encoder:
    """The encoder of a bundle.

    Attributes:
        shapes: of the tokens of each run.
        broken: the sizes at which it fails.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.broken: set[int] = set()
        self._run = bundle.sessions["encoder"].run

    def __call__(self, inputs: Arrays) -> Arrays:
        self.shapes.append(inputs["tokens"].shape)
        if inputs["tokens"].shape[1] in self.broken:
            raise RuntimeFailure("it broke")
        return self._run(inputs)


@pytest.fixture
def bundle(models: Path) -> Bundle:
    path = make_translation_bundle(models)
    return load_bundle(BundleFolder(path.parent.name, int(path.name), path), LoadOptions.of(Settings(threads=1)))


def groups_of(bundle: Bundle, lengths: Sequence[int]) -> list[SentenceGroup]:
    """Searches for sentences of so many tokens, the end token included."""
    assert isinstance(bundle.task, Translation)
    request = bundle.task.request(["x"] * len(lengths))
    draw = np.random.default_rng(3)
    made = [group_of(request, number, task=bundle.task) for number in range(len(lengths))]
    for group, length in zip(made, lengths, strict=True):
        group.sentence = [*draw.integers(END + 1, 300, length - 1).tolist(), END]
    return made


def reader_of(bundle: Bundle, encoder: Encoder) -> Reader:
    assert isinstance(bundle.task, Translation)
    return Reader(encoder, bundle.task, bundle.session.graph)


def test_sentences_of_all_lengths_are_read_together_as_each_is_alone(bundle: Bundle) -> None:
    draw = np.random.default_rng(5)
    lengths = list(range(1, LONGEST + 1))
    alone = groups_of(bundle, lengths)
    encoder = Encoder(bundle)
    reader = reader_of(bundle, encoder)
    for group in alone:
        reader([group])
    assert [width for _, width in encoder.shapes] == [8] * 8 + [16] * 8 + [32] * 15
    filled_up = 0
    for _ in range(20):
        together = groups_of(bundle, lengths)
        some = draw.permutation(len(lengths))[: draw.integers(1, 12)].tolist()
        encoder.shapes.clear()
        reader([together[place] for place in some])
        assert sum(rows for rows, _ in encoder.shapes) == len(some)
        sizes = {alone[place].context["memory"].shape[1] for place in some}
        filled_up += len(encoder.shapes) < len(sizes)
        for place in some:
            mine, other = together[place], alone[place]
            for found_now, found_alone in ((mine.start, other.start), (mine.context, other.context)):
                assert found_now.keys() == found_alone.keys()
                for name, array in found_now.items():
                    assert array.shape == found_alone[name].shape
                    assert array.tobytes() == found_alone[name].tobytes()
            assert together[place].read_s > 0
    assert filled_up > 3, "some were filled up to the size of others"


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([5], [(1, 8)]),
        ([5, 12, 6], [(3, 16)]),
        ([5, 6, 7, 12], [(3, 8), (1, 16)]),
        ([5, 30], [(1, 8), (1, 32)]),
        ([12, 30, 9], [(3, 32)]),
        ([5] * 70, [(32, 8), (32, 8), (6, 8)]),
    ],
)
def test_few_sentences_are_filled_up_to_the_size_of_others_where_that_costs_less_than_a_run(
    bundle: Bundle, lengths: list[int], runs: list[tuple[int, int]]
) -> None:
    encoder = Encoder(bundle)
    reader = reader_of(bundle, encoder)
    reader(groups_of(bundle, lengths))
    assert encoder.shapes == runs
    assert reader.sentences == len(lengths)


def test_a_run_that_fails_fails_the_sentences_in_it(bundle: Bundle) -> None:
    encoder = Encoder(bundle)
    encoder.broken = {8}
    groups = groups_of(bundle, [5, 30, 6])
    reader_of(bundle, encoder)(groups)
    assert [str(group.error or "") for group in groups] == ["it broke", "", "it broke"]
    assert isinstance(bundle.task, Translation)
    request, _ = bundle.task.parse("Hello world.", {})
    with pytest.raises(RuntimeFailure, match="it broke"):
        translate_alone(request, bundle.task, encoder, bundle.session.run, bundle.session.graph)


def test_an_encoder_that_answers_for_others_is_at_fault(bundle: Bundle) -> None:
    assert isinstance(bundle.task, Translation)

    def run(inputs: Arrays) -> Arrays:
        read = bundle.sessions["encoder"].run(inputs)
        return {name: array[:1] for name, array in read.items()}

    groups = groups_of(bundle, [5, 6])
    Reader(run, bundle.task, bundle.session.graph)(groups)
    for group in groups:
        with pytest.raises(RuntimeFailure, match=r"the model is at fault: output .* has shape \[1, .*should be 2"):
            found(group)
