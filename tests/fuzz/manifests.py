"""Bundles with odd manifests, labels, vocabularies and tokenizers: each is refused with a reason, or loads."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from random import Random
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from service.errors import BundleRefused
from service.manifest import MANIFEST_FILE, read_manifest
from service.repository.bundle import LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.bundles import sign
from tests.fuzz.edits import Change, Edit, changed, changes, edited, edits, edits_by, to_json
from tests.fuzz.playing import Finding, Target

LONGEST_S: Final = 10.0

SOURCES: Final = {
    "tiny": ("labels.json",),
    "tiny-text": ("vocab.json",),
    "tiny-en-de": ("tokenizer.json",),
    "tiny-painter": ("labels.json",),
}
"""The bundles to start from, and their assets that are damaged."""

Case = tuple[str, str, list[Change], list[Edit]]


@st.composite
def _cases(draw: DrawFn) -> Case:
    """A bundle; which of its files is damaged, or "read" where its manifest is read and nothing else; and how."""
    name = draw(st.sampled_from(tuple(SOURCES)))
    file = draw(st.sampled_from(("read",) * 12 + (MANIFEST_FILE, *SOURCES[name])))
    as_json = draw(st.booleans())
    return name, file, draw(changes) if as_json else [], [] if as_json else draw(edits)


class Manifests:
    """Bundles that are made and loaded here, in this process."""

    cases = _cases()
    variants = 9

    def __init__(self, target: Target) -> None:
        self._options = LoadOptions.of(Settings(device="cpu", threads=1))
        self._folder = target.scratch
        for name in SOURCES:
            shutil.copytree(target.bundles / name, self._folder / name)

    def vary(self, case: Case, random: Random) -> Case:
        """Edit the file besides."""
        name, file, wanted, _ = case
        return name, file, wanted, edits_by(random)

    def attempt(self, case: Case, _number: int) -> str:
        """Damage a bundle, load it, and mend it."""
        name, file, wanted, bytewise = case
        bundle = self._folder / name / "1"
        path = bundle / (MANIFEST_FILE if file == "read" else file)
        before = {one: one.read_bytes() for one in {path, bundle / MANIFEST_FILE}}
        content = before[path]
        if wanted:
            content = to_json(changed(json.loads(content), wanted))
        content = edited(content, bytewise)
        path.write_bytes(content)
        if file not in ("read", MANIFEST_FILE):
            sign(bundle)
        began = time.monotonic()
        try:
            if file == "read":
                read_manifest(bundle)
            else:
                load_bundle(BundleFolder(name, 1, bundle), self._options)
            outcome = "loads"
        except BundleRefused:
            outcome = "refused"
        except BaseException as error:
            raise Finding(f"{file} of {name}: {type(error).__name__}: {error}"[:600], content) from error
        finally:
            for one, old in before.items():
                one.write_bytes(old)
        if (seconds := time.monotonic() - began) > LONGEST_S:
            raise Finding(f"{file} of {name} took {seconds:.1f} s", content)
        return f"{outcome}" if file == "read" else f"{outcome} (all)"

    def close(self) -> None:
        """Nothing is open."""


def make_sources(folder: Path) -> None:
    """Make the bundles to start from."""
    from tests.bundles import make_bundle
    from tests.image_bundles import make_image_bundle
    from tests.text_bundles import make_text_bundle
    from tests.translation_bundles import make_translation_bundle

    makers: dict[str, Any] = {
        "tiny": make_bundle,
        "tiny-text": make_text_bundle,
        "tiny-en-de": make_translation_bundle,
        "tiny-painter": make_image_bundle,
    }
    for name, make in makers.items():
        make(folder, name)
