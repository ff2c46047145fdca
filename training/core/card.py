"""The model card: `README.md` of a bundle, rendered from its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from service.manifest import Manifest, Source


def render_card(
    manifest: Manifest, *, name: str, pictures: Mapping[str, str], tables: Mapping[str, str], notices: Sequence[Path]
) -> str:
    """Render the card.

    Args:
        manifest: of the bundle; its own entry for the card may still be missing.
        name: of the model.
        pictures: file names in the bundle, by caption.
        tables: Markdown tables, by heading.
        notices: texts that licences of data and weights oblige to pass on.

    Raises:
        ValueError: the manifest has no provenance.
    """
    origin = manifest.provenance
    if origin is None:
        raise ValueError("a card says where a model comes from, and this manifest does not")
    facts = [
        f"- task: `{manifest.task}`, served at `/predict/{name}`",
        f"- parameters: {manifest.parameters:,}",
        f"- default variant: `{manifest.default_variant}` of {', '.join(f'`{one}`' for one in manifest.variants)}",
    ]
    origins = [
        f"- trained on {origin.training_hardware} in {origin.training_seconds / 60:.0f} minutes, seed {origin.seed}, "
        f"commit `{origin.commit}`, exported {origin.created}",
        f"- data: {_source(origin.data)}",
        *([f"- initial weights: {_source(origin.initial_weights)}"] if origin.initial_weights else []),
        f"- tools: {', '.join(f'{tool} {version}' for tool, version in origin.tools.items())}; opset {origin.opset}",
    ]
    sections = [
        f"# {manifest.title}",
        manifest.description,
        "\n".join(facts),
        "## Quality",
        _quality(manifest),
        *(part for heading, table in tables.items() for part in (f"## {heading}", table)),
        *(f"![{caption}]({file})" for caption, file in pictures.items()),
        "## Where it comes from",
        "\n".join(origins),
        "The whole configuration, and the sha256 of every file, are in `manifest.json`.",
        *(["## Notices"] if notices else []),
        *(f"```\n{path.read_text(encoding='utf-8').strip()}\n```" for path in notices),
    ]
    return "\n\n".join(sections) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of texts as they are."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def variants_table(
    bundle: Path, files: Mapping[str, str], measure: str, values: Mapping[str, float], seconds: Mapping[str, float]
) -> str:
    """A Markdown table of variants: how good, how large and how fast each is.

    Args:
        bundle: the folder.
        files: of the graph, by variant; `fp32` is what speeds are compared with.
        measure: what `values` are.
        values: by variant.
        seconds: a row of a batch of 32 on one thread, by variant.
    """
    rows = [
        (
            name,
            f"{values[name]:.4f}",
            f"{(bundle / file).stat().st_size / 1024:.0f} kB",
            f"{seconds['fp32'] / seconds[name]:.2f} x",
        )
        for name, file in files.items()
    ]
    return markdown_table(("variant", measure, "file", "speed (batch 32, one thread)"), rows)


def _quality(manifest: Manifest) -> str:
    rows = [
        (
            figure.metric,
            f"{figure.value:.4f}",
            figure.split,
            figure.n,
            figure.variant,
            _seeds(figure.seeds),
            figure.hardware,
        )
        for figure in manifest.quality
    ]
    return markdown_table(("metric", "value", "split", "n", "variant", "seed", "measured on"), rows)


def _seeds(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


def _source(source: Source) -> str:
    return f"{source.name} ({source.licence}), {source.url}"
