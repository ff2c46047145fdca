"""Making a bundle of an ONNX file that was trained elsewhere: its manifest and golden outputs come from the graph.

What the golden outputs prove is less than those of a model trained here: that the graph answers on this machine as it
did on the one where it was imported.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BadInput, BundleRefused
from service.manifest import (
    GOLDEN_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    NAME_PATTERN,
    Graph,
    Manifest,
    Tensor,
    Tolerance,
    Variant,
    file_entry,
)
from service.repository.bare import GRAPH, VARIANT, Probed, describe, open_bare, probe
from service.repository.bundle import LoadOptions, load_bundle
from service.repository.golden import GoldenMismatch, restored, stored
from service.repository.scan import BundleFolder, scan
from service.runtime.devices import CPU
from service.tensors import DTYPES, Arrays

_HIGHEST_VERSION = 999_999_999
_TOLERANCE = 1e-3
_CARD = "README.md"


@dataclass(frozen=True)
class Import:
    """What to make a bundle of.

    Attributes:
        file: the ONNX file.
        name: of the model.
        version: None = one more than the highest there is.
        title: what people call it; None = its name.
        licence: under which it may be used, if that is known.
        labels: a JSON file, the list of class names in the order of the output.
        golden: an npz file with an array for each input, where the graph takes none that could be made up.
        not_finite: see `Manifest`.
    """

    file: Path
    name: str
    version: int | None = None
    title: str | None = None
    licence: str | None = None
    labels: Path | None = None
    golden: Path | None = None
    not_finite: Literal["pass", "refuse"] = "pass"


@dataclass(frozen=True)
class Imported:
    """A bundle that was made.

    Attributes:
        folder: where it lies.
        manifest: its contract.
        no_batch: why requests will not share runs, where the graph looks as if they might.
    """

    folder: BundleFolder
    manifest: Manifest
    no_batch: str | None


def import_model(models: Path, wanted: Import, options: LoadOptions) -> Imported:
    """Write the bundle; it is loaded and replayed once before anyone can see it.

    Args:
        models: the folder of all models; it is made if there is none.
        wanted: what to make a bundle of.
        options: how bundles are loaded here; the golden outputs are a CPU's, whatever they say.

    Raises:
        BadInput: the name or version is none that could be served, or the golden inputs don't fit the graph.
        FileExistsError: there is that version already.
        BundleRefused: the graph can't be served, or does not answer alike twice.
    """
    if not re.fullmatch(NAME_PATTERN, wanted.name):
        raise BadInput(f"a model's name is like {NAME_PATTERN}, not {wanted.name!r}")
    version = _next_version(models, wanted.name) if wanted.version is None else wanted.version
    if not 1 <= version <= _HIGHEST_VERSION:
        raise BadInput(f"a version is a whole number from 1 to {_HIGHEST_VERSION}, not {version}")
    options = replace(options, providers=(CPU,))
    with _new_folder(models / wanted.name, str(version)) as (folder, target):
        shutil.copyfile(wanted.file, folder / MODEL_FILE)
        if wanted.labels:
            shutil.copyfile(wanted.labels, folder / LABELS_FILE)
        manifest, no_batch = _write(folder, wanted, options)
        try:
            load_bundle(BundleFolder(wanted.name, version, folder), options)
        except GoldenMismatch as error:
            raise BundleRefused(
                error.file, f"{error.problem}: it does not answer alike twice. It can only be served without a manifest"
            ) from error
    return Imported(BundleFolder(wanted.name, version, target), manifest, no_batch)


def _next_version(models: Path, name: str) -> int:
    found = scan(models) if models.is_dir() else []
    return max((one.version for one in found if one.name == name), default=0) + 1


@contextmanager
def _new_folder(model: Path, version: str) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder, and rename it to `version` at the end; nothing is left of it when the block raises."""
    target = model / version
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} exists: a version is never overwritten")
    model.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{version}-", dir=model))
    try:
        temporary.chmod(0o755)
        yield temporary, target
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it holds other versions, as it mostly does
            model.rmdir()


def _write(folder: Path, wanted: Import, options: LoadOptions) -> tuple[Manifest, str | None]:
    """Write all that the bundle needs beside its graph; return its manifest, and why there is no batch after all."""
    session = open_bare(folder, providers=options.providers, threads=options.threads)
    given = _read_inputs(wanted.golden, session.graph) if wanted.golden else None
    probed = probe(session, given)
    if probed.example is None:
        raise BundleRefused(
            MODEL_FILE,
            f"does not run on inputs made up for it (numbers from 0 to 1, axes of some sizes): {probed.no_example}. "
            "Say which inputs it takes: --golden inputs.npz, with an array for each by its name",
        )
    outputs = session.run(probed.example)
    session.graph = probed.graph
    golden = {
        **{f"inputs/{GRAPH}/{name}": stored(array) for name, array in probed.example.items()},
        **{f"runtime/{VARIANT}/{GRAPH}/{name}": stored(array) for name, array in outputs.items()},
    }
    np.savez_compressed(folder / GOLDEN_FILE, allow_pickle=False, **golden)
    manifest = describe(folder, session, title=wanted.title or wanted.name).model_copy(
        update={
            "variants": {
                VARIANT: Variant(graphs={GRAPH: probed.graph}, tolerance=Tolerance(runtime=_tolerance(outputs)))
            },
            "golden": GOLDEN_FILE,
            "licence": wanted.licence,
            "not_finite": wanted.not_finite,
        }
    )
    (folder / _CARD).write_text(_card(wanted.name, manifest, probed), encoding="utf-8")
    files = {**manifest.files, **{name: file_entry(folder / name) for name in (GOLDEN_FILE, _CARD)}}
    manifest = Manifest.model_validate({**manifest.model_dump(), "files": files})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest, probed.no_batch


def _tolerance(outputs: Arrays) -> float:
    """How far floats may lie from these on another processor, which adds in another order."""
    largest = 1.0
    for array in outputs.values():
        if array.dtype.kind == "f" or array.dtype == DTYPES["BF16"]:
            numbers = np.abs(array.astype(np.float64))
            largest = max(largest, float(numbers[np.isfinite(numbers)].max(initial=0.0)))
    return _TOLERANCE * largest


def _read_inputs(file: Path, graph: Graph) -> Arrays:
    """Read golden inputs that somebody chose."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays.items())
    except OSError as error:
        raise BadInput(f"{file} can't be read ({error.strerror or error})") from error
    except Exception as error:  # zipfile, its decompressors and NumPy raise a dozen unrelated classes
        raise BadInput(f"{file} is no npz file without pickled objects ({error})") from error
    names = [tensor.name for tensor in graph.inputs]
    if set(found) != set(names):
        raise BadInput(f"{file} must have the arrays {names}, not {sorted(found)}")
    return {tensor.name: _fitting(tensor, found[tensor.name]) for tensor in graph.inputs}


def _fitting(tensor: Tensor, array: NDArray[Any]) -> NDArray[Any]:
    try:
        fit = restored(array, tensor.datatype)
    except ValueError as error:
        raise BadInput(f"golden input {tensor.name!r}: {error}") from error
    if not np.can_cast(fit.dtype, DTYPES[tensor.datatype], "same_kind") or not tensor.accepts(fit.shape):
        raise BadInput(
            f"golden input {tensor.name!r} is {fit.dtype} {fit.shape}; the graph takes {tensor.datatype} {tensor.shape}"
        )
    return fit.astype(DTYPES[tensor.datatype], copy=False)


def _card(name: str, manifest: Manifest, probed: Probed) -> str:
    batch = (
        "Requests share runs: the first axis of every tensor is the batch."
        if probed.graph.batched
        else f"Requests run one by one{f': {probed.no_batch}' if probed.no_batch else ''}."
    )
    tensors: Mapping[str, tuple[Tensor, ...]] = {"input": probed.graph.inputs, "output": probed.graph.outputs}
    rows = [
        f"| {kind} | `{tensor.name}` | {tensor.datatype} | {_shape(tensor)} |"
        for kind, those in tensors.items()
        for tensor in those
    ]
    sections = [
        f"# {manifest.title}",
        f"An ONNX graph that was imported as it is, served at `/v2/models/{name}` and `/predict/{name}`. {batch}",
        f"- parameters: {manifest.parameters:,}\n- licence: {manifest.licence or 'not stated'}\n"
        f"- sha256: `{manifest.files[MODEL_FILE].sha256}`",
        "\n".join(["| | name | datatype | shape |", "| --- | --- | --- | --- |", *rows]),
        f"The outputs in `{GOLDEN_FILE}` are the graph's own, on the inputs that lie there. "
        "They show that it still answers as it did when it was imported, not that it is good.",
    ]
    return "\n\n".join(sections) + "\n"


def _shape(tensor: Tensor) -> str:
    return "any" if tensor.shape is None else f"({', '.join(map(str, tensor.shape))})"
