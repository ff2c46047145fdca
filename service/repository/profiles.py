"""How long a bundle's graphs take: said by somebody, kept from the last time, or measured.

A measurement holds for as long as nothing changes that it depends on: the bundle's files, ONNX Runtime, the processor,
the cores that may be used, threads, the execution provider, and how large batches may get.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from service.batching.policy import LatencyProfile
from service.machine import cpu_quota, processor
from service.manifest import MANIFEST_FILE, MODEL_FILE
from service.repository.bundle import Bundle
from service.repository.placement import Points, Profiles
from service.runtime.devices import runtime_version
from service.settings import Settings

logger = logging.getLogger(__name__)

_BUDGET_S, _OTHERS_BUDGET_S = 1.0, 0.2
"""For timing the graph that batches are made for, and for each other graph."""


class _Kept(msgspec.Struct, frozen=True):
    """A file of the cache: what was measured, and of what."""

    of: dict[str, str | int]
    profiles: dict[str, Points]


@dataclass(frozen=True)
class Profiling:
    """How it is found out how long runs take.

    Attributes:
        measures: whether they are timed where nobody has said it.
        given: what somebody has said, by `name` or `name/version` of a model, for some of its graphs or all.
        cache: the folder in which measurements are kept; None = nowhere.
    """

    measures: bool = True
    given: Mapping[str, Profiles] = field(default_factory=dict)
    cache: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Profiling:
        """How `settings` ask for it.

        Raises:
            ValueError: the file that they name does not say how long runs take.
            OSError: it can't be read.
        """
        asked = settings.profile
        given = _read_given(asked) if isinstance(asked, Path) else {}
        return cls(measures=asked != "off", given=given, cache=_at_home(settings.profile_cache))

    def profiles_of(self, bundle: Bundle) -> Profiles:
        """How long each graph of `bundle` takes, by role; where nothing is known and nothing measured, none is there.

        This takes up to about a second and blocks.
        """
        name, roles = bundle.folder.name, bundle.task.graphs
        said = self.given.get(f"{name}/{bundle.folder.version}", self.given.get(name, {}))
        found = {role: said[role] for role in roles if role in said}
        unknown = [role for role in roles if role not in found]
        if not unknown or not self.measures:
            return found
        of = _depends_on(bundle)
        kept = self._read(name, of)
        measured = {role: kept[role] if role in kept else _measure(bundle, role) for role in unknown}
        measured = {role: points for role, points in measured.items() if points}
        if measured.keys() - kept.keys():
            self._keep(name, _Kept(of, {**kept, **measured}))
        return {**found, **measured}

    def _read(self, name: str, of: Mapping[str, str | int]) -> Profiles:
        if not self.cache:
            return {}
        try:
            kept = msgspec.json.decode(_file(self.cache, name, of).read_bytes(), type=_Kept)
            for points in kept.profiles.values():
                LatencyProfile(points)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("what was kept of how long %s takes is not used: %s", name, error)
            return {}
        return kept.profiles if kept.of == of else {}

    def _keep(self, name: str, kept: _Kept) -> None:
        if not self.cache:
            return
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache) as half:  # nobody reads what is not yet whole
                written = Path(half) / "profile.json"
                written.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
                os.replace(written, _file(self.cache, name, kept.of))
        except OSError as error:
            logger.info("how long %s takes is not kept, and will be measured again: %s", name, error)


def _at_home(folder: Path | None) -> Path | None:
    """The folder that is meant, if any is: whoever has no home can't have one in there."""
    try:
        return folder.expanduser() if folder else None
    except RuntimeError as error:
        logger.info("what is measured is not kept: %s", error)
        return None


def _measure(bundle: Bundle, role: str) -> Points:
    budget_s = _BUDGET_S if role == bundle.task.graphs[-1] else _OTHERS_BUDGET_S
    return bundle.measure_latency(role, budget_s=budget_s)


def _depends_on(bundle: Bundle) -> dict[str, str | int]:
    """All that a measurement depends on."""
    folder = bundle.folder
    # A manifest has the digest of every other file.
    with (folder.path / (MODEL_FILE if folder.is_bare else MANIFEST_FILE)).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "bundle": digest,
        "variant": bundle.variant,
        "onnxruntime": runtime_version(),
        "processor": processor(),
        "cores": cpu_quota(),
        "threads": bundle.session.threads,
        "provider": bundle.session.provider,
        "rows": bundle.most_rows,
        "clock": "of the thread" if bundle.session.is_of_one_thread else "of the wall",
    }


def _file(cache: Path, name: str, of: Mapping[str, str | int]) -> Path:
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return cache / f"{name}-{digest[:16]}.json"


def _read_given(path: Path) -> dict[str, Profiles]:
    try:
        given = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Points]])
    except ValueError as error:
        raise ValueError(
            f'{path} (INFERD_PROFILE) must have {{"model": {{"graph": [[rows, seconds], ...]}}}}: {error}'
        ) from error
    for name, profiles in given.items():
        for role, points in profiles.items():
            try:
                LatencyProfile(points)
            except ValueError as error:
                raise ValueError(f"{path} (INFERD_PROFILE), {name}, {role}: {error}") from error
    return {name: dict(profiles) for name, profiles in given.items()}
