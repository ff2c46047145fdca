from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.manifest import Candidates
from training.core.export import variants_of_graphs
from training.core.golden import GoldenRows, difference_of, write_golden, write_golden_of_graphs

X = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)
CANDIDATES = Candidates(tokens="t", logprobs="l")


def _times(path: Path, factor: float, output: str) -> str:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], [output])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path.name


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        return dict(golden)


def test_each_variants_outputs_lie_beside_the_frameworks(tmp_path: Path) -> None:
    files = {"fp32": _times(tmp_path / "a.onnx", 2, "y"), "int8": _times(tmp_path / "b.onnx", 2.01, "y")}
    tolerances = write_golden(tmp_path, "model", {"x": X}, {"y": 2 * X}, files, {"int8": 0.02})
    arrays = _arrays(tmp_path)
    assert set(arrays) == {"inputs/model/x", "framework/model/y", "runtime/fp32/model/y", "runtime/int8/model/y"}
    np.testing.assert_array_equal(arrays["runtime/int8/model/y"], X * np.float32(2.01))
    assert (tolerances["fp32"].framework, tolerances["fp32"].runtime) == (0.001, 0.001)
    assert tolerances["int8"].framework == pytest.approx(2 * 0.03, abs=1e-5)
    assert tolerances["int8"].runtime == 0.02


def test_what_is_allowed_covers_the_worst_of_a_variants_graphs(tmp_path: Path) -> None:
    files = {"only": {"one": _times(tmp_path / "a.onnx", 2.1, "y"), "two": _times(tmp_path / "b.onnx", 3, "z")}}
    rows = {"one": GoldenRows({"x": X}, {"y": 2 * X}), "two": GoldenRows({"x": X + 1}, {"z": 3 * (X + 1)})}
    tolerances = write_golden_of_graphs(tmp_path, rows, files)
    assert tolerances["only"].framework == pytest.approx(2 * 0.3, abs=1e-5)
    arrays = _arrays(tmp_path)
    assert len(arrays) == 6
    np.testing.assert_array_equal(arrays["inputs/two/x"], X + 1)
    np.testing.assert_array_equal(arrays["framework/two/z"], arrays["runtime/only/two/z"])
    graphs = variants_of_graphs(tmp_path, files, tolerances, {})["only"].graphs
    assert {role: (one.file, one.outputs[0].name, one.step) for role, one in graphs.items()} == {
        "one": ("a.onnx", "y", None),
        "two": ("b.onnx", "z", None),
    }


# Differences


def test_the_largest_difference_is_of_any_output_and_of_flags_too() -> None:
    one = {"a": np.array([1.0, 2.0]), "b": np.array([True, False])}
    assert difference_of(one, one) == 0
    assert difference_of(one, {**one, "a": np.array([1.0, 2.5])}) == 0.5
    assert difference_of(one, {**one, "b": np.array([True, True])}) == 1
    assert np.isnan(difference_of(one, {**one, "a": np.array([np.nan, 9.0])}))


def _picked(*pairs: tuple[int, float]) -> dict[str, np.ndarray]:
    tokens, likely = zip(*pairs, strict=True)
    return {"t": np.array([tokens]), "l": np.array([likely])}


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        (_picked((5, -1.0), (7, -1.1)), _picked((7, -1.05), (5, -1.06)), 0.06),
        (_picked((5, -1.0), (7, -3.0)), _picked((5, -1.0), (9, -2.9)), 0.1),
        (_picked((5, -1.0), (7, -3.0)), _picked((5, -1.0), (9, -3.2)), 0.2),
        (_picked((5, -1.0), (7, -3.0)), _picked((7, -1.0), (5, -3.0)), 2.0),
        (_picked((5, float("nan")), (7, -3.0)), _picked((5, -1.0), (7, -3.0)), float("nan")),
    ],
    ids=["another order", "another last", "the other's last", "other places", "no number"],
)
def test_candidates_differ_by_how_likely_they_are(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], difference: float
) -> None:
    assert difference_of(found, expected, CANDIDATES) == pytest.approx(difference, nan_ok=True)
    assert difference_of(expected, found, CANDIDATES) == pytest.approx(difference, nan_ok=True)
