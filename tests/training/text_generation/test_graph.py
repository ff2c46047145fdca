from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from training.core.export import OPSET
from training.text_generation.evaluate import StepModel
from training.text_generation.export import carried_difference, random_tokens, run_network
from training.text_generation.graph import round_to_half, step_graph
from training.text_generation.model import CharacterLSTM, ModelConfig

VOCABULARY = 11


def network(layers: int = 2, *, tied: bool = False, seed: int = 3) -> CharacterLSTM:
    """A network with weights drawn at random, larger than those that a training starts from."""
    torch.manual_seed(seed)
    embedding = 32 if tied else 6
    model = CharacterLSTM(ModelConfig(layers=layers, hidden=32, embedding=embedding, tied=tied), VOCABULARY).eval()
    for layer in model.stack:
        layer.recurrent_weight.data *= 3
        layer.bias.data += torch.randn_like(layer.bias) / 4
    round_to_half(model)
    return model


def _written(model: CharacterLSTM, path: Path, *, quantised: bool = False) -> Path:
    onnx.save(step_graph(model, quantised=quantised), path)
    return path


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_graph_computes_what_the_network_computes(tmp_path: Path, layers: int, tied: bool) -> None:
    model = network(layers, tied=tied)
    path = _written(model, tmp_path / "step.onnx")
    assert carried_difference(path, model, random_tokens(VOCABULARY, (40, 64), seed=1)) < 1e-4


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_in_bytes_it_computes_nearly_the_same(tmp_path: Path, layers: int) -> None:
    model, tokens = network(layers), random_tokens(VOCABULARY, (20, 64), seed=1)
    graph = StepModel(_written(model, tmp_path / "step.onnx", quantised=True))
    _, state = run_network(model, tokens[:-1])
    expected, after = run_network(model, tokens[-1:], state)
    logits, found = graph.step(tokens[-1], state)
    assert 1e-5 < np.abs(logits - expected[0]).max() < 0.05
    assert 1e-5 < np.abs(found - after).max() < 0.1


def test_a_state_goes_on_from_wherever_it_is(tmp_path: Path) -> None:
    model, draw = network(), np.random.default_rng(5)
    graph = StepModel(_written(model, tmp_path / "step.onnx"))
    state: NDArray[np.float32] = draw.uniform(-1, 1, (3, 2 * 2 * 32)).astype(np.float32)
    tokens = np.array([[4, 0, 10]])
    expected, after = run_network(model, tokens, state)
    logits, found = graph.step(tokens[0], state)
    np.testing.assert_allclose(logits, expected[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_graph_is_one_small_valid_file_without_dropout(tmp_path: Path, quantised: bool) -> None:
    model = network()
    written = onnx.load(_written(model, tmp_path / "step.onnx", quantised=quantised), load_external_data=False)
    onnx.checker.check_model(written, full_check=True)
    assert {opset.domain: opset.version for opset in written.opset_import}[""] == OPSET
    kinds = {node.op_type for node in written.graph.node}
    assert not kinds & {"Dropout", "LSTM", "DynamicQuantizeLinear"}
    assert ({"QGemm", "MatMulIntegerToFloat"} <= kinds) == quantised
    assert ("MatMul" in kinds) != quantised
    matrices = sum(layer.recurrent_weight.numel() + layer.input_weight.numel() for layer in model.stack)
    assert written.ByteSize() < matrices * (1.5 if quantised else 2.5) + 12_000


def test_rounding_to_half_changes_a_network_only_once() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    round_to_half(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name in ("layers.0.recurrent_weight", "layers.1.input_weight", "layers.1.recurrent_weight", "head.weight"):
        assert torch.equal(before[name], before[name].half().float())
