"""The commands about the folder of models: `models`, `verify` and `import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.cli.parsing import Commands
from service.errors import BundleRefused, InferdError
from service.manifest import TENSORS, read_manifest
from service.repository.scan import scan
from service.settings import Settings


def add_commands(commands: Commands) -> None:
    """Add the commands to those of `inferd`."""
    models = commands.add_parser("models", help="list the models in the folder")
    models.set_defaults(run=_models)

    verify = commands.add_parser("verify", help="check every file and replay every variant of every model")
    verify.set_defaults(run=_verify)

    add = commands.add_parser("import", help="make a bundle of an ONNX file, with golden outputs of its own")
    add.add_argument("file", type=Path, metavar="model.onnx")
    add.add_argument("--name", required=True, help="of the model")
    add.add_argument("--version", type=int, help="default: one more than the highest there is")
    add.add_argument("--title", help="what people call it; default: its name")
    add.add_argument("--licence", help="under which it may be used")
    add.add_argument("--labels", type=Path, metavar="labels.json", help="names of classes, in the order of the output")
    add.add_argument(
        "--golden", type=Path, metavar="inputs.npz", help="inputs to replay, by name, where none can be made up"
    )
    add.add_argument(
        "--not-finite", choices=["pass", "refuse"], default="pass", help="what becomes of NaN and infinity in answers"
    )
    add.set_defaults(run=_import)


def _models(settings: Settings, _: argparse.Namespace) -> int:
    for folder in scan(settings.models):
        if folder.is_bare:
            print(f"{folder.name}\t{folder.version}\t{TENSORS}\t-\tno manifest: served as its graph")
            continue
        try:
            manifest = read_manifest(folder.path)
        except BundleRefused as error:
            print(f"{folder.name}\t{folder.version}\trefused: {error}")
            continue
        served = [figure for figure in manifest.quality if figure.variant == manifest.default_variant]
        figures = ", ".join(f"{figure.metric} {figure.value:.4g} ({figure.split})" for figure in served[:2])
        print(f"{folder.name}\t{folder.version}\t{manifest.task}\t{manifest.default_variant}\t{figures}")
    return 0


def _verify(settings: Settings, _: argparse.Namespace) -> int:
    from service.repository.bundle import LoadOptions, verify_bundle

    refused = 0
    for folder in scan(settings.models):
        try:
            manifest = verify_bundle(folder, LoadOptions.of(settings))
            print(f"{folder.name} {folder.version}: ok ({', '.join(manifest.variants)})")
        except InferdError as error:
            refused += 1
            print(f"{folder.name} {folder.version}: refused: {error}")
    return 1 if refused else 0


def _import(settings: Settings, given: argparse.Namespace) -> int:
    from service.repository.bundle import LoadOptions
    from service.repository.importing import Import, import_model

    wanted = Import(
        given.file,
        given.name,
        given.version,
        given.title,
        given.licence,
        labels=given.labels,
        golden=given.golden,
        not_finite=given.not_finite,
    )
    made = import_model(settings.models, wanted, LoadOptions.of(settings))
    (graph,) = made.manifest.default.graphs.values()
    how = "requests share runs" if graph.batched else "requests run one by one"
    why = f": {made.no_batch}" if made.no_batch else ""
    print(f"{made.folder.name} {made.folder.version}: written to {made.folder.path}; {how}{why}")
    return 0
