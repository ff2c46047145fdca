from __future__ import annotations

import hashlib
import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from service.manifest import SCHEMA_VERSION, ImagesPostprocessing, Manifest, NgramPreprocessing, read_manifest
from service.repository.bundle import Bundle, LoadOptions, load_bundle, verify_bundle
from service.repository.scan import BundleFolder, scan
from service.tasks.base import TaskLimits
from tests.training.image_classification.pictures import COLOURS
from tests.training.image_generation.conftest import PLAIN, Exported, Project, write_colour_teller
from training.core.run import Run
from training.core.seeding import generator
from training.image_generation import export as export_module
from training.image_generation.agreement import Agreement, ShippedClassifier, measure_agreement
from training.image_generation.captions import load_captions
from training.image_generation.card import Findings, _how
from training.image_generation.classifier import Judge, load_classifier
from training.image_generation.data import conditions_of, draw_latents, load_pictures, to_pixels
from training.image_generation.engine import GraphEngine
from training.image_generation.evaluate import identity, load_report, load_trained
from training.image_generation.export import choose_truncation, export, golden_rows
from training.image_generation.model import count_parameters
from training.image_generation.scores import label_agreement
from training.image_generation.text import choose_threshold, load_text
from training.image_generation.train import JUDGE, TEXT

FILES = {
    "README.md", "arithmetic-1.png", "golden.npz", "interpolation.png", "labels.json", "model.onnx", "samples.png",
    "text.onnx", "watch.png",
}  # fmt: skip
BESIDE = "evaluate.baseline=plain"
OPTIONS = LoadOptions(
    providers=("CPUExecutionProvider",), threads=1, max_batch_rows=16, limits=TaskLimits(max_pixels=100_000)
)


@pytest.fixture
def manifest(exported: Exported) -> Manifest:
    return read_manifest(exported.bundle)


@pytest.fixture(scope="module")
def served(exported: Exported) -> Bundle:
    """The bundle as the server loads it."""
    return load_bundle(BundleFolder("colours-gan", 2, exported.bundle), OPTIONS)


def _figures(manifest: Manifest) -> dict[tuple[str, str], float]:
    return {(one.metric, one.split): one.value for one in manifest.quality}


# The bundle as the server takes it


def test_the_server_accepts_the_bundle(exported: Exported) -> None:
    found = {one.name: one for one in scan(exported.project.models) if one.version in (2, 10)}
    assert set(found) == {"colours-gan", "colour-teller"}
    assert verify_bundle(found["colours-gan"], OPTIONS).task == "text-to-image"


@pytest.mark.parametrize("colour", COLOURS)
def test_the_server_draws_what_a_label_and_a_text_say(served: Bundle, exported: Exported, colour: str) -> None:
    tell = ShippedClassifier(exported.project.models / "colour-teller", COLOURS)
    by_label = served.draw(None, {"label": colour, "seed": 7, "num_images": 9})
    assert tell(by_label.pixels) == [colour] * 9
    by_text = served.draw(f"draw {colour}", {"seed": 7, "num_images": 9})
    np.testing.assert_array_equal(by_text.pixels, by_label.pixels)


def test_an_image_of_a_seed_is_the_same_alone_and_among_others(served: Bundle) -> None:
    together = served.draw(None, {"label": "red", "seed": 11, "num_images": 64})
    for number in (0, 1, 30, 63):
        alone = served.draw(None, {"label": "red", "latent": together.latents[number].tolist()})
        np.testing.assert_array_equal(alone.pixels[0], together.pixels[number])
    few = served.draw(None, {"label": "red", "seed": 11, "num_images": 7})
    np.testing.assert_array_equal(few.pixels, together.pixels[:7])


# What it says of itself


def test_the_bundle_holds_what_it_must_and_no_more(exported: Exported, manifest: Manifest) -> None:
    assert {path.name for path in exported.bundle.iterdir()} == {*FILES, "manifest.json"}
    assert set(manifest.files) == FILES
    assert json.loads((exported.bundle / "labels.json").read_bytes()) == list(COLOURS)
    assert sorted(path.name for path in exported.bundle.parent.iterdir()) == ["2"]


def test_the_manifest_says_how_texts_are_read_and_images_drawn(exported: Exported, manifest: Manifest) -> None:
    config, folder = exported.project.config(), exported.project.folder("first")
    encoder = load_text(config.text, folder / TEXT, 3)
    threshold = choose_threshold(encoder, load_captions(config.text.captions, COLOURS).validation)
    assert manifest.preprocessing == NgramPreprocessing(
        input="tokens", buckets=500, shortest=3, longest=5, most=1024,
        conditions="conditions", meant="meant", threshold=threshold,
    )  # fmt: skip
    assert manifest.postprocessing == ImagesPostprocessing(
        latent="latent", condition="condition", output="image", labels="labels.json", truncation=1.0
    )
    assert (manifest.schema_version, set(manifest.variants)) == (SCHEMA_VERSION, {"fp32"})
    graphs = manifest.default.graphs
    assert list(graphs) == ["text", "generator"]
    assert {one.name: (one.datatype, one.shape) for one in (*graphs["text"].inputs, *graphs["text"].outputs)} == {
        "tokens": ("INT64", ("batch", "length")),
        "conditions": ("FP32", ("batch", 3)),
        "meant": ("FP32", ("batch",)),
    }
    drawing = graphs["generator"]
    assert {one.name: (one.datatype, one.shape) for one in (*drawing.inputs, *drawing.outputs)} == {
        "latent": ("FP32", ("batch", 8)),
        "condition": ("FP32", ("batch", 3)),
        "image": ("UINT8", ("batch", 12, 12, 3)),
    }


def test_the_manifest_says_where_the_model_comes_from(exported: Exported, manifest: Manifest) -> None:
    config, folder = exported.project.config(), exported.project.folder("first")
    run, data, network = load_trained(config, folder)
    encoder = load_text(config.text, folder / TEXT, 3)
    origin = manifest.provenance
    assert origin is not None
    assert manifest.parameters == count_parameters(network) + count_parameters(encoder)
    assert (origin.data.name, origin.data.licence, origin.data.sha256) == ("Three colours", "CC0-1.0", data.sha256)
    assert (origin.seed, origin.config["fit"]["epochs"], origin.initial_weights) == (5, 8, None)
    histories = [run.read_history(), Run(folder / TEXT, config.text).read_history()]
    assert origin.training_seconds == sum(round(sum(row["seconds"] for row in history)) for history in histories)


def test_what_the_judge_says_is_what_it_says_of_the_exported_graphs_images(
    exported: Exported, manifest: Manifest
) -> None:
    config, folder = exported.project.config(), exported.project.folder("first")
    data = load_pictures(config.data)
    judge = Judge(load_classifier(config.judge, data, folder / JUDGE, seed=config.seed), data)
    latents = draw_latents(60, 8, generator(5, "evaluate"))
    session = ort.InferenceSession(exported.bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (pixels,) = session.run(None, {"latent": latents.numpy(), "condition": conditions_of(data.test.labels, 3).numpy()})
    probabilities, _ = judge(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    claimed = _figures(manifest)
    assert claimed["label_agreement", "drawn"] == label_agreement(probabilities, data.test.labels)
    first = manifest.quality[0]
    assert (first.metric, first.variant, first.n, first.seeds) == ("label_agreement", "fp32", 60, (5,))


def test_what_takes_pupils_or_another_run_is_what_was_evaluated(exported: Exported, manifest: Manifest) -> None:
    report = load_report(exported.project.config(BESIDE), exported.project.folder("first"))
    claimed = _figures(manifest)
    assert claimed["gan_train", "test"] == report["pupils"]["gan_train"]
    assert claimed["gan_train_points_below_real", "test"] == report["pupils"]["points_below_real"]
    assert claimed["gan_test", "drawn"] == report["pupils"]["gan_test"]
    assert claimed["frechet_distance", "real"] == report["real"]["frechet_distance"]
    assert claimed["frechet_distance_dcgan", "drawn"] == report["baseline"]["frechet_distance"]
    # The graph draws as PyTorch does, up to a byte here and there.
    assert claimed["frechet_distance", "drawn"] == pytest.approx(report["drawn"]["frechet_distance"], rel=1e-3)


def test_how_texts_are_read_is_what_the_server_makes_of_them(
    exported: Exported, manifest: Manifest, served: Bundle
) -> None:
    tests = load_captions(exported.project.config().text.captions, COLOURS).tests
    threshold = manifest.preprocessing.threshold  # type: ignore[union-attr]

    def answer(text: str) -> tuple[int, float]:
        found = served.task.read(served.sessions["text"].run(served.task.encode(text)))  # type: ignore[union-attr]
        return found.likeliest, found.meant

    claimed = _figures(manifest)
    for name in ("new_words", "new_patterns"):
        right = [answer(one.text)[0] == one.label and answer(one.text)[1] >= threshold for one in tests[name]]
        assert claimed["text_accuracy", name] == pytest.approx(np.mean(right))
    wrong = [answer(one.text)[1] >= threshold for one in tests["off_topic"]]
    assert claimed["text_false_acceptance", "off_topic"] == np.mean(wrong)
    assert not {split for metric, split in claimed if metric.startswith("text")} & {"validation"}


def test_the_agreement_of_the_shipped_classifier_is_found_again_by_the_server(
    exported: Exported, manifest: Manifest, served: Bundle
) -> None:
    classifier = load_bundle(
        BundleFolder("colour-teller", 10, exported.project.models / "colour-teller" / "10"), OPTIONS
    )
    agreed = 0
    for seed in range(90):
        asked = COLOURS[seed % 3]
        drawn = served.draw(f"draw {asked}", {"seed": seed, "strict": False})
        buffer = BytesIO()
        Image.fromarray(drawn.pixels[0]).save(buffer, "PNG")
        answer = classifier.predict(buffer.getvalue(), {"top_k": 1})
        agreed += answer[0]["label"] == asked  # type: ignore[index]
    of_judge, of_seeds = (one for one in manifest.quality if one.metric == "label_agreement_shipped_classifier")
    assert (of_judge.split, of_judge.n, of_seeds.split, of_seeds.n) == ("drawn", 60, "seeds 0-89", 90)
    assert of_seeds.value == pytest.approx(agreed / 90)
    assert of_seeds.value > 0.9
    assert of_judge.value > 0.9


def _rows(path: Path, columns: int = 10) -> NDArray[np.uint8]:
    """The images of a picture, as (rows, columns, height, width, channels)."""
    with Image.open(path) as image:
        sheet = np.asarray(image)[::2, ::2]  # a pixel is two wide and two high
    return sheet.reshape(len(sheet) // 12, 12, columns, 12, 3).transpose(0, 2, 1, 3, 4)


def test_the_pictures_are_what_the_server_draws(exported: Exported, served: Bundle) -> None:
    samples = _rows(exported.bundle / "samples.png")
    for row, colour in zip(samples, COLOURS, strict=True):
        np.testing.assert_array_equal(row, served.draw(None, {"label": colour, "seed": 1, "num_images": 10}).pixels)
    ways = _rows(exported.bundle / "interpolation.png")
    for row, (start, end) in zip(ways, (("blue", "red"), ("green", "green")), strict=True):
        way = {"to": {"label": end, "seed": 2}, "steps": 10}
        found = served.draw(None, {"label": start, "seed": 1, "interpolate": way}).pixels
        assert np.abs(row.astype(int) - found).max() <= 1
    terms = [{"label": "red"}, {"label": "green", "weight": -1}, {"label": "blue"}]
    found = served.draw(None, {"seed": 1, "num_images": 10, "arithmetic": terms}).pixels
    summed = _rows(exported.bundle / "arithmetic-1.png")
    assert len(summed) == 4
    assert np.abs(summed[3].astype(int) - found).max() <= 1
    np.testing.assert_array_equal(summed[0], samples[2])


def test_the_card_gives_figures_tables_and_pictures(exported: Exported, manifest: Manifest) -> None:
    card = (exported.bundle / "README.md").read_text(encoding="utf-8")
    report = load_report(exported.project.config(BESIDE), exported.project.folder("first"))
    for one in manifest.quality:
        assert f"| {one.metric} | {one.value:.4f} | {one.split} | {one.n} | fp32 | 5 |" in card
    for heading in (
        "How it was measured", "Truncation", "Agreement by class", "What it understands", "Nearest training images",
        "Speed", "What it can't do",
    ):  # fmt: skip
        assert f"\n## {heading}\n" in card
    for picture in ("samples.png", "interpolation.png", "arithmetic-1.png", "watch.png"):
        assert f"]({picture})" in card
    assert "started from weights at random and was trained on the real training part alone" in card
    assert "the text `draw {label}` with the class of the number seed mod 3" in card
    assert "| 1 (default) |" in card
    assert "\n| blue | " in card
    assert "\n| good morning | " in card
    nearest = report["nearest_training_image"]["drawn"]
    assert f"\n| drawn images | {nearest['mean']:.4f} | {nearest['smallest']:.4f} |" in card
    assert "\n## Notices" not in card, "these pictures are nobody's"


def test_the_card_says_what_the_judge_started_from_and_passes_the_licence_of_the_data_on(exported: Exported) -> None:
    folder = exported.project.folder("first")
    config = exported.project.config(BESIDE, "judge.model.initial_weights=cifar10")
    report = load_report(exported.project.config(BESIDE), folder)
    findings = Findings(report, report["drawn"], {}, {}, 0.5, 1.0, {1: 1.0})
    assert "started from the published CIFAR-10 weights resnet20-12fca82f.th (BSD-2-Clause, https://" in _how(
        findings, config
    )
    assert "The MIT License (MIT) Copyright © 2017 Zalando SE" in export_module._NOTICE.read_text(encoding="utf-8")


def test_the_command_tells_what_it_checked_and_warns_of_nothing_of_ours(exported: Exported) -> None:
    assert "images: ONNX Runtime and PyTorch agree to" in exported.said
    assert "texts: ONNX Runtime and PyTorch agree to" in exported.said
    assert "models/colours-gan/2, truncation 1" in exported.said
    assert "will not be used" not in exported.said


def test_the_golden_file_holds_both_graphs_inputs_with_the_answers_of_both(
    exported: Exported, manifest: Manifest
) -> None:
    config, folder = exported.project.config(), exported.project.folder("first")
    _, _, network = load_trained(config, folder)
    with np.load(exported.bundle / "golden.npz", allow_pickle=False) as golden:
        arrays = dict(golden)
    assert len(arrays) == (2 + 1 + 1) + (1 + 2 + 2)
    expected = arrays["framework/generator/image"]
    assert (expected.shape, expected.dtype) == ((16, 12, 12, 3), np.uint8)
    np.testing.assert_array_equal(arrays["runtime/fp32/generator/image"], expected)
    inputs = (torch.from_numpy(arrays[f"inputs/generator/{name}"]) for name in ("latent", "condition"))
    with torch.no_grad():
        drawn = network(*inputs)
    np.testing.assert_array_equal(to_pixels(drawn).permute(0, 2, 3, 1), expected)
    assert float((((drawn + 1) * 127.5 + 0.5) % 1).minimum(1 - ((drawn + 1) * 127.5 + 0.5) % 1).min()) > 1e-4
    assert (arrays["inputs/text/tokens"][0] == [1] + [0] * (arrays["inputs/text/tokens"].shape[1] - 1)).all()
    assert len(arrays["inputs/text/tokens"]) > 5
    tolerance = manifest.default.tolerance
    assert tolerance.framework == tolerance.runtime == 1e-3


def test_golden_latents_are_taken_far_from_where_a_byte_changes(exported: Exported) -> None:
    _, _, network = load_trained(exported.project.config(), exported.project.folder("first"))
    rows = golden_rows(network, None, None, seed=3)
    assert set(rows) == {"generator"}

    def margin(latents: NDArray[np.float32], conditions: NDArray[np.float32]) -> float:
        with torch.no_grad():
            places = (network(torch.from_numpy(latents), torch.from_numpy(conditions)).double() + 1) * 127.5
        return float((places - places.floor() - 0.5).abs().min())

    chosen, classes = (rows["generator"].inputs[name] for name in ("latent", "condition"))
    usual = np.random.default_rng(1).standard_normal(chosen.shape, np.float32)
    assert margin(chosen, classes) > 5 * margin(usual, classes)
    assert (classes.sum(0) >= 5).all()


# What is decided on the way


@pytest.mark.parametrize(
    ("asked", "found", "truncation"),
    [
        (0.0, {1.0: 0.5, 0.8: 0.9, 0.6: 0.95}, 1.0),
        (0.9, {1.0: 0.95, 0.8: 0.99, 0.6: 1.0}, 1.0),
        (0.9, {1.0: 0.85, 0.8: 0.9, 0.6: 0.95}, 0.8),
        (0.94, {1.0: 0.85, 0.8: 0.9, 0.6: 0.95}, 0.6),
        (0.97, {1.0: 0.85, 0.8: 0.93, 0.6: 0.91}, 0.8),
    ],
    ids=["nothing is asked", "all do", "the larger of two", "the only one", "none does"],
)
def test_the_truncation_is_the_largest_with_which_the_judge_agrees(
    asked: float, found: dict[float, float], truncation: float
) -> None:
    report = {
        "drawn": {"label_agreement": found.pop(1.0)},
        "truncated": {str(factor): {"label_agreement": share} for factor, share in found.items()},
    }
    assert choose_truncation(report, asked) == truncation


def test_without_classes_nothing_is_cut_off() -> None:
    report = {"drawn": {"frechet_distance": 1.0}, "truncated": {"0.5": {"frechet_distance": 2.0}}}
    assert choose_truncation(report, 0.9) == 1.0


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("export.caption='a picture'", "caption"),
        ("export.min_agreement=1.1", "min_agreement"),
        ("export.seeds=0", "seeds"),
        ("export.interpolations=[['blue']]", "interpolations"),
        ("export.sizes=[8]", "sizes"),
    ],
)
def test_a_configuration_that_can_not_be_exported_is_refused(project: Project, override: str, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"export\.{problem}"):
        project.config(override)


# Agreement


def _flat(*colours: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), 12, 12, 3))


def test_the_newest_version_of_a_classifier_tells_what_it_sees(tmp_path: Path) -> None:
    write_colour_teller(tmp_path / "teller" / "9", labels=("sea", "grass", "blood"))
    write_colour_teller(tmp_path / "teller" / "10")
    (tmp_path / "teller" / "notes").mkdir()
    tell = ShippedClassifier(tmp_path / "teller", COLOURS)
    assert tell.name == "teller/10"
    pixels = np.concatenate([_flat((250, 10, 10), (10, 250, 10), (0, 0, 40))] * 30)
    assert tell(pixels) == ["red", "green", "blue"] * 30


def test_a_classifier_must_be_there_and_be_one(tmp_path: Path, exported: Exported) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no model: export it first"):
        ShippedClassifier(tmp_path / "never", COLOURS)
    with pytest.raises(ValueError, match="is no classifier of images"):
        ShippedClassifier(exported.project.models / "colours-gan", COLOURS)


@pytest.fixture
def engine(exported: Exported) -> GraphEngine:
    files = {"text": exported.bundle / "text.onnx", "generator": exported.bundle / "model.onnx"}
    return GraphEngine(files, 500, COLOURS)


def _agreement(engine: GraphEngine, tell: ShippedClassifier, **changes: object) -> Agreement:
    asked = {"seeds": 31, "caption": "draw {label}", "threshold": 0.0, "truncation": 1.0, **changes}
    return measure_agreement(engine, tell, **asked)  # type: ignore[arg-type]


def test_images_of_a_prompt_that_is_refused_or_means_another_class_agree_with_nothing(
    engine: GraphEngine, exported: Exported
) -> None:
    tell = ShippedClassifier(exported.project.models / "colour-teller", COLOURS)
    found = _agreement(engine, tell)
    assert (found.n, set(found.by_class)) == (31, set(COLOURS))
    assert found.share > 0.9
    counts = {"blue": 11, "green": 10, "red": 10}
    assert found.share == pytest.approx(sum(found.by_class[name] * count for name, count in counts.items()) / 31)
    assert _agreement(engine, tell, threshold=1.1).share == 0
    always_one = _agreement(engine, tell, caption="draw scarlet, not{label}x")
    assert always_one.share < 0.7


def test_a_classifier_of_other_classes_is_refused(tmp_path: Path) -> None:
    write_colour_teller(tmp_path / "sea" / "1", labels=("sea", "grass", "blood"))
    with pytest.raises(ValueError, match=r"sea/1 tells \['sea', 'grass', 'blood'\] apart"):
        ShippedClassifier(tmp_path / "sea", COLOURS)


# Exporting again, and what is not exported


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_version_that_is_there_is_not_exported_again(exported: Exported) -> None:
    before = _digests(exported.project.models)
    with pytest.raises(FileExistsError, match=r"colours-gan/2 exists: .*--set export\.replace=true"):
        export(exported.project.config(BESIDE), exported.project.folder("first"))
    assert _digests(exported.project.models) == before


def _measured_anew(project: Project, folder: Path, *, weight: float | None) -> None:
    """Copy the first run with its evaluation, as if it had been of the weights that are now there."""
    shutil.copytree(project.folder("first"), folder)
    shutil.copytree(project.folder("plain"), folder.parent / "plain")
    if weight is not None:
        weights = torch.load(folder / "best.pt", weights_only=True)
        weights["draw.weight"][1, 5, 0, 0] = weight
        torch.save(weights, folder / "best.pt")
    report = json.loads((folder / "evaluation.json").read_bytes())
    report["of"] = identity(project.config(BESIDE), folder)
    (folder / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")


def test_a_network_that_draws_no_number_is_not_exported_and_nothing_is_left(exported: Exported, tmp_path: Path) -> None:
    _measured_anew(exported.project, tmp_path / "broken", weight=float("nan"))
    with pytest.raises(ValueError, match="ONNX Runtime differs from PyTorch by nan"):
        export(exported.project.config(BESIDE, f"export.models={tmp_path / 'models'}"), tmp_path / "broken")
    assert not (tmp_path / "models" / "colours-gan").exists()


def test_an_evaluation_of_other_weights_is_none(exported: Exported, tmp_path: Path) -> None:
    _measured_anew(exported.project, tmp_path / "moved", weight=None)
    weights = torch.load(tmp_path / "moved" / "best.pt", weights_only=True)
    weights["draw.weight"][1, 5, 0, 0] += 1
    torch.save(weights, tmp_path / "moved" / "best.pt")
    with pytest.raises(ValueError, match="is of other weights, or was measured otherwise: evaluate the run again"):
        export(exported.project.config(BESIDE, f"export.models={tmp_path / 'models'}"), tmp_path / "moved")


def test_a_run_that_was_not_evaluated_is_not_exported(exported: Exported, tmp_path: Path) -> None:
    _measured_anew(exported.project, tmp_path / "hasty", weight=None)
    (tmp_path / "hasty" / "evaluation.json").unlink()
    with pytest.raises(FileNotFoundError, match="evaluate the run first"):
        export(exported.project.config(BESIDE), tmp_path / "hasty")


def test_a_run_that_does_not_exist_cannot_be_exported(exported: Exported) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        export(exported.project.config("export.version=4"), exported.project.folder("no such run"))


def test_a_class_that_does_not_exist_is_not_shown(exported: Exported, tmp_path: Path) -> None:
    config = exported.project.config(
        BESIDE, f"export.models={tmp_path}", "export.classifier=''", "export.interpolations=[['blue', 'mauve']]"
    )
    with pytest.raises(ValueError, match="no pictures of mauve can be drawn: the classes are blue, green, red"):
        export(config, exported.project.folder("first"))
    assert not (tmp_path / "colours-gan").exists()


# Without classes


def test_a_generator_without_classes_becomes_a_bundle_too(exported: Exported, tmp_path: Path) -> None:
    config = exported.project.config(
        *PLAIN,
        f"export.models={tmp_path}",
        "export.name=anything",
        "export.interpolations=[]",
        "export.arithmetic=[]",
    )
    export(config, exported.project.folder("plain"))
    bundle = tmp_path / "anything" / "2"
    manifest = read_manifest(bundle)
    assert manifest.task == "unconditional-image-generation"
    assert manifest.preprocessing is None
    assert manifest.postprocessing == ImagesPostprocessing(latent="latent", output="image")
    assert {path.name for path in bundle.iterdir()} == {
        "README.md", "golden.npz", "interpolation.png", "manifest.json", "model.onnx", "samples.png", "watch.png",
    }  # fmt: skip
    assert {one.metric for one in manifest.quality} == {"frechet_distance", "label_entropy"}
    served = load_bundle(BundleFolder("anything", 2, bundle), OPTIONS)
    samples = _rows(bundle / "samples.png")
    drawn = served.draw(None, {"seed": 1, "num_images": 40}).pixels
    np.testing.assert_array_equal(samples.reshape(40, 12, 12, 3), drawn)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "What it understands" not in card
    assert "Agreement by class" not in card
    assert "Pupils" not in card
