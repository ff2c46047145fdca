"""What a card tells of a generator beside its figures: how they were measured, by class, of texts, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.core.card import markdown_table
from training.image_classification.data import DataSet
from training.image_classification.model import published_weights
from training.image_generation.agreement import Agreement
from training.image_generation.engine import GraphEngine
from training.image_generation.text import Understanding
from training.image_generation.train import Config

DRAWN = "drawn"
"""What images are called that are drawn for the judge."""

VALIDATION = "validation"
"""The list of texts by which the threshold was chosen."""

_LISTS = {
    VALIDATION: "texts by which the threshold was chosen, off-topic ones among them",
    "new_words": "names with a word that was not learnt, in patterns that were",
    "new_patterns": "sentences of no pattern that was learnt",
    "off_topic": "texts that mean none of the classes",
}
"""What each list of texts holds, by its name."""


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
        report: by `evaluate`.
        drawn: what the judge sees in images of the exported graph.
        shipped: what a classifier that ships sees in images, by which they are; nothing if none was asked.
        texts: how well the exported text graph understands each list of texts, by its name.
        threshold: with which it does.
        truncation: with which images are drawn unless a request says otherwise.
        milliseconds: of a row on one thread, by the number of rows of a batch.
    """

    report: Mapping[str, Any]
    drawn: Mapping[str, Any]
    shipped: Mapping[str, Agreement]
    texts: Mapping[str, Understanding]
    threshold: float
    truncation: float
    milliseconds: Mapping[int, float]


def sections(findings: Findings, engine: GraphEngine, config: Config, data: DataSet) -> dict[str, str]:
    """The sections of the card, by heading; those that don't apply are left out."""
    report = findings.report
    found = {
        "How it was measured": _how(findings, config),
        "Truncation": _by_truncation(findings, config) if report["truncated"] else "",
        "Agreement by class": _by_class(findings) if "by_class" in findings.drawn else "",
        "What it understands": _texts(findings, engine, config) if findings.texts else "",
        "Nearest training images": _nearest(report["nearest_training_image"]),
        "Speed": _speed(findings.milliseconds),
        "What it can't do": _limits(findings, config, data),
    }
    return {heading: text for heading, text in found.items() if text}


def _how(findings: Findings, config: Config) -> str:
    report, drawn = findings.report, findings.drawn
    weights = "weights at random"
    if config.judge.model.initial_weights == "cifar10":
        file = published_weights(config.judge.model.depth)
        weights = f"the published CIFAR-10 weights {file.name} (BSD-2-Clause, {file.url})"
    real = report["real"]
    judge = (
        f"What sees the images is a *judge*: a ResNet-{config.judge.model.depth} that started from {weights} and was "
        "trained on the real training part alone, before the generator. It took no part in the generator's training, "
        "chose none of its weights, and is not in this bundle. On the real test part it is right in "
        f"{_percent(report['judge_test_accuracy'])} of {real['test_n']:,} images. Everything is measured on bytes, as "
        "they are sent."
    )
    distance = (
        f"The Fréchet distance is taken on the {report['feature_width']} features of the judge's last layer, of "
        f"{drawn['n']:,} images beside the whole test part: it can be compared with the other ones here, and not with "
        f"FIDs of other features. It is {drawn['frechet_distance']:.3f} of drawn images, and "
        f"{real['frechet_distance']:.3f} of {real['n']:,} real ones of the training part"
    )
    if "baseline" in report:
        other = report["baseline"]
        distance += (
            f"; of a plain {other['recipe'].upper()} of {other['parameters']:,} parameters, trained for "
            f"{other['epochs']} epochs, it is {other['frechet_distance']:.3f}"
        )
    parts = [judge, distance + "."]
    if "label_agreement" in drawn:
        parts.append(
            "`label_agreement` is how often the judge sees the class that was asked for: "
            f"{_percent(drawn['label_agreement'])}."
        )
    if findings.shipped:
        asked = config.export
        of_judge, of_seeds = findings.shipped.values()
        parts.append(
            f"`label_agreement_shipped_classifier` is the same by `{asked.classifier}`, which ships too: "
            f"{_percent(of_judge.share)} of the same images. It is also measured of images that anybody can have over "
            f"HTTP: for each seed from 0 to {asked.seeds - 1}, the text `{asked.caption}` with the class of the number "
            f"seed mod {len(findings.drawn['by_class'])} is drawn with that seed, and classified: "
            f"{_percent(of_seeds.share)}."
        )
    if "pupils" in report:
        parts.append(_pupils(report["pupils"], config))
    return "\n\n".join(parts)


def _pupils(pupils: Mapping[str, Any], config: Config) -> str:
    return (
        f"*Pupils* are ResNet-{config.evaluate.pupil.model.depth}s that start from weights at random. One learns from "
        f"{pupils['n_train']:,} drawn images alone, with truncation 1, and is right in {_percent(pupils['gan_train'])} "
        f"of {pupils['n_test']:,} real ones (GAN-train); one that learns from as many real ones is right in "
        f"{_percent(pupils['real_accuracy'])}, and sees in {_percent(pupils['gan_test'])} of drawn images what was "
        f"asked for (GAN-test). Drawn images teach {pupils['points_below_real']:.1f} points less than real ones."
    )


def _by_truncation(findings: Findings, config: Config) -> str:
    report = findings.report
    measured = {1.0: report["drawn"], **{float(factor): found for factor, found in report["truncated"].items()}}
    measured[findings.truncation] = findings.drawn
    rows = [
        (
            f"{factor:g}" + (" (default)" if factor == findings.truncation else ""),
            f"{found['label_agreement']:.4f}" if "label_agreement" in found else "",
            f"{found['frechet_distance']:.3f}",
            f"{found['relative_spread']:.3f}" if "relative_spread" in found else "",
        )
        for factor, found in measured.items()
    ]
    head = ("truncation", "label agreement", "Fréchet distance", "spread within classes, real = 1")
    text = (
        "Latents are multiplied by it: the smaller it is, the more surely an image is of its class, and the more alike "
        "the images of a class are. "
    )
    if "label_agreement" in report["drawn"] and config.export.min_agreement:
        text += (
            "The default is the largest with which the judge agrees with "
            f"{_percent(config.export.min_agreement)} of images.\n\n"
        )
    else:
        text += "The default is 1: nothing is cut off unless a request asks for it.\n\n"
    return text + markdown_table(head, rows)


def _by_class(findings: Findings) -> str:
    columns = {"drawn, by the judge": findings.drawn["by_class"]}
    for split, found in findings.shipped.items():
        columns[f"{split}, by the shipped classifier"] = found.by_class
    columns["real, by the judge"] = findings.report["real"]["by_class"]
    rows = [
        (label, *(_share(shares.get(label)) for shares in columns.values())) for label in findings.drawn["by_class"]
    ]
    return markdown_table(("class", *columns), rows)


def _texts(findings: Findings, engine: GraphEngine, config: Config) -> str:
    rows = [
        (
            _LISTS.get(name, name),
            found.n,
            _share(found.accuracy),
            _share(found.nearest_accuracy),
            _share(found.rejected),
            _share(found.false_acceptance),
        )
        for name, found in findings.texts.items()
    ]
    head = ("texts", "n", "understood", "nearest class is right", "refused, though it means a class",
            "accepted, though it means none")  # fmt: skip
    text = (
        "There is no table of words: a text is a bag of letters' n-grams, words and pairs of words, and what it means "
        "was learnt from captions that are made of patterns and names. Below, `understood` is the share of texts that "
        "mean a class and are accepted as just this one. A text is accepted that means any class by "
        f"{findings.threshold:.3f} or more surely; with `strict` false each takes its nearest class.\n\n"
        + markdown_table(head, rows)
    )
    if not config.export.texts:
        return text
    found = engine.read(config.export.texts)
    examples = [
        (one, engine.labels[int(number)], f"{meant:.3f}", "yes" if meant >= findings.threshold else "no")
        for one, number, meant in zip(
            config.export.texts, found.conditions.argmax(1), found.meant.tolist(), strict=True
        )
    ]
    return text + "\n\n" + markdown_table(("text", "nearest class", "how surely any", "accepted"), examples)


def _nearest(found: Mapping[str, Any]) -> str:
    names = {
        "mean": "mean",
        "smallest": "smallest",
        "percentile_1": "1st percentile",
        "percentile_10": "10th percentile",
        "median": "median",
    }
    rows = [
        (name, *(f"{found[part][key]:.4f}" for key in names))
        for name, part in (("drawn images", "drawn"), ("images of the test part", "test"))
    ]
    nearer = _percent(found["drawn_nearer_than_percentile_1_of_test"])
    return (
        f"How far {found['n']:,} images lie from the training image nearest to each ({found['unit']}). A generator "
        "that repeats what it has seen would come much nearer than images do that were never seen; of the drawn ones "
        f"{nearer} come nearer than the nearest 1.0 % of those.\n\n" + markdown_table(("", *names.values()), rows)
    )


def _speed(milliseconds: Mapping[int, float]) -> str:
    rows = [(count, f"{one:.2f}") for count, one in milliseconds.items()]
    return (
        "Of the generator in ONNX Runtime, on one thread. Float32 is all there is: ONNX Runtime has no int8 kernel of "
        "the transposed convolutions, in which most of the time goes.\n\n"
        + markdown_table(("rows a batch", "ms a row"), rows)
    )


def _limits(findings: Findings, config: Config, data: DataSet) -> str:
    height, width = data.train.pixels.shape[2:]
    grey = " grey" if data.preprocessing.channels == 1 else ""
    lines = [
        f"It draws{grey} images of {width} x {height} pixels, like those of {data.name}. "
        "Other sizes are the same pixels enlarged.",
    ]
    if "by_class" in findings.drawn:
        worst = min(findings.drawn["by_class"], key=findings.drawn["by_class"].get)
        lines.append(
            f"It draws {', '.join(data.labels)}, one at a time, and nothing else. It is least sure of {worst}."
        )
        lines.append(
            "Mixtures of classes and sums of latents are played with, not measured: it was trained on pure classes."
        )
    if findings.texts:
        lines.append(
            "A text says the class and nothing more: colours, numbers, materials, places, and anything else that the "
            "images have no class for, are read over."
        )
        off = findings.texts.get("off_topic")
        if off and off.false_acceptance is not None:
            lines.append(
                "A word that shares no part with one that was learnt means nothing to it, and "
                f"{_percent(off.false_acceptance)} of texts about other things are taken for a class. It was trained "
                "on English captions."
            )
    lines.append(
        "What a seed draws belongs to this version; another processor may round a few bytes to the one beside."
    )
    return "\n".join(f"- {line}" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
