from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from service.errors import BundleRefused
from service.images import normalise
from service.manifest import ImagePreprocessing, Manifest, read_manifest
from service.repository.bundle import LoadOptions, load_bundle, verify_bundle
from service.repository.scan import BundleFolder, scan
from service.tasks.base import TaskLimits
from tests.training.image_classification.conftest import Exported
from tests.training.image_classification.pictures import COLOURS, picture, png
from training.core.run import Run
from training.image_classification.data import DataSet, Part, load_data
from training.image_classification.evaluate import load_trained, measure
from training.image_classification.export import _choose_default, _Measured, _provenance, export, made_up_pictures

FILES = {"README.md", "confusion.png", "golden.npz", "history.png", "labels.json", "model.int8.onnx", "model.onnx"}
OPTIONS = LoadOptions(
    providers=("CPUExecutionProvider",), threads=1, max_batch_rows=8, limits=TaskLimits(max_pixels=10_000)
)


@pytest.fixture
def manifest(exported: Exported) -> Manifest:
    return read_manifest(exported.bundle)


@pytest.fixture(scope="module")
def data(exported: Exported) -> DataSet:
    config = exported.project.config()
    return load_data(config.data)


@pytest.fixture
def folder(exported: Exported) -> BundleFolder:
    """What the server finds in the models folder."""
    (found,) = scan(exported.project.models)
    assert found == BundleFolder("colours", 3, exported.bundle)
    return found


# The bundle as the server takes it


def test_the_server_accepts_every_variant_of_the_bundle(folder: BundleFolder) -> None:
    assert set(verify_bundle(folder, OPTIONS).variants) == {"fp32", "int8"}


@pytest.mark.parametrize("colour", COLOURS)
def test_the_server_tells_the_class_of_pictures_trained_on_and_of_new_ones(
    exported: Exported, folder: BundleFolder, colour: str
) -> None:
    bundle = load_bundle(folder, OPTIONS)
    assert bundle.variant == bundle.manifest.default_variant
    trained_on = [path.read_bytes() for path in sorted((exported.project.pictures / "train" / colour).iterdir())[:4]]
    unseen = png(picture(colour, np.random.default_rng(99), size=(40, 25)))
    for body in (*trained_on, unseen):
        answer: Any = bundle.predict(body, {})
        assert answer[0]["label"] == colour
        assert sorted(one["label"] for one in answer) == list(COLOURS)
        assert sum(one["score"] for one in answer) == pytest.approx(1)


def test_a_bundle_of_which_one_bit_was_flipped_is_refused(exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported.bundle, tmp_path / "colours" / "3")
    graph = tmp_path / "colours" / "3" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleRefused, match=r"model\.onnx: has sha256"):
        load_bundle(BundleFolder("colours", 3, tmp_path / "colours" / "3"), OPTIONS)


# What it says of itself


def test_the_bundle_holds_what_it_must_and_no_more(exported: Exported, manifest: Manifest) -> None:
    assert {path.name for path in exported.bundle.iterdir()} == {*FILES, "manifest.json"}
    assert set(manifest.files) == FILES
    assert json.loads((exported.bundle / "labels.json").read_bytes()) == list(COLOURS)
    assert manifest.files["model.int8.onnx"].bytes < 0.5 * manifest.files["model.onnx"].bytes
    assert sorted(path.name for path in exported.project.models.iterdir()) == ["colours"]
    assert sorted(path.name for path in exported.bundle.parent.iterdir()) == ["3"]


def test_the_manifest_says_how_pictures_become_inputs(manifest: Manifest, data: DataSet) -> None:
    how = manifest.preprocessing
    assert how == data.preprocessing
    assert (how.width, how.height, how.channels, how.fit) == (16, 16, 3, "crop")
    for variant in manifest.variants.values():
        graph = variant.graphs["model"]
        assert [tensor.shape for tensor in graph.inputs] == [("batch", 3, 16, 16)]
        assert [tensor.shape for tensor in graph.outputs] == [("batch", 3)]


def test_the_manifest_says_where_the_model_comes_from(exported: Exported, manifest: Manifest, data: DataSet) -> None:
    run, _, model = load_trained(exported.project.config(), exported.project.folder("first"))
    origin = manifest.provenance
    assert manifest.title == "Colour classifier"
    assert manifest.description == "Told apart by colour."
    assert manifest.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (origin.data.name, origin.data.licence, origin.data.sha256) == ("Three colours", "CC0-1.0", data.sha256)
    assert origin.initial_weights is None
    assert origin.seed == 4
    assert origin.config["fit"]["epochs"] == 3
    assert origin.training_seconds == round(sum(row["seconds"] for row in run.read_history()))
    assert origin.training_hardware == run.read_hardware()[0]
    assert origin.tools["torch"] == str(torch.__version__)


def test_the_manifest_names_published_weights_with_their_digest(exported: Exported, data: DataSet) -> None:
    config = exported.project.config("model.initial_weights=cifar10")
    run = Run(exported.project.folder("first"), exported.project.config(), ignore={"export"})
    weights = _provenance(config, data, run).initial_weights
    assert weights is not None
    assert weights.name == "CIFAR-10 ResNet-20"
    assert weights.licence == "BSD-2-Clause"
    assert list(weights.sha256) == ["resnet20-12fca82f.th"]
    assert weights.sha256["resnet20-12fca82f.th"].startswith("12fca82f")


def test_the_manifest_names_all_hardware_that_a_run_was_trained_on(
    exported: Exported, data: DataSet, tmp_path: Path
) -> None:
    shutil.copytree(exported.project.folder("first"), tmp_path / "elsewhere")
    run = Run(tmp_path / "elsewhere", exported.project.config(), ignore={"export"})
    here = run.read_hardware()[0]
    run.add_hardware("a GPU far away")
    assert _provenance(exported.project.config(), data, run).training_hardware == f"{here}, then a GPU far away"


def _calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The expected calibration error in fifteen bins, by its definition."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    chosen = [bins == number for number in range(15)]
    return sum(mask.mean() * abs(right[mask].mean() - confidence[mask].mean()) for mask in chosen if mask.any())


def _figures(graph: Path, part: Part, how: ImagePreprocessing) -> dict[str, float]:
    """Accuracy and calibration error of an ONNX file, measured with nothing but ONNX Runtime and NumPy."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"image": normalise(part.pixels.numpy(), how)})
    exponentials = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    truth = part.labels.numpy()
    return {
        "accuracy": float((probabilities.argmax(1) == truth).mean()),
        "calibration_error": float(_calibration_error(probabilities, truth)),
    }


def test_every_figure_of_the_manifest_is_what_onnx_runtime_measures_afresh(
    exported: Exported, manifest: Manifest, data: DataSet
) -> None:
    parts = {"test": data.test, "validation": data.validation}
    found = {
        (variant, split, metric): value
        for variant in manifest.variants
        for split, part in parts.items()
        for metric, value in _figures(
            exported.bundle / manifest.variants[variant].graphs["model"].file, part, data.preprocessing
        ).items()
    }
    claimed = {(one.variant, one.split, one.metric): one.value for one in manifest.quality}
    assert claimed == pytest.approx(found, abs=1e-5)
    assert claimed["fp32", "test", "accuracy"] == 23 / 24  # one label is wrong
    for one in manifest.quality:
        assert (one.n, one.seeds) == (len(parts[one.split]), (4,))


def test_the_first_figure_is_the_test_accuracy_of_the_default_graph(manifest: Manifest) -> None:
    first = manifest.quality[0]
    assert (first.metric, first.split, first.variant) == ("accuracy", "test", manifest.default_variant)


def test_the_card_gives_the_figures_of_the_manifest(exported: Exported, manifest: Manifest) -> None:
    card = (exported.bundle / "README.md").read_text(encoding="utf-8")
    lines = card.splitlines()
    assert lines[0] == "# Colour classifier"
    for one in manifest.quality:
        start = f"| {one.metric} | {one.value:.4f} | {one.split} | {one.n} | {one.variant} | 4 |"
        assert any(line.startswith(start) for line in lines), start
    assert "| blue | 0.889 |" in lines
    assert "## Notices" not in lines, "no weights of others were used"
    for name in ("history.png", "confusion.png"):
        assert f"]({name})" in card
        with Image.open(exported.bundle / name) as image:
            assert image.format == "PNG"


def test_the_command_tells_that_pytorch_and_onnx_runtime_agree_and_what_it_wrote(exported: Exported) -> None:
    assert "ONNX Runtime and PyTorch agree to" in exported.said
    assert "models/colours/3, default" in exported.said


def test_the_golden_file_holds_made_up_inputs_with_the_answers_of_both(exported: Exported, manifest: Manifest) -> None:
    _, _, model = load_trained(exported.project.config(), exported.project.folder("first"))
    with np.load(exported.bundle / "golden.npz", allow_pickle=False) as golden:
        arrays = dict(golden)
    inputs, expected = arrays["inputs/model/image"], arrays["framework/model/logits"]
    assert inputs.shape == (16, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(inputs)).numpy(), expected, rtol=0, atol=1e-5)
    for name, variant in manifest.variants.items():
        found = arrays[f"runtime/{name}/model/logits"]
        assert variant.tolerance.framework > 0
        assert np.abs(found - expected).max() <= variant.tolerance.framework
    assert manifest.variants["fp32"].tolerance.framework <= 1e-3
    assert len(arrays) == 4


# Exporting again


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_version_that_is_there_is_not_exported_again(exported: Exported) -> None:
    before = _digests(exported.project.models)
    with pytest.raises(FileExistsError, match=r"colours/3 exists: .*--set export\.replace=true"):
        export(exported.project.config(), exported.project.folder("first"))
    assert _digests(exported.project.models) == before


def test_a_network_that_answers_no_number_is_not_exported_and_nothing_changes(
    exported: Exported, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(exported.project.folder("first"), broken)
    weights = torch.load(broken / "best.pt", weights_only=True)
    weights["head.weight"][1, 5] = float("nan")
    torch.save(weights, broken / "best.pt")
    before = _digests(exported.project.models)
    with pytest.raises(ValueError, match="ONNX Runtime differs from PyTorch by nan"):
        export(exported.project.config("export.replace=true"), broken)
    assert _digests(exported.project.models) == before
    assert sorted(path.name for path in exported.bundle.parent.iterdir()) == ["3"]


def test_a_run_that_does_not_exist_cannot_be_exported(exported: Exported) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        export(exported.project.config("export.version=4"), exported.project.folder("no such run"))
    assert sorted(path.name for path in exported.bundle.parent.iterdir()) == ["3"]


# Which variant becomes the default


def _measured(right: int, seconds: float, n: int = 5000) -> _Measured:
    """A variant that gets so many of `n` images right."""
    outputs = torch.zeros(n, 2)
    outputs[:, 0] = 1
    result = measure(outputs, (torch.arange(n) >= right).long(), ("a", "b"))
    return _Measured(validation=result, test=result, test_outputs=outputs, seconds_a_row=seconds)


@pytest.mark.parametrize(
    ("lost", "seconds", "default"),
    [(0, 0.5, "int8"), (10, 0.5, "int8"), (11, 0.5, "fp32"), (-20, 0.5, "int8"), (0, 2.0, "fp32"), (-20, 2.0, "fp32")],
    ids=["as good", "0.2 points worse", "worse still", "better", "as good and slower", "better and slower"],
)
@pytest.mark.parametrize("right", [4672, 4750, 4811, 4980])
def test_the_faster_variant_becomes_the_default_at_a_loss_of_at_most_so_many_points(
    right: int, lost: int, seconds: float, default: str
) -> None:
    measured = {"fp32": _measured(right, 1.0), "int8": _measured(right - lost, seconds)}
    assert _choose_default(measured, max_loss_points=0.2) == default


# The golden inputs


@pytest.mark.parametrize("channels", [1, 3])
def test_made_up_pictures_are_many_kinds_of_pictures_and_always_the_same(channels: int) -> None:
    how = ImagePreprocessing(
        input="image", width=28, height=20, channels=channels, fit="pad", mean=(0.5,) * channels, std=(0.5,) * channels
    )
    pictures = made_up_pictures(16, how, seed=1)
    assert (pictures.shape, pictures.dtype) == ((16, channels, 20, 28), np.uint8)
    assert np.array_equal(pictures, made_up_pictures(16, how, seed=1))
    assert not np.array_equal(pictures, made_up_pictures(16, how, seed=2))
    assert all(one.std() > 5 for one in pictures)
    assert len({one.tobytes() for one in pictures}) == 16
