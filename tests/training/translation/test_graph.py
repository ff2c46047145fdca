from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tests.training.translation.test_model import network
from training.core.checks import require_independent_rows, require_padding_without_effect, require_quantised
from training.core.export import open_session
from training.core.golden import difference_of
from training.translation.check import carried_difference, network_decode, network_read, random_sources, random_tokens
from training.translation.engine import GraphEngine, encoder_inputs
from training.translation.graph import (
    ATTENTION,
    CANDIDATES,
    DECODER,
    ENCODER,
    LENGTHS,
    LOGPROBS,
    MEMORY,
    NEXT_STATE,
    PRESENT,
    SOURCE_AXIS,
    STATE,
    STEP,
    TOKEN,
    TOKENS,
    candidates_of,
    decoder_graph,
    encoder_graph,
    round_to_half,
)
from training.translation.model import Translator
from training.translation.search import NetworkEngine, SearchConfig, translate
from training.translation.tokens import END_TOKEN, PAD_TOKEN, START_TOKEN

VOCABULARY = 40
SOURCES = [[5, 6, 7, 8, 9], [10], [], [15, 16, 3, 30, 31, 32, 33, 34, 35, 36], [7] * 7]


def small(seed: int = 3, **changes: float) -> Translator:
    """A network in evaluation mode whose matrices are as the float32 graphs hold them."""
    torch.manual_seed(seed)
    model = network(VOCABULARY, **changes).eval()
    round_to_half(model)
    return model


def written(model: Translator, folder: Path, *, quantised: bool) -> dict[str, Path]:
    """Its graphs."""
    files = {ENCODER: folder / "encoder.onnx", DECODER: folder / "decoder.onnx"}
    onnx.save(encoder_graph(model, quantised=quantised), files[ENCODER])
    onnx.save(decoder_graph(model, quantised=quantised), files[DECODER])
    return files


def engine_of(files: dict[str, Path]) -> GraphEngine:
    return GraphEngine(files[ENCODER], files[DECODER])


@pytest.mark.parametrize("layers", [(1, 2), (2, 2), (3, 3)])
def test_float32_graphs_answer_as_pytorch_does_over_many_steps(tmp_path: Path, layers: tuple[int, int]) -> None:
    model = small(encoder_layers=layers[0], decoder_layers=layers[1])
    sources, _ = random_sources(VOCABULARY, 64, (8, 16, 24), seed=1)
    engine = engine_of(written(model, tmp_path, quantised=False))
    assert carried_difference(engine, model, sources, random_tokens(VOCABULARY, (20, 64), 2)) < 1e-4
    other = small(4, encoder_layers=layers[0], decoder_layers=layers[1])
    assert carried_difference(engine, other, sources, random_tokens(VOCABULARY, (2, 64), 2)) > 0.1


def test_int8_graphs_answer_nearly_so(tmp_path: Path) -> None:
    model = small(encoder_layers=2)
    engine = engine_of(written(model, tmp_path, quantised=True))
    inputs = encoder_inputs(SOURCES)
    found, expected = engine.read(inputs), network_read(model, inputs)
    assert 1e-4 < difference_of(found, expected) < 0.25
    tokens = np.array([4, 5, 6, 7, START_TOKEN])
    told, right = engine.decode(tokens, expected), network_decode(model, tokens, expected)
    assert 1e-4 < difference_of(told, right, STEP.candidates) < 0.35
    np.testing.assert_allclose(told[ATTENTION].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("quantised", [False, True])
def test_what_stands_behind_a_sentence_changes_nothing_and_is_nothing(tmp_path: Path, quantised: bool) -> None:
    files = written(small(encoder_layers=2), tmp_path, quantised=quantised)
    sources, lengths = random_sources(VOCABULARY, 12, (8, 16, 24), seed=5)
    require_padding_without_effect(files[ENCODER], sources, lengths, axis=SOURCE_AXIS, sizes=(8, 16, 24), seed=1)
    read = engine_of(files).read(sources)
    for row, length in enumerate(lengths):
        assert read[PRESENT][row].tolist() == [True] * length + [False] * (24 - length)
        assert not read[MEMORY][row, length:].any()
    given = {TOKEN: random_tokens(VOCABULARY, (1, 12), 6)[0], **read}
    require_padding_without_effect(files[DECODER], given, lengths, axis=SOURCE_AXIS, sizes=(8, 16, 24), seed=1)
    for path, rows in ((files[ENCODER], sources), (files[DECODER], given)):
        require_independent_rows(path, rows, seed=1)
        if quantised:
            require_quantised(path)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_best_candidates_come_in_order_and_none_of_them_is_padding_or_the_start(
    tmp_path: Path, quantised: bool
) -> None:
    model = small()
    with torch.no_grad():
        model.token_bias[[PAD_TOKEN, START_TOKEN]] = 50.0
    engine = engine_of(written(model, tmp_path, quantised=quantised))
    outputs = engine.decode(np.full(5, START_TOKEN), engine.encode(SOURCES))
    assert outputs[CANDIDATES].shape == outputs[LOGPROBS].shape == (5, 16)
    assert not np.isin(outputs[CANDIDATES], (PAD_TOKEN, START_TOKEN)).any()
    assert (np.diff(outputs[LOGPROBS], axis=1) <= 0).all()
    assert (np.exp(outputs[LOGPROBS]).sum(1) < 1).all()
    assert candidates_of(network(vocabulary=12)) == 10


def test_a_small_vocabulary_is_all_candidates(tmp_path: Path) -> None:
    model = network(vocabulary=9).eval()
    engine = engine_of(written(model, tmp_path, quantised=False))
    outputs = engine.decode(np.array([START_TOKEN]), engine.encode([[5]]))
    assert sorted(outputs[CANDIDATES][0].tolist()) == [2, *range(3, 9)]
    np.testing.assert_allclose(np.exp(outputs[LOGPROBS]).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_a_search_over_the_graphs_finds_what_one_over_the_network_does(tmp_path: Path, beam: int) -> None:
    config = SearchConfig(beam=beam, length_penalty=1.0)
    for seed in (3, 8):
        model = small(seed)
        engine = engine_of(written(model, tmp_path, quantised=False))
        expected = translate(NetworkEngine(model), SOURCES, config)
        assert translate(engine, SOURCES, config) == expected
        assert [translate(engine, [source], config)[0] for source in SOURCES] == expected


def test_a_beam_wider_than_the_candidates_allow_is_refused(tmp_path: Path) -> None:
    engine = engine_of(written(small(), tmp_path, quantised=False))
    with pytest.raises(ValueError, match="gives 16 candidates, and a beam of 9 needs 18"):
        translate(engine, SOURCES, SearchConfig(beam=9))


def test_where_the_decoder_looked_is_told_for_each_token_and_the_end(tmp_path: Path) -> None:
    model = small()
    engine = engine_of(written(model, tmp_path, quantised=False))
    weights = engine.attention([5, 6, 7], [4, 9])
    assert weights.shape == (3, 4)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    given = network_read(model, encoder_inputs([[5, 6, 7]]))
    for token, row in zip((START_TOKEN, 4, 9), weights, strict=True):
        outputs = network_decode(model, np.array([token]), given)
        given[STATE] = outputs[NEXT_STATE]
        np.testing.assert_allclose(row, outputs[ATTENTION][0, :4], atol=1e-5)


def test_sentences_are_filled_up_to_a_multiple_of_eight() -> None:
    inputs = encoder_inputs([[5, 6], [7] * 8])
    assert inputs[TOKENS].shape == (2, 16)
    assert inputs[TOKENS][0].tolist() == [5, 6, END_TOKEN, *[PAD_TOKEN] * 13]
    assert inputs[LENGTHS].tolist() == [3, 9]
    assert encoder_inputs([[7] * 7])[TOKENS].shape == (1, 8)


def test_the_float32_graphs_hold_half_precision_and_the_embedding_once(tmp_path: Path) -> None:
    files = written(small(), tmp_path, quantised=False)
    for path in files.values():
        matrices = [one for one in onnx.load(path).graph.initializer if len(one.dims) == 2]
        assert matrices
        assert {one.data_type for one in matrices} == {TensorProto.FLOAT16}
    tables = [numpy_helper.to_array(one) for one in onnx.load(files[DECODER]).graph.initializer]
    assert sum(sorted(one.shape) == [8, VOCABULARY] for one in tables) == 1


def test_nothing_is_written_of_the_networks_dropout(tmp_path: Path) -> None:
    model = small(layer_dropout=0.5, embedding_dropout=0.5, output_dropout=0.5)
    files = written(model.train(), tmp_path, quantised=False)
    first, again = (open_session(files[ENCODER]).run(None, encoder_inputs(SOURCES)) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
