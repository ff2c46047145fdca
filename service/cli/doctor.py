"""The command `doctor`: what a server would run on and with, what it would serve, and what is wrong with any of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from service.cli.parsing import Commands
from service.errors import InferdError
from service.machine import allow_files, cpu_quota, memory_limit, processor
from service.metrics import Metrics
from service.repository.scan import scan
from service.security.access import Access
from service.security.tls import Tls
from service.settings import ENV_PREFIX, Settings
from service.workers.sizing import count_workers, files_of

_PACKAGES = ("onnx", "numpy", "pillow", "tokenizers", "fastapi", "uvicorn", "grpcio")
_LEAST_FREE_BYTES = 64 * 2**20

Section = Mapping[str, object]


def add_commands(commands: Commands) -> None:
    """Add the command to those of `inferd`."""
    doctor = commands.add_parser("doctor", help="say what a server would run on and serve, and what is wrong with it")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(settings: Settings, given: argparse.Namespace) -> int:
    found, problems = examine(settings)
    if given.json:
        print(json.dumps({**found, "problems": problems}, indent=2))
    else:
        for title, section in found.items():
            print(f"{title}:")
            for name, value in section.items():
                print(f"  {name}: {value}")
        print("problems: none" if not problems else "problems:")
        for problem in problems:
            print(f"  {problem}")
    return 1 if problems else 0


def examine(settings: Settings) -> tuple[dict[str, Section], list[str]]:
    """Look at the machine, what is installed, the settings and the models, which are loaded and replayed.

    Returns:
        What was found, by section, ready for JSON; and each problem, in a sentence.
    """
    problems: list[str] = []
    found = {
        "versions": _versions(),
        "machine": _machine(settings, problems),
        "runtime": _runtime(settings, problems),
        "settings": _changed(settings),
        "models": _models(settings, problems),
    }
    problems += _unusable(settings)
    return found, problems


def _versions() -> Section:
    names = {"inferd": version("inferd"), "python": platform.python_version()}
    return names | {name: version(name) for name in _PACKAGES if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _machine(settings: Settings, problems: list[str]) -> Section:
    workers = count_workers(settings)
    needed = files_of(settings, workers)
    files = allow_files(needed)
    if files < needed:
        problems.append(
            f"a process may open {files} files, and with INFERD_MAX_CONNECTIONS={settings.max_connections} each of "
            f"{workers} workers needs {needed}: raise the limit (ulimit -n), or lower the setting"
        )
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": cpu_quota(),
        "memory_bytes": memory_limit(),
        "open_files": files,
        "workers": workers,
    }


def _runtime(settings: Settings, problems: list[str]) -> Section:
    from service.runtime.devices import available_providers, choose_providers, runtime_version

    try:
        chosen: list[str] = list(choose_providers(settings.device, tensorrt=settings.tensorrt))
    except ValueError as error:
        problems.append(str(error))
        chosen = []
    return {"onnxruntime": runtime_version(), "providers": available_providers(), "chosen": chosen}


def _changed(settings: Settings) -> Section:
    """The settings that are not as they come; of secrets only that they are set."""
    shown = settings.model_dump(mode="json")
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    return {
        f"{ENV_PREFIX}{name.upper()}": value
        for name, value in shown.items()
        if getattr(settings, name) != defaults[name]
    }


def _models(settings: Settings, problems: list[str]) -> Section:
    from service.repository.bundle import LoadOptions, verify_bundle

    try:
        options = LoadOptions.of(settings)
    except ValueError:
        return {}  # said already
    if not settings.models.is_dir():
        problems.append(f"the models folder {settings.models} does not exist (INFERD_MODELS)")
        return {}
    found = {}
    for folder in scan(settings.models):
        name = f"{folder.name} {folder.version}"
        try:
            manifest = verify_bundle(folder, options)
        except (InferdError, OSError) as error:
            found[name] = f"refused: {error}"
            problems.append(f"model {name} is refused: {error}")
        else:
            found[name] = f"ok: {manifest.task}, {', '.join(manifest.variants)}, replayed"
    if not found:
        problems.append(f"there is no model in {settings.models} (INFERD_MODELS)")
    return found


def _unusable(settings: Settings) -> Iterator[str]:
    """What a server would refuse to start with, or would soon be in want of."""
    try:
        Access.of(settings, Metrics(version("inferd")))
        Tls.of(settings)
    except (OSError, ValueError) as error:
        yield str(error)
    if settings.profile_cache is not None:
        folder = settings.profile_cache.expanduser()
        there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
        if not os.access(there, os.W_OK):
            yield f"{folder} can't be written, so times are measured at each start (INFERD_PROFILE_CACHE)"
        elif (free := shutil.disk_usage(there).free) < _LEAST_FREE_BYTES:
            yield f"of the disk of {there} only {free} bytes are free"
